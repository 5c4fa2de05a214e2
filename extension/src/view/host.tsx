import { checkIcon, deleteIcon, refreshIcon, runIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import type { Finding, Host } from '../api/schema';
import { perHour, size } from '../model/format';
import {
  addressText, costText, gpusText, hostCell, hostRow, loadOf, machineTexts, reasonOf, runsText, useCell
} from '../model/hosts';
import { age, ageS } from '../model/workers';
import { useHands } from './context';
import { Fact, Frame } from './frame';
import { useChanges, useNow } from './hooks';
import { Act, Trouble } from './parts';

/** A host: whether it is reached, what it has, what runs there and what that costs; open, what can be done with it. */
export function HostRowView({ host }: { host: Host }): React.ReactElement {
  const { state, actions, view } = useHands();
  useChanges(actions.changed, view.changed);
  const now = useNow(state.attentive, 5000);
  const id = hostRow(host.name);
  const doing = actions.doing.get(id);
  const failed = actions.failed.get(id);
  const { summary } = state;
  const load = summary ? loadOf(host.name, summary) : { names: [], rate: 0 };
  const lasted = summary && host.sinceUs !== null ? age(ageS(host.sinceUs, summary, state.summaryAt, now)) : null;
  const used = summary?.place === host.name;
  return (
    <Frame
      kind="host"
      id={id}
      row={{ name: host.name, reason: reasonOf(host), reasonSinceUs: host.sinceUs }}
      said={doing ? `${doing}…` : host.state}
      since={doing || lasted === null ? undefined : lasted === 'now' ? 'just now' : lasted}
      mark={doing ? 'stopping' : host.state}
      cost={
        <span className="nbgpu-Row-cost" title="an hour of what runs there now">
          {costText(host, load)}
        </span>
      }
      figures={
        <>
          <div className="nbgpu-Row-figures nbgpu-Host-figures">
            <span className="nbgpu-Row-numbers">
              <span>{addressText(host)}</span>
              {host.facts && machineTexts(host.facts).map(text => <span key={text}>{text}</span>)}
            </span>
          </div>
          <div className="nbgpu-Row-figures">
            <span className="nbgpu-Row-numbers" title={runsText(load)}>
              {runsText(load)}
            </span>
            {used && (
              <span className="nbgpu-Tag" title="Pods and endpoints that name no place go there">
                in use
              </span>
            )}
          </div>
        </>
      }
    >
      {failed && <Trouble failure={failed} onClose={() => actions.forget(id)} />}
      {view.open === id && <Details host={host} busy={doing !== undefined} used={used} />}
    </Frame>
  );
}

function Details(props: { host: Host; busy: boolean; used: boolean }): React.ReactElement {
  const { host, busy, used } = props;
  const { actions, hosts } = useHands();
  const { name, facts } = host;
  const found = actions.found.get(name);
  return (
    <div className="nbgpu-Details" role="region" aria-label={`Details of the host ${name}`}>
      <div className="nbgpu-Buttons">
        <Act
          label="Check"
          about={`Check the host ${name}: what it has and lacks`}
          icon={checkIcon}
          disabled={busy}
          onClick={() => void actions.checkHost(name)}
          cell={hostCell('check', name)}
        />
        <Act
          label="Reconnect"
          about={`Reconnect to the host ${name}`}
          icon={refreshIcon}
          disabled={busy || host.state === 'connected'}
          onClick={() => void actions.reconnectHost(name)}
          cell={hostCell('reconnect', name)}
        />
        <Act
          label="Use"
          about={`Use ${name}: pods that name no place go there`}
          icon={runIcon}
          disabled={busy || used}
          onClick={() => void actions.use(name)}
          cell={useCell(name)}
        />
        <Act
          label="Remove"
          about={`Remove the host ${name}`}
          icon={deleteIcon}
          disabled={busy}
          danger
          onClick={() => hosts.remove(name)}
          cell={hostCell('rm', name)}
        />
      </div>
      {found && <Findings name={name} found={found} />}
      <dl className="nbgpu-Facts">
        <Fact name="address" text={addressText(host)} />
        <Fact name="its key" text={host.fingerprint ?? 'not pinned'} />
        {facts && (
          <>
            <Fact name="machine" text={`${facts.hostname}, Python ${facts.python}`} />
            <Fact name="GPUs" text={gpusText(facts)} />
            <Fact
              name="memory"
              text={`${size(facts.memoryAvailable)} of ${size(facts.memory)} free`}
              title="when it was connected"
            />
          </>
        )}
        {host.pods.length > 0 && <Fact name="pods" text={host.pods.join(', ')} title="also those that are stopped" />}
        <Fact name="rate" text={host.priced ? `${perHour(host.ratePerHour)} for each pod or worker` : 'no price set'} />
      </dl>
    </div>
  );
}

/** What a check found, and how to get what is lacking. */
function Findings({ name, found }: { name: string; found: readonly Finding[] }): React.ReactElement {
  const { actions } = useHands();
  const lacking = found.filter(one => !one.good).length;
  return (
    <section className="nbgpu-Keys" aria-label={`What the check of ${name} found`}>
      <div className="nbgpu-Keys-head">
        <span className="nbgpu-Label" role="status">
          {lacking === 0 ? 'Checked: it lacks nothing.' : `Checked: ${lacking} of ${found.length} could be better.`}
        </span>
        <button
          type="button"
          className="nbgpu-Close"
          aria-label={`Close what the check of ${name} found`}
          onClick={() => actions.forgetFound(name)}
        >
          ×
        </button>
      </div>
      <ul className="nbgpu-Findings">
        {found.map(one => (
          <li key={one.what}>
            <span className={one.good ? 'nbgpu-mod-good' : 'nbgpu-mod-bad'} role="img" aria-label={one.good ? 'good' : 'lacking'}>
              {one.good ? '✓' : '✗'}
            </span>{' '}
            {one.what}: {one.text}
            {one.advice && <b>. {one.advice}</b>}
          </li>
        ))}
      </ul>
    </section>
  );
}
