import {
  deleteIcon, infoIcon, listIcon, notebookIcon, runIcon, stopIcon, terminalIcon
} from '@jupyterlab/ui-components';
import * as React from 'react';
import type { PodRow } from '../api/schema';
import { clock, perHour, span } from '../model/format';
import { podCell } from '../model/opening';
import {
  gauges, leftS, placeText, podStamp, rateOf, ready, rests, SOON_S, stopsText, usedText
} from '../model/pods';
import { WARMTHS } from '../model/warmth';
import { age, ageS } from '../model/workers';
import { EventLine } from './activity';
import { useHands } from './context';
import { Cost, Fact, Frame } from './frame';
import { Gauges } from './gauges';
import { useAnswer, useChanges, useNow } from './hooks';
import { Act, Trouble } from './parts';
import { VirtualList } from './virtual';
import { WhyStory } from './why';

/** A pod: how it is, what it costs, when it ends; open, what can be done with it. */
export function PodRowView({ row }: { row: PodRow }): React.ReactElement {
  const { state, actions, view } = useHands();
  useChanges(actions.changed, view.changed);
  const now = useNow(state.attentive, 5000);
  const doing = actions.doing.get(row.name);
  const failed = actions.failed.get(row.name);
  const { summary } = state;
  const lasted = summary && age(ageS(row.reasonSinceUs, summary, state.summaryAt, now));
  const since = doing || lasted === null ? undefined : lasted === 'now' ? 'just now' : lasted;
  return (
    <Frame
      kind="pod"
      row={row}
      said={doing ? `${doing}…` : row.state}
      since={since}
      mark={doing ? 'stopping' : row.state}
      cost={<Cost row={row} rate={rateOf(row)} />}
      figures={<Figures row={row} busy={doing !== undefined} />}
    >
      {failed && <Trouble failure={failed} onClose={() => actions.forget(row.name)} />}
      {view.open === row.name && <Details row={row} busy={doing !== undefined} />}
    </Frame>
  );
}

function Figures({ row, busy }: { row: PodRow; busy: boolean }): React.ReactElement {
  return (
    <>
      <div className="nbgpu-Row-figures">
        <span className="nbgpu-Row-numbers">
          <span title="where it runs, and on what">{placeText(row)}</span>
          {!rests(row) && <span title="now">{perHour(rateOf(row))}</span>}
          {ready(row) && row.kernel !== row.state && <span>kernel {row.kernel}</span>}
          {ready(row) && <span title="memory, and processor time as a share of one core">{usedText(row)}</span>}
        </span>
      </div>
      <Ending row={row} busy={busy} />
    </>
  );
}

/** `stops in 12 min: idle`, and a way to put it off. */
function Ending({ row, busy }: { row: PodRow; busy: boolean }): React.ReactElement | null {
  const { state, actions } = useHands();
  const { summary, summaryAt } = state;
  const near = summary !== null && (leftS(row, summary, summaryAt, Date.now()) ?? Infinity) < 2 * SOON_S;
  const now = useNow(state.attentive && row.stopsAtUs !== null, near ? 1000 : 10_000);
  const left = summary && leftS(row, summary, summaryAt, now);
  if (left === null) {
    return null;
  }
  return (
    <div className={`nbgpu-Row-figures nbgpu-Ending${left < SOON_S ? ' nbgpu-mod-soon' : ''}`}>
      <span className="nbgpu-Row-numbers" title={`at ${clock(row.stopsAtUs ?? 0)}`}>
        {stopsText(row, left)}
      </span>
      <button
        type="button"
        className="nbgpu-Chip"
        aria-label={`Extend ${row.name}: it stops no sooner than in 30 minutes`}
        disabled={busy}
        onClick={() => void actions.extend(row.name, 1800)}
      >
        extend
      </button>
    </div>
  );
}

