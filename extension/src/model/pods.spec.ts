import { expect, test } from 'vitest';
import type { Volume } from '../api/schema';
import { pod, podInFull, stopped, summary } from '../testing/samples';
import { arrangePods, gauges, leftS, losses, placeText, podsText, podStamp, rateOf, stopsText, usedText } from './pods';

const GB = 1_000_000_000;

test('what costs most comes first, then what wants attention', () => {
  const rows = [
    stopped('a'), pod('b', { costSoFar: '2' }), pod('c', { state: 'failed' }), pod('d', { state: 'busy' }), pod('e')
  ];
  const names = (sort: 'cost' | 'state' | 'name') => arrangePods(rows, sort).map(row => row.name).join('');
  expect(names('cost')).toBe('bcdea');
  expect(names('state')).toBe('cdbea');
  expect(names('name')).toBe('abcde');
});

test('its place in words', () => {
  expect(placeText(pod('a'))).toBe('local cpu 2');
  expect(placeText(pod('a', { gpu: 'H100 x 2', cpu: null }))).toBe('local H100 x 2');
});

test('what rests or is being made costs nothing', () => {
  expect(rateOf(pod('a', { ratePerHour: '3.6' }))).toBe(3.6);
  expect(rateOf(stopped('a', { ratePerHour: '3.6' }))).toBe(0);
  expect(rateOf(pod('a', { state: 'preparing', ratePerHour: '3.6' }))).toBe(0);
  expect(podsText([pod('a'), stopped('b')])).toBe('2 pods, 1 running');
  expect(podsText([stopped('b')])).toBe('1 pod, none running');
});

test('an end is counted by the backend’s clock, which need not be the browser’s', () => {
  const told = summary([], { atUs: 5_000_000_000 });
  const row = pod('a', { stopsAtUs: 5_720_000_000, stopsWhy: 'idle' });
  expect(leftS(row, told, 1000, 1000)).toBe(720);
  expect(leftS(row, told, 1000, 121_000)).toBe(600);
  expect(leftS(row, told, 9000, 1000)).toBe(720); // a clock that ticks seldom is behind what was just read
  expect(leftS(pod('a'), told, 0, 0)).toBeNull();
  expect(leftS(stopped('a', { stopsAtUs: 1 }), told, 0, 0)).toBeNull();
});

test('seconds are told only where few are left', () => {
  const row = pod('a', { stopsWhy: 'idle' });
  expect(stopsText(row, 720)).toBe('stops in 12 min: idle');
  expect(stopsText(row, 661)).toBe('stops in 12 min: idle');
  expect(stopsText(row, 7300)).toBe('stops in 2 h 2 min: idle');
  expect(stopsText(row, 125.2)).toBe('stops in 2 min 6 s: idle');
  expect(stopsText(row, 41)).toBe('stops in 41 s: idle');
  expect(stopsText(pod('a'), -3)).toBe('stops now');
});

test('gauges tell what is used of what there is', () => {
  const row = pod('a', {
    use: { memoryBytes: 1.2 * GB, memoryLimit: 8 * GB, cpu: 1.5, processes: 14, terminals: 1 }
  });
  expect(gauges(row, null)).toEqual([
    { label: 'memory', text: '1.2 GB of 8.0 GB', share: 0.15 },
    { label: 'processor', text: '150 % of 200 %', share: 0.75 },
    { label: 'processes', text: '14', share: null },
    { label: 'terminals', text: '1', share: null }
  ]);
  expect(usedText(row)).toBe('1.2 GB, 150 % cpu');
});

test('GPUs are told where there are some', () => {
  const row = pod('a', { gpu: 'H100', cpu: null });
  const runtime = {
    uptime: 1, cpu: { util: 0 }, memory: { util: 0 }, ports: [], gpus: [{ util: 90, memoryUtil: 20 }, { util: 0, memoryUtil: 0 }]
  };
  const found = gauges(row, podInFull('a', {}, { runtime }));
  expect(found.map(one => `${one.label} ${one.text}`)).toEqual([
    'memory 0 B', 'processor 0 % of a core', 'processes 0 of at most 1,024',
    'GPU 0 90 %', 'GPU 0 memory 20 %', 'GPU 1 0 %', 'GPU 1 memory 0 %'
  ]);
  const one = { ...runtime, gpus: runtime.gpus.slice(0, 1) };
  expect(gauges(row, podInFull('a', {}, { runtime: one })).map(gauge => gauge.label)).toContain('GPU');
});

test('a pod without a GPU is not asked for again because its figures move', () => {
  const use = { memoryBytes: 1, memoryLimit: 2, cpu: 0, processes: 1, terminals: 0 };
  expect(podStamp(pod('a', { use }))).toBe(podStamp(pod('a')));
  expect(podStamp(pod('a', { use, gpu: 'H100' }))).not.toBe(podStamp(pod('a', { gpu: 'H100' })));
  expect(podStamp(pod('a', { kernel: 'busy' }))).not.toBe(podStamp(pod('a')));
});

test('a delete names what goes and what stays', () => {
  const volume = {
    id: 'v', name: '', size: 20, dataCenter: 'local', type: 'STANDARD',
    nbgpu: { path: '/x', pods: ['a'], createdUs: 0, bytesUsed: 3 * GB }
  } satisfies Volume;
  const own = losses(pod('a'), volume);
  expect(own.lost).toHaveLength(3);
  expect(own.lost.join()).toContain('3.0 GB of files, unless it is kept');
  expect(own.stays).toBe('');
  const shared = losses(stopped('a', { volumeName: 'data' }), null);
  expect(shared.lost).toEqual(['its home, with the packages that were installed in it']);
  expect(shared.stays).toBe('The volume data, its /workspace, stays.');
  expect(losses(stopped('a'), null).lost.join()).toContain('all files in it');
});
