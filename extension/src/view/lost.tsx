import * as React from 'react';
import type { EndpointRow } from '../api/schema';
import { dollars, plural } from '../model/format';

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
