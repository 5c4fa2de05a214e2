import { expect, test, vi } from 'vitest';
import type { Piece } from '../api/answer';
import { Failure } from '../api/problem';
import { fake } from '../testing/hands';
import { Trial } from './trial';
import { View } from './view';

test('an action is shown while it is done, and what failed after it', async () => {
  const { client, hands } = fake();
  client.act.mockRejectedValueOnce(new Failure('It is stuck.', 'Wait.'));
  const doing = hands.actions.stop('chat');
  expect(hands.actions.doing.get('chat')).toBe('stopping');
  await doing;
  expect(hands.actions.doing.size).toBe(0);
  expect(hands.actions.failed.get('chat')?.message).toBe('It is stuck. Wait.');
  expect(client.changes).toHaveBeenCalled();
  hands.actions.forget('chat');
  expect(hands.actions.failed.size).toBe(0);
});

test('the same endpoint is not stopped twice at a time', async () => {
  const { client, hands } = fake();
  await Promise.all([hands.actions.stop('chat'), hands.actions.stop('chat')]);
  expect(client.act).toHaveBeenCalledTimes(1);
});

test('many stops go through a few at a time', async () => {
  const { client, hands } = fake();
  let [now, most] = [0, 0];
  client.act.mockImplementation(async () => {
    now += 1;
    most = Math.max(most, now);
    await new Promise(done => setTimeout(done, 1));
    now -= 1;
    return null as never;
  });
  await hands.actions.stopAll(Array.from({ length: 12 }, (_, n) => `e${n}`));
  expect(client.act).toHaveBeenCalledTimes(12);
  expect(most).toBe(4);
});

const text = (said: string): Piece => ({ kind: 'text', text: said });

test('a trial gathers the answer and what it took', async () => {
  const done = { queue_ms: 1, cold: false, first_byte_ms: 2, total_ms: 3, tokens_in: 1, tokens_out: 2, cost: null };
  // eslint-disable-next-line @typescript-eslint/require-await -- a generator of what is there already
  const trial = new Trial('chat', async function* (): AsyncGenerator<Piece> {
    yield text('Hel');
    yield text('lo');
    yield { kind: 'done', done };
  });
  await trial.ask();
  expect(trial.state).toBe('new'); // nothing was asked
  trial.edit({ text: 'Hello?' });
  await trial.ask();
  expect([trial.state, trial.answer, trial.done]).toEqual(['done', 'Hello', done]);
});

test('a cancelled trial keeps what it has, and is no failure', async () => {
  const trial = new Trial('chat', async function* (_, __, signal): AsyncGenerator<Piece> {
    yield text('Hel');
    await new Promise((_, reject) =>
      signal.addEventListener('abort', () => reject(new DOMException('aborted', 'AbortError')))
    );
  });
  trial.edit({ text: 'Hello?' });
  const asked = trial.ask();
  await vi.waitFor(() => expect(trial.answer).toBe('Hel'));
  trial.cancel();
  await asked;
  expect([trial.state, trial.problem, trial.answer]).toEqual(['cancelled', null, 'Hel']);
});

test('a failed trial says why', async () => {
  // eslint-disable-next-line require-yield, @typescript-eslint/require-await -- it fails before the first word
  const trial = new Trial('chat', async function* (): AsyncGenerator<Piece> {
    throw new Failure('The worker died.');
  });
  trial.edit({ text: 'Hello?' });
  await trial.ask();
  expect([trial.state, trial.problem?.what]).toEqual(['failed', 'The worker died.']);
});

test('what no longer exists is neither selected nor open', () => {
  const view = new View();
  view.select(['a', 'b']);
  view.toggle('a');
  view.keep(['b']);
  expect([[...view.selected], view.open]).toEqual([['b'], null]);
});

test('a row that was just made stays open until it is here', () => {
  const view = new View();
  view.show('new');
  view.keep([]);
  expect(view.open).toBe('new');
});
