import type { Host, HostFacts, Summary } from '../api/schema';
import { Cell, cell, known } from '../verbs/cell';
import { perHour, plural, size } from './format';
import { rateOf, rests } from './pods';

const ROW = 'host:';

/** As a view calls its row: a host may have the name of an endpoint or a pod. */
export function hostRow(name: string): string {
  return `${ROW}${name}`;
}

export function isHostRow(row: string | null): boolean {
  return row?.startsWith(ROW) ?? false;
}

/** `ada@lab1.example.org:2222`; empty where its settings cannot be read. */
export function addressText(host: Host): string {
  return host.address && `${host.user}@${host.address}${host.port === 22 ? '' : `:${host.port}`}`;
}

/** `2 × H100, A100`, or `no GPU`. */
export function gpusText({ gpus }: HostFacts): string {
  const counts = new Map<string, number>();
  gpus.forEach(gpu => counts.set(gpu, (counts.get(gpu) ?? 0) + 1));
  return [...counts].map(([gpu, count]) => (count > 1 ? `${count} × ${gpu}` : gpu)).join(', ') || 'no GPU';
}

/** What it has, in parts. */
export function machineTexts(facts: HostFacts): string[] {
  return [
    gpusText(facts),
    plural(facts.cpus, 'processor'),
    `${size(facts.memory)} memory`,
    `${size(facts.diskFree)} disk free`
  ];
}

/** What runs at a place, and what that costs now. */
export interface Load {
  names: readonly string[];
  /** dollars an hour */
  rate: number;
}

export function loadOf(place: string, summary: Summary): Load {
  const pods = summary.pods.filter(pod => pod.on === place && !rests(pod));
  // what is parked is stopped, and costs nothing
  const endpoints = summary.endpoints
    .map(row => ({ row, workers: row.workers.filter(worker => worker.place === place && worker.state !== 'parked') }))
    .filter(({ workers }) => workers.length > 0);
  return {
    names: [...pods.map(pod => pod.name), ...endpoints.map(({ row, workers }) => `${row.name} (${plural(workers.length, 'worker')})`)],
    rate: [...pods.map(rateOf), ...endpoints.flatMap(({ workers }) => workers.map(worker => Number(worker.ratePerHour)))].reduce((sum, rate) => sum + rate, 0)
  };
}

/** `far, chat (2 workers)`. */
export function runsText({ names }: Load): string {
  return names.length > 0 ? `runs ${names.join(', ')}` : 'nothing runs there';
}

/** What an hour of all that runs there costs now. */
export function costText(host: Host, { rate }: Load): string {
  return host.priced || rate > 0 ? perHour(rate) : 'no price set';
}

/** Why it is not connected, and what to do. */
export function reasonOf(host: Host): string {
  return host.state === 'connected' ? '' : `${host.sentence} ${host.nextStep}`.trim();
}

/** `2 hosts, in use: lab1`. */
export function hostsText({ hosts, place }: Summary): string {
  return hosts.length > 0 ? `${plural(hosts.length, 'host')}, in use: ${place}` : 'No hosts yet.';
}

/** What is asked before a host is removed. */
export function removal(name: string, summary: Summary | null): { title: string; body: string } {
  const pods = summary?.hosts.find(host => host.name === name)?.pods ?? [];
  const held = pods.length > 0 ? `It has the pods ${pods.join(', ')}, which must be deleted first. ` : '';
  return {
    title: `Remove ${name}?`,
    body: `${held}It is forgotten here; what was made there stays on its disk, in ~/.nbgpu.`
  };
}

/** An action of `host` as a cell; null where a notebook has no such verb. */
export function hostCell(action: 'check' | 'reconnect' | 'rm', name: string): (() => Cell) | null {
  return known('host') ? () => cell('host', { action, name }) : null;
}

export function useCell(place: string): (() => Cell) | null {
  return known('use') ? () => cell('use', { place }) : null;
}
