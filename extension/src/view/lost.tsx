import * as React from 'react';
import type { EndpointRow, PodRow, Volume } from '../api/schema';
import { dollars, plural } from '../model/format';
import { losses } from '../model/pods';

/** What is lost with an endpoint, and what stays. */
export function Lost({ row }: { row: EndpointRow }): React.ReactElement {
  const requests = row.queued + row.held;
  return (
    <div className="nbgpu-Lost">
      <p>Lost with it:</p>
      <ul>
        <li>its address and its settings</li>
        {row.workers.length > 0 && <li>{plural(row.workers.length, 'worker')}, which will be ended</li>}
        {requests > 0 && <li>{plural(requests, 'request')} in progress, which will fail</li>}
      </ul>
      <p>
        What it cost ({dollars(row.costSoFar)}) stays on record, and the model&apos;s files stay on disk.
      </p>
    </div>
  );
}

/** The same of a pod; `volume` is its own, null if it is not known. */
export function PodLost(props: { row: PodRow; volume: Volume | null }): React.ReactElement {
  const { lost, stays } = losses(props.row, props.volume);
  return (
    <div className="nbgpu-Lost">
      <p>Lost with it:</p>
      <ul>
        {lost.map(one => (
          <li key={one}>{one}</li>
        ))}
      </ul>
      <p>
        {stays} What it cost ({dollars(props.row.costSoFar)}) stays on record.
      </p>
    </div>
  );
}
