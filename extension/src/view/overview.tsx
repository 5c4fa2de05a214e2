import * as React from 'react';
import { spentAt } from '../model/figures';
import { dollars, perHour, plural } from '../model/format';
import { useHands } from './context';
import { useChanges, useNow } from './hooks';
import { Link, Trouble } from './parts';

/** Names that are written out; more are counted. */
const NAMED = 3;

/** The header: dollars an hour, spent today, and what is idle but billing. */
export function Overview(): React.ReactElement {
  const { state, view } = useHands();
  useChanges(state.changed);
  const { summary } = state;
  const now = useNow(state.attentive && Number(summary?.perHour ?? 0) > 0);
  const idle = summary?.idleButBilling ?? [];
  const endpoints = idle.filter(name => state.endpoint(name) !== undefined);
  return (
    <div className="nbgpu-Overview">
      <dl className="nbgpu-Figures">
        <div>
          <dt>now</dt>
          <dd>{summary ? perHour(summary.perHour) : '–'}</dd>
        </div>
        <div>
          <dt>today</dt>
          <dd>{summary ? dollars(spentAt(summary, state.summaryAt, now)) : '–'}</dd>
        </div>
      </dl>
      {idle.length > 0 && (
        <p className="nbgpu-Idle">
          Idle but billing:{' '}
          {idle.slice(0, NAMED).map((name, index) => (
            <React.Fragment key={name}>
              {index > 0 && ', '}
              <Link title={name} onClick={() => view.show(name)}>
                {name}
              </Link>
            </React.Fragment>
          ))}
          {idle.length > NAMED && ` and ${idle.length - NAMED} more`}.{' '}
          {endpoints.length > 0 && (
            <Link
              label={`Select ${plural(endpoints.length, 'endpoint')} that idle`}
              onClick={() => view.select(endpoints)}
            >
              Select
            </Link>
          )}
        </p>
      )}
      <Connection />
    </div>
  );
}

/** Nothing while all is well. */
function Connection(): React.ReactElement | null {
  const { state } = useHands();
  if (state.connection !== 'down') {
    return null;
  }
  const again = (
    <Link onClick={() => void state.refresh()}>{state.problem ? 'Try again' : 'Start it again'}</Link>
  );
  return (
    <div className="nbgpu-Down">
      {state.problem ? (
        <Trouble failure={state.problem} />
      ) : (
        <p role="alert" className="nbgpu-Trouble">
          <span>The backend has ended. What runs goes on running and billing; this is how things stood.</span>
        </p>
      )}
      {again}
    </div>
  );
}
