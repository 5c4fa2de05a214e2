import { expect, test } from 'vitest';
import { row } from '../testing/samples';
import { costAt, rateAt, sparkAt, workersText } from './figures';
import { clock, dollars, duration, latency, perSecond, span } from './format';
import { arrange } from './order';

test('dollars are as the magics write them', () => {
  expect([0, 0.41, 1204, 0.0995, 0.0012, 0.05, 0.00000001, -0.5].map(dollars)).toEqual([
    '$0', '$0.41', '$1,204.00', '$0.10', '$0.0012', '$0.05', 'less than $0.000001', '-$0.50'
  ]);
});

test('times are as the magics write them', () => {
  expect([0.04, 0.4, 21.4, 125, 7800, 273_600].map(span)).toEqual([
    '40 ms', '0.4 s', '21.4 s', '2 min 5 s', '2 h 10 min', '3 d 4 h'
  ]);
  expect([45, 60, 300, 3600, 90].map(duration)).toEqual(['45s', '1m', '5m', '1h', '90s']);
  expect([null, 21, 2410, 41_000].map(latency)).toEqual(['–', '21 ms', '2.4 s', '41 s']);
  expect([0, 0.017, 0.25, 12].map(perSecond)).toEqual(['0/s', '0.02/s', '0.3/s', '12/s']);
});

test('a time of another day has its date', () => {
  const at = new Date(2026, 10, 24, 9, 30, 5).getTime();
  expect(clock(at * 1000, at)).toBe('09:30:05');
  expect(clock(at * 1000, at + 86_400_000)).toBe('2026-11-24 09:30');
});

test('costs run on at their rate', () => {
  expect(costAt(row('a', { costSoFar: '1', ratePerHour: '3.60' }), 0, 10_000)).toBeCloseTo(1.01);
});

test('requests move to the left as time goes by', () => {
  expect(sparkAt([1, 2, 3], 0, 4999)).toEqual([1, 2, 3]);
  expect(sparkAt([1, 2, 3], 0, 10_000)).toEqual([3, 0, 0]);
  expect(sparkAt([1, 2, 3], 0, 1e9)).toEqual([0, 0, 0]);
});

test('a rate sinks to nothing though nobody says so', () => {
  const busy = row('a', { requestsPerS: 1, spark: [...Array<number>(59).fill(0), 60] });
  expect(rateAt(busy, 0, 1000)).toBe(1);
  expect(rateAt(busy, 0, 30_000)).toBe(1);
  expect(rateAt(busy, 0, 61_000)).toBe(0);
});

test('workers are counted by state', () => {
  expect(workersText(row('a', { workersByState: { running: 2, idle: 1, stopped: 0 } }))).toBe('2 running, 1 idle');
  expect(workersText(row('a'))).toBe('no workers');
});

test('rows are sorted by cost, name or state, and by name where these are equal', () => {
  const rows = [
    row('c10', { costSoFar: '2', state: 'asleep' }),
    row('c9', { costSoFar: '2', state: 'failed' }),
    row('a', { costSoFar: '10', state: 'busy' })
  ];
  const names = (sort: Parameters<typeof arrange>[2]): string[] => arrange(rows, '', sort).map(one => one.name);
  expect(names('cost')).toEqual(['a', 'c9', 'c10']);
  expect(names('name')).toEqual(['a', 'c9', 'c10']);
  expect(names('state')).toEqual(['c9', 'a', 'c10']);
});

test('a search holds every word, in name, model, state or place', () => {
  const rows = [row('chat', { model: 'Qwen/Small' }), row('other')];
  expect(arrange(rows, 'QWEN asleep', 'name').map(one => one.name)).toEqual(['chat']);
  expect(arrange(rows, 'qwen stopped', 'name')).toEqual([]);
});
