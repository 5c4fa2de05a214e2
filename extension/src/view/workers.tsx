import * as React from 'react';
import type { EndpointRow, Summary, WorkerRow } from '../api/schema';
import { workersText } from '../model/figures';
import { clock, dollars, span } from '../model/format';
import { age, ageS, arranged, traits, workerCostAt } from '../model/workers';
import { useHands } from './context';
import { useNow } from './hooks';
import { Mark } from './mark';
import { Wonder } from './why';
import { VirtualList } from './virtual';

/** The workers of an endpoint by state: each with its reason, since when, its tier, what it holds and its cost. */
export function Workers({ row }: { row: EndpointRow }): React.ReactElement | null {
  const { state } = useHands();
  const workers = React.useMemo(() => arranged(row.workers), [row.workers]);
  const now = useNow(state.attentive && workers.length > 0);
  const { summary } = state;
  if (!summary) {
    return null;
  }
  const typical = row.typicalColdStartS;
  const none = typical === null ? 'none' : `none; a cold start takes ${span(typical)} here`;
  return (
    <div className="nbgpu-Workers" role="group" aria-label={`Workers of ${row.name}`}>
      <p className="nbgpu-Label">Workers: {workers.length > 0 ? workersText(row) : none}</p>
      {workers.length > 0 && (
        <VirtualList
          label={`Workers of ${row.name} by state`}
          items={workers}
          keyOf={worker => worker.id}
          estimate={72}
          draw={worker => <Line worker={worker} row={row} summary={summary} now={now} />}
        />
      )}
    </div>
  );
}

function Line(props: { worker: WorkerRow; row: EndpointRow; summary: Summary; now: number }): React.ReactElement {
  const { worker, row, summary, now } = props;
  const { state } = useHands();
  const since = ageS(worker.sinceUs, summary, state.summaryAt, now);
  return (
    <div className="nbgpu-Worker" data-worker={worker.id}>
      <div className="nbgpu-Row-line">
        <Mark state={worker.state} />
        <span className="nbgpu-Worker-state">
          {worker.state} <span title={`since ${clock(worker.sinceUs)}`}>{age(since)}</span>
        </span>
        <span className="nbgpu-Row-cost" title="so far">
          {dollars(workerCostAt(worker, row, state.summaryAt, now))}
        </span>
        <Wonder subject={worker.id} about={`worker ${worker.id}`} />
      </div>
      <p>{worker.reason}</p>
      <p>{traits(worker)}</p>
    </div>
  );
}
