import type { Pod, PodRow, Summary, Volume } from '../api/schema';
import { plural, size, span } from './format';
import type { Sort } from './order';

/** What wants attention comes first. */
const STATES = ['failed', 'unreachable', 'busy', 'preparing', 'starting', 'idle', 'stopping', 'stopped'];
/** It does not run, and costs nothing. */
const RESTS = ['stopped', 'failed'];
const UNPAID = [...RESTS, 'preparing'];
/** From then on an end by itself is worth a warning, in seconds. */
export const SOON_S = 300;

function rank(state: string): number {
  const found = STATES.indexOf(state);
  return found < 0 ? STATES.length : found;
}

/** As endpoints are sorted; what wants attention first where nothing else tells them apart. */
export function arrangePods(rows: readonly PodRow[], sort: Sort): PodRow[] {
  const cost = (row: PodRow): number => (sort === 'cost' ? Number(row.costSoFar) : 0);
  const state = (row: PodRow): number => (sort === 'name' ? 0 : rank(row.state));
  return [...rows].sort(
    (a, b) => cost(b) - cost(a) || state(a) - state(b) || a.name.localeCompare(b.name, 'en', { numeric: true })
  );
}

/** Whether it can be started. */
export function rests(row: PodRow): boolean {
  return RESTS.includes(row.state);
}

/** Whether a kernel can be had of it. */
export function ready(row: PodRow): row is PodRow & { kernelspec: string } {
  return row.kernelspec !== null;
}

/** Dollars an hour now. */
export function rateOf(row: PodRow): number {
  return UNPAID.includes(row.state) ? 0 : Number(row.ratePerHour);
}

/** `local cpu 2` or `local H100`. */
export function placeText(row: PodRow): string {
  return `${row.on} ${row.gpu ?? `cpu ${row.cpu ?? ''}`}`.trim();
}

/** `3 pods, 2 running`. */
export function podsText(rows: readonly PodRow[]): string {
  const running = rows.filter(row => !rests(row)).length;
  return `${plural(rows.length, 'pod')}, ${running === 0 ? 'none' : running} running`;
}

/** Seconds until it ends by itself, by the backend's clock; null if it does not. `at` and `now` in ms. */
export function leftS(row: PodRow, summary: Summary, at: number, now: number): number | null {
  return row.stopsAtUs === null || rests(row) ? null : (row.stopsAtUs - summary.atUs) / 1e6 - Math.max(0, now - at) / 1000;
}

/** `stops in 12 min: nobody used it`. */
export function stopsText(row: PodRow, left: number): string {
  const seconds = Math.max(0, left);
  // seconds matter only where few are left
  const text = seconds < 1 ? 'now' : `in ${span(seconds > SOON_S ? Math.ceil(seconds / 60) * 60 : Math.ceil(seconds))}`;
  return `stops ${text}${row.stopsWhy && `: ${row.stopsWhy}`}`;
}

/** One thing that it uses: in words, and as a part of what there is (0 to 1), if that is known. */
export interface Gauge {
  label: string;
  text: string;
  share: number | null;
}

function part(used: number, of: number | null | undefined): number | null {
  return of ? Math.min(1, Math.max(0, used / of)) : null;
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

/** What it uses now. `pod` tells more of it, once it is read. */
export function gauges(row: PodRow, pod: Pod | null): Gauge[] {
  const { memoryBytes, memoryLimit, cpu, processes, terminals } = row.use;
  const most = pod?.nbgpu.limits.processes;
  const found: Gauge[] = [
    {
      label: 'memory',
      text: memoryLimit > 0 ? `${size(memoryBytes)} of ${size(memoryLimit)}` : size(memoryBytes),
      share: part(memoryBytes, memoryLimit)
    },
    {
      label: 'processor',
      text: row.cpu === null ? `${percent(cpu)} of a core` : `${percent(cpu)} of ${percent(row.cpu)}`,
      share: part(cpu, row.cpu)
    },
    {
      label: 'processes',
      text: most === undefined ? String(processes) : `${processes} of at most ${most.toLocaleString('en-US')}`,
      share: part(processes, most)
    }
  ];
  if (terminals > 0) {
    found.push({ label: 'terminals', text: String(terminals), share: null });
  }
  const gpus = pod?.runtime?.gpus ?? [];
  gpus.forEach(({ util, memoryUtil }, index) => {
    const label = gpus.length > 1 ? `GPU ${index}` : 'GPU';
    found.push(
      { label, text: `${util} %`, share: part(util, 100) },
      { label: `${label} memory`, text: `${memoryUtil} %`, share: part(memoryUtil, 100) }
    );
  });
  return found;
}

/** The same in a few words: `1.2 GB`, `120 % cpu`. */
export function usedText(row: PodRow): string {
  return `${size(row.use.memoryBytes)}, ${percent(row.use.cpu)} cpu`;
}

/** What another answer about it would differ in: gauges of GPUs are in that answer alone. */
export function podStamp(row: PodRow): string {
  const { state, reasonSinceUs, kernel, startedUs, gpu, use } = row;
  return JSON.stringify([state, reasonSinceUs, kernel, startedUs, gpu === null ? null : use]);
}

/** What goes with it, and what stays. `volume` is its own; null if it is not known. */
export function losses(row: PodRow, volume: Volume | null): { lost: string[]; stays: string } {
  const lost = ['its home, with the packages that were installed in it'];
  if (!rests(row)) {
    const terminals = row.use.terminals > 0 ? ` and ${plural(row.use.terminals, 'terminal')}` : '';
    lost.unshift(`what runs in it: its kernel, with all variables${terminals}`);
  }
  if (row.volumeName === null) {
    const bytes = volume?.nbgpu.bytesUsed;
    const held = bytes === null || bytes === undefined ? 'all files in it' : `${size(bytes)} of files`;
    lost.push(`its volume, /workspace, with ${held}, unless it is kept`);
  }
  return { lost, stays: row.volumeName === null ? '' : `The volume ${row.volumeName}, its /workspace, stays.` };
}
