import { expect, test } from 'vitest';
import { event } from '../testing/samples';
import { shortened, worthTelling } from './telling';

test('only failures are told, and one endpoint not again and again', () => {
  const told = new Map<string, number>();
  const died = (seq: number, endpointId: string) => event(seq, { kind: 'worker.died', endpointId });
  expect(worthTelling([event(1), died(2, 'a'), died(3, 'a'), died(4, 'b')], told).map(one => one.seq)).toEqual([2, 4]);
  expect(worthTelling([died(70, 'a')], told).map(one => one.seq)).toEqual([70]);
});

test('a long text is cut to what Jupyter shows', () => {
  expect(shortened('x'.repeat(500)).length).toBeLessThan(140);
});
