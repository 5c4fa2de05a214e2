import type { Event } from '../api/schema';

const FAILURE = /\.(failed|died)$/;

export function isFailure(event: Event): boolean {
  return FAILURE.test(event.kind);
}

/** The same endpoint is not told of again for so long: an engine that cannot start tries a few times. */
const QUIET_US = 60_000_000;
/** What Jupyter shows of a message. */
const LONGEST = 138;

/** Which of the new events are told, one an endpoint. `told` maps endpoints to the instant of the last. */
export function worthTelling(events: readonly Event[], told: Map<string, number>): Event[] {
  return events.filter(event => {
    const about = event.endpointId ?? '';
    if (!isFailure(event) || event.atUs - (told.get(about) ?? -Infinity) < QUIET_US) {
      return false;
    }
    told.set(about, event.atUs);
    return true;
  });
}

export function shortened(text: string): string {
  return text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text;
}

/** What is waited for, without the seconds at its end: the line counts by itself. */
export function uncounted(text: string): string {
  return text.replace(/\s*\([^()]*\d s\b[^()]*\)$/, '');
}
