import * as React from 'react';
import type { EndpointRow } from '../api/schema';
import { isWarm, until, warmValues, WARMTHS, warmWorkers } from '../model/warmth';
import { cell, known } from '../verbs/cell';
import { useHands } from './context';
import { useNow } from './hooks';
import { Act } from './parts';

/** A stopped endpoint takes no requests, and so is not kept warm for them. */
function rests(row: EndpointRow): boolean {
  return row.state === 'stopped' || row.state === 'failed';
}

/** `warm until 14:30`, while it is. */
export function useWarmth(row: EndpointRow): string | null {
  const { state } = useHands();
  const now = useNow(state.attentive && row.warmUntilUs !== null, 5000);
  const { summary } = state;
  return summary && row.warmUntilUs !== null && !rests(row) && isWarm(row, summary, state.summaryAt, now)
    ? `warm until ${until(row.warmUntilUs, now)}`
    : null;
}

/** Keep a worker up for a while, asked or not. */
export function Warm({ row }: { row: EndpointRow }): React.ReactElement {
  const { actions } = useHands();
  const { name } = row;
  const said = useWarmth(row);
  const workers = warmWorkers(row);
  const first = React.useRef<HTMLButtonElement>(null);
  const written = (seconds: number) => (known('warm') ? () => cell('warm', warmValues(name, seconds, workers)) : null);
  return (
    <div className="nbgpu-Buttons nbgpu-Warm" role="group" aria-label={`Keep ${name} warm`}>
      <span className="nbgpu-Label" role="status">
        {said ?? 'Keep warm'}
      </span>
      {WARMTHS.map(([seconds, label], index) => (
        <Act
          key={seconds}
          label={label}
          about={`Keep ${name} warm for ${label}`}
          button={index === 0 ? first : undefined}
          disabled={rests(row)}
          onClick={() => void actions.warm(name, seconds, workers)}
          cell={written(seconds)}
        />
      ))}
      {said !== null && (
        <Act
          label="Off"
          about={`Warm off: ${name} may scale down`}
          onClick={() => {
            first.current?.focus(); // this one goes away
            void actions.warm(name, 0);
          }}
          cell={written(0)}
        />
      )}
    </div>
  );
}
