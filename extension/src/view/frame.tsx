import * as React from 'react';
import type { EndpointRow } from '../api/schema';
import { costAt, Priced } from '../model/figures';
import { clock, dollars, perHour } from '../model/format';
import { useHands } from './context';
import { useNow } from './hooks';
import { Mark } from './mark';

type Framed = Pick<EndpointRow, 'name' | 'reason'> & { reasonSinceUs: number | null };

/** What rows of endpoints, pods and hosts have in common; the whole of its head opens it. */
export function Frame(props: {
  kind: 'endpoint' | 'pod' | 'host';
  row: Framed;
  /** as the view calls the row, where that is not its name */
  id?: string;
  /** its state in a word */
  said: string;
  mark: string;
  cost: React.ReactNode;
  /** behind its state: how long it has been so */
  since?: string;
  pick?: React.ReactNode;
  figures: React.ReactNode;
  children: React.ReactNode;
}): React.ReactElement {
  const { kind, row, said, since, id = row.name } = props;
  const { view } = useHands();
  const open = view.open === id;
  const began = row.reasonSinceUs === null ? '' : `(since ${clock(row.reasonSinceUs)})`;
  return (
    <div className={`nbgpu-Row${open ? ' nbgpu-mod-open' : ''}`} {...{ [`data-${kind}`]: row.name }}>
      <div className="nbgpu-Row-top">
        {props.pick}
        <div className="nbgpu-Row-body">
          <div className="nbgpu-Row-line">
            <button
              type="button"
              className="nbgpu-Row-head"
              data-head
              aria-expanded={open}
              aria-label={`${row.name}, ${said}`}
              title={row.name}
              onClick={() => view.toggle(id)}
            >
              <Mark state={props.mark} />
              <span className="nbgpu-Row-name">{row.name}</span>
            </button>
            {props.cost}
          </div>
          <p className="nbgpu-Row-reason" title={`${row.reason} ${began}`.trim()}>
            <b>{said}</b>
            {since && ` ${since}`}
            {row.reason && `: ${row.reason}`}
          </p>
          {props.figures}
        </div>
      </div>
      {props.children}
    </div>
  );
}

/** What it has cost; `rate` is dollars an hour now. */
export function Cost({ row, rate }: { row: Priced; rate: number }): React.ReactElement {
  const { state } = useHands();
  const now = useNow(state.attentive && rate > 0);
  const so = { costSoFar: row.costSoFar, ratePerHour: String(rate) };
  return (
    <span className="nbgpu-Row-cost" title={`so far${rate > 0 ? `, now ${perHour(rate)}` : ''}`}>
      {dollars(costAt(so, state.summaryAt, now))}
    </span>
  );
}

/** A line of what is known of it. */
export function Fact(props: { name: string; text: string; title?: string | null }): React.ReactElement {
  const { name, text } = props;
  return (
    <div>
      <dt>{name}</dt>
      <dd title={props.title ?? text}>{text}</dd>
    </div>
  );
}
