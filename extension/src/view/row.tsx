import { copyIcon, deleteIcon, infoIcon, lockIcon, runIcon, settingsIcon, stopIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import type { EndpointRow } from '../api/schema';
import { moves, rateAt, sparkAt, workersText } from '../model/figures';
import { latency, perSecond, plural, span } from '../model/format';
import { keysOf, listCell } from '../model/keys';
import { draftOf } from '../model/scaling';
import { stamp, toldRate } from '../model/story';
import { cell, example } from '../verbs/cell';
import { useHands } from './context';
import { Cost, Fact, Frame } from './frame';
import { useChanges, useNow } from './hooks';
import { Keys } from './keys';
import { Act, Trouble } from './parts';
import { ScaleForm } from './scale';
import { Spark } from './spark';
import { TryIt } from './tryit';
import { useWarmth, Warm } from './warm';
import { WhyStory } from './why';
import { Workers } from './workers';

/** An endpoint: what it does and costs; open, what can be done with it. */
export function Endpoint(props: { row: EndpointRow }): React.ReactElement {
  const { row } = props;
  const { state, actions, view } = useHands();
  useChanges(actions.changed, view.changed);
  const open = view.open === row.name;
  const doing = actions.doing.get(row.name);
  const failed = actions.failed.get(row.name);
  const said = doing ? `${doing}…` : row.state;
  return (
    <Frame
      kind="endpoint"
      row={row}
      said={said}
      mark={doing ? 'draining' : row.state}
      cost={<Cost row={row} rate={Number(row.ratePerHour)} />}
      pick={
        <input
          type="checkbox"
          className="nbgpu-Row-pick"
          aria-label={`Select ${row.name}`}
          checked={view.selected.has(row.name)}
          onChange={event => view.pick(row.name, event.currentTarget.checked)}
        />
      }
      figures={<Figures row={row} at={state.summaryAt} watched={state.attentive} />}
    >
      {failed && <Trouble failure={failed} onClose={() => actions.forget(row.name)} />}
      {open && <Details row={row} busy={doing !== undefined} />}
    </Frame>
  );
}

interface Figured {
  row: EndpointRow;
  at: number;
  watched: boolean;
}

function Figures({ row, at, watched }: Figured): React.ReactElement {
  const now = useNow(watched && moves(row), 5000);
  const warm = useWarmth(row);
  const rate = rateAt(row, at, now);
  return (
    <div className="nbgpu-Row-figures">
      <span className="nbgpu-Row-numbers">
        <span title="workers by state">{workersText(row)}</span>
        {warm && <span title="workers are kept up, asked or not">{warm}</span>}
        {row.queued > 0 && <span title="requests that wait">{row.queued} waiting</span>}
        <span title="requests a second, in the last minute">{perSecond(rate)}</span>
        {row.p50Ms !== null && (
          <span title="half of the requests took at most so long, 95 of 100 the second (last 15 min)">
            {latency(row.p50Ms)} / {latency(row.p95Ms)}
          </span>
        )}
      </span>
      <Spark counts={sparkAt(row.spark, at, now)} label={`requests of ${row.name} in the last 5 minutes`} />
    </div>
  );
}

function Details({ row, busy }: { row: EndpointRow; busy: boolean }): React.ReactElement {
  const { actions, copy, insert, remove, view } = useHands();
  const scale = React.useRef<HTMLButtonElement>(null);
  const keys = React.useRef<HTMLButtonElement>(null);
  const box = React.useRef<HTMLDivElement>(null);
  const { name } = row;
  const rested = row.state === 'stopped' || row.state === 'failed';
  const scaling = view.scaling?.name === name ? view.scaling : null;
  const keyed = view.keys?.name === name ? view.keys : null;
  const { why } = view;
  const closeScale = (): void => {
    view.set({ scaling: null });
    scale.current?.focus();
  };
  const closeKeys = (): void => {
    view.set({ keys: null });
    keys.current?.focus();
  };
  const closeWhy = (): void => {
    view.set({ why: null });
    box.current?.querySelector<HTMLElement>(`[data-why="${why}"]`)?.focus();
  };
  const story = (subject: string): React.ReactElement => (
    <WhyStory
      key={`why ${subject}`}
      subject={subject}
      mark={stamp(row, subject)}
      rate={told => toldRate(told, row)}
      onClose={closeWhy}
    />
  );
  // While it is warm, more are kept up than always are.
  const always = row.workersMin > 0 && row.warmUntilUs === null ? `, ${row.workersMin} always on` : '';
  const place = `${row.on}, at most ${plural(row.workersMax, 'worker')}${always}, stops after ${span(row.idleTimeoutS)} idle`;
  return (
    <div ref={box} className="nbgpu-Details" role="region" aria-label={`Details of ${name}`}>
      <TryIt name={name} stopped={row.state === 'stopped'} />
      <div className="nbgpu-Buttons">
        {rested ? (
          <Act
            label="Start"
            about={`Start ${name}`}
            icon={runIcon}
            disabled={busy}
            onClick={() => void actions.start(name)}
            cell={() => cell('start', { name })}
          />
        ) : (
          <Act
            label="Stop"
            about={`Stop ${name}`}
            icon={stopIcon}
            disabled={busy}
            onClick={() => void actions.stop(name)}
            cell={() => cell('stop', { name })}
          />
        )}
        <Act
          label="Why?"
          about={`Why? ${name}`}
          icon={infoIcon}
          subject={name}
          expanded={why === name}
          onClick={() => view.wonder(name)}
          cell={() => cell('why', { name })}
        />
        <Act
          label="Scale"
          about={`Scale ${name}`}
          icon={settingsIcon}
          disabled={busy}
          expanded={scaling !== null}
          button={scale}
          onClick={() => view.set({ scaling: scaling ? null : draftOf(row) })}
          cell={null}
        />
        <Act
          label="Keys"
          about={`Keys of ${name}`}
          icon={lockIcon}
          expanded={keyed !== null}
          button={keys}
          onClick={() => view.set({ keys: keyed ? null : keysOf(name) })}
          cell={listCell(name)}
        />
        <Act
          label="Delete"
          about={`Delete ${name}`}
          icon={deleteIcon}
          disabled={busy}
          danger
          onClick={() => remove(name)}
          cell={() => cell('delete', { name })}
        />
        <Act
          label="Copy call"
          about={`Copy a call of ${name} in Python`}
          icon={copyIcon}
          onClick={() => copy(example(name).source, 'The call')}
          cell={() => example(name)}
        />
        {insert && (
          <span className="nbgpu-Cells" role="group" aria-label={`Insert about ${name} as cell`}>
            As cell:
            {(['logs', 'chart'] as const).map(verb => (
              <button
                key={verb}
                type="button"
                className="nbgpu-Chip"
                title={`Insert as cell: %gpu ${verb} ${name}`}
                aria-label={`Insert as cell: ${verb} ${name}`}
                onClick={() => insert(cell(verb, verb === 'chart' ? { name, kind: 'latency' } : { name }))}
              >
                {verb}
              </button>
            ))}
          </span>
        )}
      </div>
      {scaling && <ScaleForm key={`scale ${name}`} draft={scaling} onClose={closeScale} />}
      {keyed && <Keys key={`keys ${name}`} shown={keyed} onClose={closeKeys} />}
      {why === name && story(name)}
      <Warm row={row} />
      <Workers row={row} />
      {why !== null && why !== name && story(why)}
      <dl className="nbgpu-Facts">
        <Fact name="model" text={row.model || 'a command'} />
        <Fact name="runs on" text={place} />
        <Fact name="made in" text={row.origin?.split('/').pop() ?? 'no notebook'} title={row.origin} />
        {row.p50Ms !== null && (
          <Fact
            name="latency"
            text={`half within ${latency(row.p50Ms)}, 95 of 100 within ${latency(row.p95Ms)}`}
          />
        )}
        <Fact name="requests" text={row.requestsTotal.toLocaleString('en-US')} />
        <div>
          <dt>base URL</dt>
          <dd className="nbgpu-Url" title={row.baseUrl}>
            <code>{row.baseUrl}</code>
            <button
              type="button"
              className="nbgpu-Chip"
              aria-label={`Copy the base URL of ${name}`}
              onClick={() => copy(row.baseUrl, 'The base URL')}
            >
              copy
            </button>
          </dd>
        </div>
      </dl>
    </div>
  );
}
