import type { Limits } from '../api/client';
import type { EndpointRow } from '../api/schema';
import type { Values } from '../verbs/cell';
import { dollars, duration, perHour, plural, seconds } from './format';

/** What the backend takes. */
export const MOST_WORKERS = 64;
const LONGEST_IDLE_S = 86_400;
/** As the magics count a month of what never stops. */
const HOURS_A_MONTH = 730;

/** What a person may set, and what one worker costs. */
export interface Limited {
  workers: Limits;
  /** decimal text, US dollars, of one worker */
  ratePerHour: string;
}

/** What the form of an endpoint holds. */
export interface ScaleDraft {
  name: string;
  /** As it is set; null while that is read. */
  was: Limited | null;
  most: number;
  alwaysOn: number;
  /** as it is typed: `5m` */
  idle: string;
}

/** What the summary says, until what is set is here: an endpoint that is warm or stopped shows another minimum. */
export function draftOf(row: EndpointRow): ScaleDraft {
  return {
    name: row.name,
    was: null,
    most: row.workersMax,
    alwaysOn: row.workersMin,
    idle: duration(row.idleTimeoutS)
  };
}

/** The draft, once it is known what is set. */
export function draftFrom(name: string, was: Limited): ScaleDraft {
  const { max, min, idleTimeout } = was.workers;
  return { name, was, most: max, alwaysOn: min, idle: duration(idleTimeout) };
}

function counts(workers: number): boolean {
  return Number.isInteger(workers) && workers >= 0 && workers <= MOST_WORKERS;
}

/** What differs from what is set; what cannot be read is left out. */
export function changeOf(draft: ScaleDraft): Partial<Limits> {
  const was = draft.was?.workers;
  const idle = seconds(draft.idle);
  return {
    ...(counts(draft.most) && draft.most !== was?.max ? { max: draft.most } : {}),
    ...(counts(draft.alwaysOn) && draft.alwaysOn !== was?.min ? { min: draft.alwaysOn } : {}),
    ...(idle !== null && idle !== was?.idleTimeout ? { idleTimeout: idle } : {})
  };
}

/** What is wrong with it, as a sentence with the next step; null if it can be sent. */
export function complaint(draft: ScaleDraft): string | null {
  for (const [label, workers] of [['At most', draft.most], ['Always on', draft.alwaysOn]] as const) {
    if (!counts(workers)) {
      return `“${label}” is a number from 0 to ${MOST_WORKERS}.`;
    }
  }
  if (draft.alwaysOn > draft.most) {
    return `${draft.alwaysOn} always on is more than at most ${draft.most} allows. Allow ${draft.alwaysOn} or more.`;
  }
  const idle = seconds(draft.idle);
  if (idle === null) {
    return `“${draft.idle.trim()}” is no length of time. Write it as in: 30s, 5m, 2h, 1d`;
  }
  if (idle < 1 || idle > LONGEST_IDLE_S) {
    return 'A worker can idle for 1s to 1d before it ends.';
  }
  return null;
}

/** What all its workers may cost an hour, and what those that never stop cost a month; '' while it is unknown. */
export function priceOf(draft: ScaleDraft): string {
  if (!draft.was || complaint(draft) !== null) {
    return '';
  }
  const rate = Number(draft.was.ratePerHour);
  if (rate === 0) {
    return 'At most $0/h: no price is set for its place.';
  }
  const most = `At most ${perHour(rate * draft.most)}: ${plural(draft.most, 'worker')} at ${perHour(rate)}.`;
  const month = dollars(rate * HOURS_A_MONTH * draft.alwaysOn);
  return draft.alwaysOn === 0 ? most : `${most} ${draft.alwaysOn} always on: about ${month} a month.`;
}

/** The same as the arguments of `scale`: what is changed, or all of it if nothing is. */
export function valuesOf(draft: ScaleDraft): Values {
  const change = changeOf(draft);
  const said = Object.keys(change).length > 0 ? change : (draft.was?.workers ?? {});
  return {
    name: draft.name,
    '--workers': said.max ?? null,
    '--always-on': said.min ?? null,
    '--idle': said.idleTimeout ?? null
  };
}
