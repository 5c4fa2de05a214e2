import type { EndpointRow, Summary, WorkerRow } from '../api/schema';
import { plural, span } from './format';

const PER_HOUR_MS = 3_600_000;
/** What works comes first, what leaves last. */
const STATES = ['running', 'idle', 'starting', 'initializing', 'throttled', 'parked', 'draining', 'unreachable', 'unhealthy', 'stopped'];
/** A stopped engine that is kept costs nothing; nor does what has not begun. */
const UNPAID = ['parked', 'initializing', 'throttled', 'stopped'];
const TIERS: Record<string, string> = {
  plain: 'plain start',
  preimported: 'pre-imported start',
  parked: 'woken'
};

function rank(state: string): number {
  const found = STATES.indexOf(state);
  return found < 0 ? STATES.length : found;
}

/** By state; within one, the longest in it first. */
export function arranged(workers: readonly WorkerRow[]): WorkerRow[] {
  return [...workers].sort((a, b) => rank(a.state) - rank(b.state) || a.sinceUs - b.sinceUs || a.id.localeCompare(b.id));
}

/** Seconds since an instant of the backend's clock, which need not be the browser's. `at` and `now` in ms. */
export function ageS(sinceUs: number, summary: Summary, at: number, now: number): number {
  return Math.max(0, (summary.atUs - sinceUs) / 1e6 + (now - at) / 1000);
}

/** `now`, `12 s`, `2 min 5 s`: in whole seconds, as it moves by them. */
export function age(seconds: number): string {
  return seconds < 1 ? 'now' : span(Math.floor(seconds));
}

/** Dollars an hour: those that are paid for share what their endpoint costs. */
export function workerRate(worker: WorkerRow, row: EndpointRow): number {
  const paid = row.workers.filter(one => !UNPAID.includes(one.state)).length;
  return UNPAID.includes(worker.state) ? 0 : Number(row.ratePerHour) / Math.max(1, paid);
}

/** Dollars so far: the rate runs on. */
export function workerCostAt(worker: WorkerRow, row: EndpointRow, at: number, now: number): number {
  return Number(worker.costSoFar) + (workerRate(worker, row) * Math.max(0, now - at)) / PER_HOUR_MS;
}

/** `pre-imported start · holds 2 requests · RTX4090 · w-1f`. */
export function traits(worker: WorkerRow): string {
  return [
    TIERS[worker.tier] ?? worker.tier,
    worker.held > 0 && `holds ${plural(worker.held, 'request')}`,
    worker.gpu,
    worker.id
  ]
    .filter(Boolean)
    .join(' · ');
}
