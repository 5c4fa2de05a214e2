import { expect, test } from 'vitest';
import { event, pod, stopped } from '../testing/samples';
import { closedUnder, endings, isFrom, leftRunning, openedBy, used } from './companions';

test('a pod is of the notebook that opened it', () => {
  expect(isFrom('/home/ada/work/a/eda.ipynb', 'a/eda.ipynb', '/home/ada/work')).toBe(true);
  expect(isFrom('/home/ada/work/a/eda.ipynb', 'a/eda.ipynb', '/home/ada/work/')).toBe(true);
  expect(isFrom('/home/eve/work/a/eda.ipynb', 'a/eda.ipynb', '/home/ada/work')).toBe(false);
  expect(isFrom('/elsewhere/a/eda.ipynb', 'a/eda.ipynb', '')).toBe(true);
  expect(isFrom('a/eda.ipynb', 'a/eda.ipynb', '/x')).toBe(true);
  expect(isFrom(null, 'a/eda.ipynb', '')).toBe(false);
  expect(isFrom('/x/', '', '/x')).toBe(false);
});

test('only what runs is left behind', () => {
  const origin = '/w/eda.ipynb';
  const rows = [
    pod('a', { origin }), stopped('b', { origin }), pod('c', { origin: '/w/other.ipynb' }), pod('d'),
    pod('e', { origin, state: 'stopping' })
  ];
  expect(openedBy(rows, 'eda.ipynb', '/w').map(row => row.name)).toEqual(['a']);
});

test('the card names them and what they cost an hour', () => {
  expect(leftRunning([pod('train')], 'a/eda.ipynb')).toBe('train still runs, at $0/h: eda.ipynb opened it.');
  const rows = ['a', 'b', 'c', 'd', 'e'].map(name => pod(name, { ratePerHour: '0.50' }));
  expect(leftRunning(rows.slice(0, 2), 'eda.ipynb')).toBe('a and b still run, at $1.00/h: eda.ipynb opened them.');
  expect(leftRunning(rows, 'eda.ipynb')).toBe('a, b, c and 2 more still run, at $2.50/h: eda.ipynb opened them.');
});

test('the last end of a pod counts', () => {
  const found = endings([
    event(1, { kind: 'pod.stopping', endpoint: 'a' }),
    event(2, { kind: 'pod.stopped', endpoint: 'a' }),
    event(3, { kind: 'pod.deleted', endpoint: 'a' }),
    event(4, { kind: 'endpoint.stopped', endpoint: 'chat' })
  ]);
  expect([...found].map(([name, { kind }]) => `${name} ${kind}`)).toEqual(['a pod.deleted']);
});

test('a kernel that went with its pod was used, one that was shut down before was not', () => {
  const spec = 'nbgpu-a';
  expect(used({ kernelspec: spec, endedAt: null }, spec, 0)).toBe(true);
  expect(used({ kernelspec: spec, endedAt: 1000 }, spec, 5000)).toBe(true);
  expect(used({ kernelspec: spec, endedAt: 1000 }, spec, 900_000)).toBe(false);
  expect(used({ kernelspec: 'python3', endedAt: null }, spec, 0)).toBe(false);
  expect(used(undefined, undefined, 0)).toBe(false);
});

test('the reason is told with the notebooks, and fits', () => {
  const told = event(1, { kind: 'pod.stopped', text: 'a has stopped: nobody used it for 30 min' });
  expect(closedUnder(told, ['x/eda.ipynb'])).toBe('a has stopped: nobody used it for 30 min. eda.ipynb ran in it.');
  const long = closedUnder(event(1, { text: 'x'.repeat(500) }), ['eda.ipynb']);
  expect(long.length).toBeLessThanOrEqual(140);
  expect(long).toContain('…. eda.ipynb ran in it.');
});
