import type { EndpointRow, Why } from '../api/schema';
import { dollars, span } from './format';
import { workerRate } from './workers';

/** A part of a next step: what can be typed, or what is said about it. */
export interface Step {
  text: string;
  typed: boolean;
}

const TYPED = /(^|; |, or |: )(nbgpu[ .].+?)(?= {2,}|, or |; |$)/g;

/** A next step, taken apart: `nbgpu ask chat hello   wakes it` is a command and what it does. */
export function steps(text: string): Step[] {
  const found: Step[] = [];
  let at = 0;
  for (const match of text.matchAll(TYPED)) {
    const start = match.index + (match[1] ?? '').length;
    const command = match[2] ?? '';
    found.push({ text: text.slice(at, start), typed: false }, { text: command, typed: true });
    at = start + command.length;
  }
  found.push({ text: text.slice(at), typed: false });
  return found.filter(step => step.text !== '');
}

/** The labels and words of `nbgpu why`, as of `elapsed` seconds later; `rate` in dollars an hour. */
export function figures(why: Why, elapsed: number, rate: number): [label: string, text: string][] {
  const lasting = why.seconds + elapsed;
  const found: [string, string][] = [
    ['since', `${span(lasting < 1 ? lasting : Math.floor(lasting))} ago`],
    ['cost', `${dollars(Number(why.costSoFar) + (rate * elapsed) / 3600)} so far`]
  ];
  if (why.typical) {
    found.push(['typical', why.typical]);
  }
  if (why.phases.length > 0) {
    found.push(['phases', why.phases.map(phase => `${phase.name} ${span(phase.seconds)}`).join(', ')]);
  }
  return found;
}

/** Dollars an hour of what an answer is about. */
export function toldRate(told: Why, row: EndpointRow): number {
  const worker = row.workers.find(one => one.id === told.name);
  return told.subject === 'endpoint' ? Number(row.ratePerHour) : worker ? workerRate(worker, row) : 0;
}

/** What the row says of a subject: when it is another, so is the story. */
export function stamp(row: EndpointRow, subject: string): string {
  if (subject === row.name) {
    const { state, reasonSinceUs, workers, workersMax, workersMin, warmUntilUs } = row;
    const each = workers.map(worker => `${worker.id} ${worker.state}`);
    return JSON.stringify([state, reasonSinceUs, workersMax, workersMin, warmUntilUs, row.queued > 0, ...each]);
  }
  const worker = row.workers.find(one => one.id === subject);
  return worker ? JSON.stringify([worker.state, worker.sinceUs, worker.held]) : 'ended';
}
