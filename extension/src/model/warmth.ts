import type { EndpointRow, Summary } from '../api/schema';
import type { Values } from '../verbs/cell';

/** How long an endpoint can be kept warm by a click. */
export const WARMTHS: readonly (readonly [seconds: number, label: string])[] = [
  [1800, '30 min'],
  [7200, '2 h']
];

/** Whether workers are kept up because somebody said so; the backend's clock counts. `at` and `now` in ms. */
export function isWarm(row: EndpointRow, summary: Summary, at: number, now: number): boolean {
  return row.warmUntilUs !== null && row.warmUntilUs > summary.atUs + (now - at) * 1000;
}

/** As many as are kept up now: to prolong it ends none of them. */
export function warmWorkers(row: EndpointRow): number {
  return row.warmUntilUs === null ? 1 : Math.max(1, row.workersMin);
}

/** `14:30`; with the date if that is not today. */
export function until(atUs: number, now = Date.now()): string {
  const at = new Date(atUs / 1000);
  const time = at.toLocaleTimeString('en-GB').slice(0, 5);
  return at.toDateString() === new Date(now).toDateString() ? time : `${at.toLocaleDateString('en-CA')} ${time}`;
}

/** As the arguments of `warm`; 0 seconds: `--off`. */
export function warmValues(name: string, seconds: number, workers = 1): Values {
  return seconds === 0
    ? { name, '--off': true }
    : { name, '--for': seconds, '--workers': workers > 1 ? workers : null };
}
