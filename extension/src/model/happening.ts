import type { Event } from '../api/schema';
import { isFailure } from './telling';
import { span } from './format';

export type Tone = 'good' | 'warn' | 'bad' | 'quiet' | '';

/** An event as the list shows it: `name: text`, or a sentence of its own without a name. */
export interface Happening {
  name: string | null;
  text: string;
  tone: Tone;
}

const GOOD = /\.(ready|fetched|created)$/;
const TIERS: Record<string, string> = { plain: '', preimported: ' (pre-imported)' };

/** `0.08 s`, `2.1 s`, `21.4 s`: a cold start, in seconds also where it is short. */
function took(seconds: number): string {
  return seconds >= 0.01 && seconds < 1 ? `${seconds.toFixed(2).replace(/0$/, '')} s` : span(seconds);
}

/** What follows `lead` in the event's sentence; null if it does not begin so. */
function after(event: Event, lead: string): string | null {
  return event.text.startsWith(lead) && event.text.length > lead.length ? event.text.slice(lead.length) : null;
}

/** What is known better than the event's own sentence; null: say that one. */
function better(event: Event, name: string): [text: string, tone: Tone] | null {
  const worker = `A worker of ${name}`;
  switch (event.kind) {
    case 'worker.ready': {
      const { seconds, tier } = event.values;
      if (typeof seconds !== 'number' || typeof tier !== 'string') {
        return null;
      }
      return [tier === 'parked' ? `woken ${took(seconds)}` : `cold start ${took(seconds)}${TIERS[tier] ?? ` (${tier})`}`, 'good'];
    }
    case 'worker.parked': {
      const text = after(event, `${worker} is `);
      return text === null ? null : [text, 'quiet'];
    }
    case 'worker.fell_back': {
      const text = after(event, `${worker}: `);
      return text === null ? null : [`fell back: ${text}`, 'warn'];
    }
    case 'worker.throttled': {
      const text = after(event, `${name} waits: `);
      return text === null ? null : [`throttled: ${text}`, 'warn'];
    }
  }
  return null;
}

/** The start of a worker, and what kept it from one, in a few words; else the event's own sentence. */
export function happening(event: Event): Happening {
  const { endpoint } = event;
  const found = endpoint === null ? null : better(event, endpoint);
  if (found) {
    return { name: endpoint, text: found[0], tone: found[1] };
  }
  return { name: null, text: event.text, tone: isFailure(event) ? 'bad' : GOOD.test(event.kind) ? 'good' : '' };
}
