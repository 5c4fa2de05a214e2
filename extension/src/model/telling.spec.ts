import { expect, test } from 'vitest';
import { event } from '../testing/samples';
import { shortened, worthTelling, uncounted } from './telling';

test('only failures are told, and one endpoint not again and again', () => {
  const told = new Map<string, number>();
  const died = (seq: number, endpointId: string) => event(seq, { kind: 'worker.died', endpointId });
  expect(worthTelling([event(1), died(2, 'a'), died(3, 'a'), died(4, 'b')], told).map(one => one.seq)).toEqual([2, 4]);
  expect(worthTelling([died(70, 'a')], told).map(one => one.seq)).toEqual([70]);
});

test('a long text is cut to what Jupyter shows', () => {
  expect(shortened('x'.repeat(500)).length).toBeLessThan(140);
});

test('a wait is counted once', () => {
  expect(uncounted('starting a worker: import (3 s, usually 9 s)')).toBe('starting a worker: import');
  expect(uncounted('queued (2 before it)')).toBe('queued (2 before it)');
});
