import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { changes, event, row, summary } from '../testing/samples';
import type { Changes } from '../api/schema';
import { KEPT, State, Wake } from './state';

const up = (seq: number, ...kinds: string[]): Wake => ({ seq, kinds, backend: 'up' });

function source(...answers: (Changes | Error)[]) {
  const asked: (number | null)[] = [];
  return {
    asked,
    peek: vi.fn((): Promise<Changes | null> => Promise.resolve(null)),
    changes: (since: number | null): Promise<Changes> => {
      asked.push(since);
      const answer = answers.shift() ?? changes(since ?? 0);
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
    }
  };
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const state = (of: ReturnType<typeof source>): State => new State(of, () => Date.now());

test('nothing is asked until someone looks or the bus speaks', async () => {
  const from = source();
  state(from);
  await vi.advanceTimersByTimeAsync(120_000);
  expect(from.asked).toEqual([]);
});

test('a page that opens shows what runs, and asks no more', async () => {
  const from = source();
  from.peek.mockResolvedValue(changes(3, [event(3)], { summary: summary([row('chat')]) }));
  const found = state(from);
  const news = vi.fn();
  found.news.connect(news);
  await found.peek();
  expect(found.endpoint('chat')).toBeTruthy();
  found.attend(true);
  await vi.advanceTimersByTimeAsync(120_000);
  expect(from.asked).toEqual([]);
  expect(news).not.toHaveBeenCalled();
  found.wake(up(4, 'worker.ready'));
  await vi.advanceTimersByTimeAsync(1000);
  expect(from.asked).toEqual([3]);
});

test('a page that opens without a backend knows nothing, and the panel reads everything', async () => {
  const from = source(changes(1));
  const found = state(from);
  await found.peek();
  expect(found.connection).toBe('unknown');
  found.attend(true);
  await vi.advanceTimersByTimeAsync(1000);
  expect(from.asked).toEqual([null]);
});

test('what was read meanwhile is newer than the first look', async () => {
  const from = source(changes(9));
  let answer: (found: Changes) => void = () => undefined;
  from.peek.mockReturnValue(new Promise(resolve => (answer = resolve)));
  const found = state(from);
  const peeked = found.peek();
  found.attend(true);
  await vi.advanceTimersByTimeAsync(1000);
  answer(changes(3));
  await peeked;
  expect(found.seq).toBe(9);
});

test('the first look reads everything, and then nothing more', async () => {
  const from = source(changes(3, [event(1), event(2), event(3)]));
  const found = state(from);
  found.attend(true);
  await vi.advanceTimersByTimeAsync(120_000);
  expect(from.asked).toEqual([null]);
  expect(found.events.map(one => one.seq)).toEqual([3, 2, 1]);
  expect(found.connection).toBe('up');
});

test('a wake reads what came since, newest first', async () => {
  const from = source(changes(1, [event(1)]), changes(3, [event(2), event(3)]));
  const found = state(from);
  const news: number[] = [];
  found.news.connect((_, { events }) => news.push(...events.map(one => one.seq)));
  found.attend(true);
  await vi.advanceTimersByTimeAsync(1000);
  found.wake(up(3, 'worker.ready'));
  await vi.advanceTimersByTimeAsync(0);
  expect(from.asked).toEqual([null, 1]);
  expect(found.events.map(one => one.seq)).toEqual([3, 2, 1]);
  expect(news).toEqual([2, 3]);
});

test('what is known already is not asked for, figures that moved are', async () => {
  const from = source(changes(5));
  const found = state(from);
  found.attend(true);
  await vi.advanceTimersByTimeAsync(1000);
  found.wake(up(5, 'worker.ready'));
  await vi.advanceTimersByTimeAsync(1000);
  expect(from.asked).toEqual([null]);
  found.wake(up(5, 'requests'));
  await vi.advanceTimersByTimeAsync(1000);
  expect(from.asked).toEqual([null, 5]);
});

test('many wakes in a second are few requests, and the last one counts', async () => {
  const from = source();
  const found = state(from);
  found.attend(true);
  await vi.advanceTimersByTimeAsync(1000);
  for (let n = 0; n < 20; n++) {
    found.wake(up(n, 'requests'));
    await vi.advanceTimersByTimeAsync(50);
  }
  await vi.advanceTimersByTimeAsync(1000);
  expect(from.asked.length).toBeGreaterThan(3);
  expect(from.asked.length).toBeLessThan(9);
});

test('while nobody looks it asks seldom', async () => {
  const from = source();
  const found = state(from);
  for (let n = 0; n < 40; n++) {
    found.wake(up(n, 'requests'));
    await vi.advanceTimersByTimeAsync(50);
  }
  expect(from.asked.length).toBeLessThanOrEqual(2);
});

test('a gap is a snapshot: what was shown is dropped, and it is no news', async () => {
  const from = source(changes(1, [event(1)]), changes(900, [event(899), event(900)], { gap: true }));
  const found = state(from);
  let dropped: number[] = [];
  found.changed.connect(() => {
    dropped = found.events.map(one => one.seq);
  });
  found.attend(true);
  await vi.advanceTimersByTimeAsync(1000);
  found.wake(up(900, 'worker.ready'));
  await vi.advanceTimersByTimeAsync(1000);
  expect(dropped).toEqual([900, 899]);
  expect(found.seq).toBe(900);
});

test('another store, which counts from less, is read anew', async () => {
  const from = source(changes(50, [event(50)]), changes(2), changes(2, [event(2)]));
  const found = state(from);
  found.attend(true);
  await vi.advanceTimersByTimeAsync(1000);
  found.wake(up(2, 'backend'));
  await vi.advanceTimersByTimeAsync(1000);
  expect(from.asked).toEqual([null, 50, null]);
  expect(found.events.map(one => one.seq)).toEqual([2]);
});

test('events are kept up to a number', async () => {
  const many = Array.from({ length: KEPT + 10 }, (_, n) => event(n + 1));
  const from = source(changes(KEPT, many.slice(0, KEPT)), changes(KEPT + 10, many.slice(KEPT)));
  const found = state(from);
  found.attend(true);
  await vi.advanceTimersByTimeAsync(1000);
  await found.refresh();
  expect(found.events.length).toBe(KEPT);
  expect(found.events[0]?.seq).toBe(KEPT + 10);
});

test('a backend that ended is told, shown as it was, and not started again by us', async () => {
  const from = source(changes(1, [], { summary: summary([row('chat')]) }));
  const found = state(from);
  found.attend(true);
  await vi.advanceTimersByTimeAsync(1000);
  found.wake({ seq: 1, kinds: ['backend'], backend: 'down' });
  await vi.advanceTimersByTimeAsync(60_000);
  expect(found.connection).toBe('down');
  expect(found.endpoint('chat')?.name).toBe('chat');
  expect(from.asked).toEqual([null]);
  found.wake(up(1, 'backend'));
  await vi.advanceTimersByTimeAsync(1000);
  expect(found.connection).toBe('up');
});

test('a failed request is a sentence, and is not repeated', async () => {
  const from = source(new Error('It is on fire.'));
  const found = state(from);
  found.attend(true);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(found.problem?.what).toBe('It is on fire.');
  expect(from.asked).toEqual([null]);
});

test('changes during a request lead to one more', async () => {
  const from = source();
  const found = state(from);
  found.attend(true);
  found.wake(up(1, 'worker.ready'));
  found.wake(up(2, 'worker.ready'));
  await vi.advanceTimersByTimeAsync(1000);
  expect(from.asked.length).toBe(2);
});
