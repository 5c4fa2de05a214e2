import { runIcon, stopIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import type { EndpointRow } from '../api/schema';
import { isWarm, until, warmValues, WARMTHS, warmWorkers } from '../model/warmth';
import { cell, known } from '../verbs/cell';
import { useHands } from './context';
import { useNow } from './hooks';
import { Act } from './parts';

/** `warm until 14:30`, while it is. */
export function useWarmth(row: EndpointRow): string | null {
  const { state } = useHands();
  const now = useNow(state.attentive && row.warmUntilUs !== null, 5000);
  const { summary } = state;
  return summary && row.warmUntilUs !== null && isWarm(row, summary, state.summaryAt, now)
    ? `warm until ${until(row.warmUntilUs, now)}`
    : null;
}

/** Keep a worker up for a while, asked or not. */
export function Warm({ row, busy }: { row: EndpointRow; busy: boolean }): React.ReactElement {
  const { actions } = useHands();
  const { name } = row;
  const said = useWarmth(row);
  const workers = warmWorkers(row);
  // A stopped endpoint takes no requests, and so is not kept warm for them.
  const rested = row.state === 'stopped' || row.state === 'failed';
  const written = (seconds: number) => (known('warm') ? () => cell('warm', warmValues(name, seconds, workers)) : null);
  return (
    <div className="nbgpu-Buttons" role="group" aria-label={`Keep ${name} warm`}>
      <span className="nbgpu-Label" role="status">
        {said ?? 'Keep warm'}
      </span>
      {WARMTHS.map(([seconds, label]) => (
        <Act
          key={seconds}
          label={label}
          about={`Keep ${name} warm for ${label}`}
          icon={runIcon}
          disabled={busy || rested}
          onClick={() => void actions.warm(name, seconds, workers)}
          cell={written(seconds)}
        />
      ))}
      {said !== null && (
        <Act
          label="Off"
          about={`Warm off: ${name} may scale down`}
          icon={stopIcon}
          disabled={busy}
          onClick={() => void actions.warm(name, 0)}
          cell={written(0)}
        />
      )}
    </div>
  );
}