function Details({ row, busy }: { row: PodRow; busy: boolean }): React.ReactElement {
  const { actions, pods, view } = useHands();
  const { name } = row;
  const { told, problem } = useAnswer(pods.read, name, podStamp(row));
  const box = React.useRef<HTMLDivElement>(null);
  const events = React.useRef<HTMLButtonElement>(null);
  const listed = view.events === name;
  const closeWhy = (): void => {
    view.set({ why: null });
    box.current?.querySelector<HTMLElement>(`[data-why="${name}"]`)?.focus();
  };
  const full = told?.nbgpu;
  return (
    <div ref={box} className="nbgpu-Details" role="region" aria-label={`Details of ${name}`}>
      <div className="nbgpu-Buttons">
        <Act
          label="Notebook"
          about={`Open a notebook in ${name}`}
          icon={notebookIcon}
          primary
          disabled={busy || !ready(row)}
          onClick={() => pods.notebook(name)}
          cell={podCell('kernel', name)}
        />
        <Act
          label="Terminal"
          about={`Open a terminal in ${name}`}
          icon={terminalIcon}
          disabled={busy || !ready(row)}
          onClick={() => pods.terminal(name)}
          cell={null}
        />
        {rests(row) ? (
          <Act
            label="Start"
            about={`Start ${name}`}
            icon={runIcon}
            disabled={busy}
            onClick={() => void actions.startPod(name)}
            cell={podCell('start', name)}
          />
        ) : (
          <Act
            label="Stop"
            about={`Stop ${name}`}
            icon={stopIcon}
            disabled={busy || row.state === 'stopping'}
            onClick={() => void actions.stopPod(name)}
            cell={podCell('stop', name)}
          />
        )}
        <Act
          label="Why?"
          about={`Why? ${name}`}
          icon={infoIcon}
          subject={name}
          expanded={view.why === name}
          onClick={() => view.wonder(name)}
          cell={podCell('why', name)}
        />
        <Act
          label="Events"
          about={`Events of ${name}`}
          icon={listIcon}
          button={events}
          expanded={listed}
          onClick={() => view.set({ events: listed ? null : name })}
          cell={podCell('events', name)}
        />
        <Act
          label="Delete"
          about={`Delete ${name}`}
          icon={deleteIcon}
          disabled={busy}
          danger
          onClick={() => pods.remove(name)}
          cell={podCell('delete', name)}
        />
      </div>
      {!rests(row) && (
        <div className="nbgpu-Buttons nbgpu-Warm" role="group" aria-label={`Extend ${name}`}>
          <span className="nbgpu-Label">Let it run at least another</span>
          {WARMTHS.map(([seconds, label]) => (
            <Act
              key={seconds}
              label={label}
              about={`Extend ${name} by ${label}`}
              disabled={busy}
              onClick={() => void actions.extend(name, seconds)}
              cell={podCell('extend', name, { '--for': seconds })}
            />
          ))}
        </div>
      )}
      {view.why === name && (
        <WhyStory subject={name} mark={podStamp(row)} rate={() => rateOf(row)} onClose={closeWhy} />
      )}
      {listed && (
        <Events
          name={name}
          onClose={() => {
            view.set({ events: null });
            events.current?.focus();
          }}
        />
      )}
      {problem && <Trouble failure={problem} />}
      {!rests(row) && <Gauges of={name} gauges={gauges(row, told)} />}
      <dl className="nbgpu-Facts">
        {full && row.isolation !== null && <Fact name="isolation" text={full.isolationText} />}
        {full?.network === 'none' && <Fact name="network" text="none: it reaches nothing" />}
        {full && (
          <Fact
            name="ends"
            text={
              [
                full.limits.idleStopS !== null && `after ${span(full.limits.idleStopS)} without use`,
                full.limits.untilUs !== null && `at ${clock(full.limits.untilUs)}`,
                full.limits.maxCost !== null && `when it has cost $${full.limits.maxCost}`
              ]
                .filter(Boolean)
                .join(', ') || 'never by itself'
            }
          />
        )}
        <Fact name="kernel" text={row.kernel} />
        {full && (
          <Fact name="volume" text={row.volumeName ?? 'its own'} title={`${full.workspace} is its /workspace`} />
        )}
        {full && full.requirements.length > 0 && <Fact name="packages" text={full.requirements.join(', ')} />}
        <Fact name="made in" text={row.origin?.split('/').pop() ?? 'no notebook'} title={row.origin} />
      </dl>
      {full && full.tail.length > 0 && (
        <details className="nbgpu-Why" open>
          <summary>last log lines</summary>
          <pre tabIndex={0} aria-label={`Last log lines of ${name}`}>
            {full.tail.join('\n')}
          </pre>
        </details>
      )}
    </div>
  );
}

/** What happened to it, of what is known here already. */
function Events({ name, onClose }: { name: string; onClose: () => void }): React.ReactElement {
  const { state } = useHands();
  const { events } = state;
  const found = React.useMemo(() => events.filter(event => event.endpoint === name), [events, name]);
  return (
    <section
      className="nbgpu-Keys"
      aria-label={`Events of ${name}`}
      onKeyDown={event => {
        if (event.key === 'Escape') {
          event.stopPropagation();
          onClose();
        }
      }}
    >
      <div className="nbgpu-Keys-head">
        <span className="nbgpu-Label">{found.length > 0 ? 'Events, newest first' : 'No events that are known here.'}</span>
        <button type="button" className="nbgpu-Close" aria-label={`Close the events of ${name}`} onClick={onClose}>
          ×
        </button>
      </div>
      {found.length > 0 && (
        <VirtualList
          label={`Events of ${name}, newest first`}
          items={found}
          keyOf={event => String(event.seq)}
          estimate={38}
          draw={event => <EventLine event={event} />}
          anchored
        />
      )}
    </section>
  );
}
