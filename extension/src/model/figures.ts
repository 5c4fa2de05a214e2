import type { EndpointRow, Summary } from '../api/schema';

/** What time adds to figures between two looks: nothing is asked for it. Instants in ms. */

const BUCKET_MS = 5000;
const PER_HOUR_MS = 3_600_000;

/** The requests of each 5 s of the last 5 min, as of `now`: an older row moves to the left. */
export function sparkAt(spark: readonly number[], at: number, now: number): number[] {
  const steps = Math.min(spark.length, Math.max(0, Math.floor((now - at) / BUCKET_MS)));
  return [...spark.slice(steps), ...Array<number>(steps).fill(0)];
}

/** Requests a second in the last minute. */
export function rateAt(row: EndpointRow, at: number, now: number): number {
  if (now - at < BUCKET_MS) {
    return row.requestsPerS;
  }
  const lastMinute = sparkAt(row.spark, at, now).slice(-12);
  return lastMinute.reduce((sum, n) => sum + n, 0) / 60;
}

/** What costs. */
export type Priced = Pick<EndpointRow, 'costSoFar' | 'ratePerHour'>;

/** Dollars so far: the rate runs on. */
export function costAt(row: Priced, at: number, now: number): number {
  return Number(row.costSoFar) + (Number(row.ratePerHour) * Math.max(0, now - at)) / PER_HOUR_MS;
}

export function spentAt(summary: Summary, at: number, now: number): number {
  return Number(summary.spentToday) + (Number(summary.perHour) * Math.max(0, now - at)) / PER_HOUR_MS;
}

/** Whether a row's figures move by themselves. */
export function moves(row: EndpointRow): boolean {
  return Number(row.ratePerHour) > 0 || row.spark.some(n => n > 0);
}

/** `2 running, 1 idle`, or `no workers`. */
export function workersText(row: EndpointRow): string {
  const parts = Object.entries(row.workersByState)
    .filter(([, count]) => count > 0)
    .map(([state, count]) => `${count} ${state}`);
  return parts.join(', ') || 'no workers';
}
