import type { Event, PodRow } from '../api/schema';
import { perHour } from './format';
import { rateOf, rests } from './pods';
import { shortened } from './telling';

/** Names that are written out; more are counted. */
const NAMED = 3;
const ENDINGS = ['pod.stopped', 'pod.failed', 'pod.deleted'];
/** A kernel that went so shortly before its pod went with it, in ms. */
const TOGETHER_MS = 20_000;

/** Whether a pod's origin is the notebook whose path counts from `root`, Jupyter's folder; '' if that is unknown. */
export function isFrom(origin: string | null, path: string, root: string): boolean {
  if (origin === null || !path) {
    return false;
  }
  return origin === path || (root ? origin === `${root.replace(/\/+$/, '')}/${path}` : origin.endsWith(`/${path}`));
}

/** Those that run and were opened by a notebook. */
export function openedBy(rows: readonly PodRow[], path: string, root: string): PodRow[] {
  return rows.filter(row => !rests(row) && row.state !== 'stopping' && isFrom(row.origin, path, root));
}

function named(names: readonly string[]): string {
  const shown = names.slice(0, NAMED);
  const more = names.length - shown.length;
  const last = more > 0 ? `${more} more` : shown.pop();
  return shown.length > 0 ? `${shown.join(', ')} and ${last}` : (last ?? '');
}

function file(path: string): string {
  return path.split('/').pop() ?? path;
}

/** `train and prep still run, at $2.50/h: eda.ipynb opened them.` */
export function leftRunning(rows: readonly PodRow[], path: string): string {
  const rate = rows.reduce((sum, row) => sum + rateOf(row), 0);
  const [runs, them] = rows.length === 1 ? ['runs', 'it'] : ['run', 'them'];
  return shortened(
    `${named(rows.map(row => row.name))} still ${runs}, at ${perHour(rate)}: ${file(path)} opened ${them}.`
  );
}

/** The last end of each pod among new events. */
export function endings(events: readonly Event[]): Map<string, Event> {
  const found = new Map<string, Event>();
  for (const event of events) {
    if (event.endpoint !== null && ENDINGS.includes(event.kind)) {
      found.set(event.endpoint, event);
    }
  }
  return found;
}

/** The kernel of a notebook: its name, and when it went, in ms; null while it is there. */
export interface Used {
  kernelspec: string;
  endedAt: number | null;
}

/** Whether a notebook used this kernel when its pod ended. */
export function used(kernel: Used | undefined, kernelspec: string | undefined, now: number): boolean {
  return (
    kernel !== undefined &&
    kernel.kernelspec === kernelspec &&
    (kernel.endedAt === null || now - kernel.endedAt < TOGETHER_MS)
  );
}

/** `train has stopped: nobody used it for 30 min. eda.ipynb ran in it.` */
export function closedUnder(event: Event, paths: readonly string[]): string {
  const behind = `. ${named(paths.map(file))} ran in it.`;
  const text = event.text.replace(/\.$/, '');
  const most = 138 - behind.length;
  return `${text.length > most ? `${text.slice(0, most - 1)}…` : text}${behind}`;
}
