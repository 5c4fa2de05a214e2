import { expect, test, vi } from 'vitest';
import { Failure } from '../api/problem';
import { fake } from '../testing/hands';
import { event, row, summary, why, worker } from '../testing/samples';
import { cell } from '../verbs/cell';
import { seconds } from './format';
import { happening } from './happening';
import { changeOf, complaint, draftFrom, draftOf, priceOf, ScaleDraft, valuesOf } from './scaling';
import { figures, stamp, steps } from './story';
import { isWarm, until, warmValues, warmWorkers } from './warmth';
import { age, ageS, arranged, traits, workerCostAt } from './workers';

vi.mock('../verbs/verbs.json', async original => {
  const { withScaling } = await import('../testing/verbs');
  return { default: withScaling((await original<{ default: { name: string }[] }>()).default) };
});

const SET = { workers: { min: 0, max: 2, idleTimeout: 60 }, ratePerHour: '3.60' };
const draft = (change: Partial<ScaleDraft> = {}) => ({ ...draftFrom('chat', SET), ...change });

test('a length of time is read as the magics read it', () => {
  expect(['45', '30s', ' 5m ', '1h30m', '1d'].map(seconds)).toEqual([45, 30, 300, 5400, 86_400]);
  expect(['', 'soon', '5 m', '1.5h', '-3s'].map(seconds)).toEqual([null, null, null, null, null]);
});

test('only what is changed is sent', () => {
  expect(changeOf(draft())).toEqual({});
  expect(changeOf(draft({ most: 4 }))).toEqual({ max: 4 });
  expect(changeOf(draft({ alwaysOn: 1, idle: '5m' }))).toEqual({ min: 1, idleTimeout: 300 });
  expect(changeOf(draft({ idle: '60' }))).toEqual({});
});

test('what cannot be sent is said as a sentence with the next step', () => {
  expect(complaint(draft())).toBeNull();
  expect(complaint(draft({ most: NaN }))).toContain('“At most” is a number from 0 to 64');
  expect(complaint(draft({ alwaysOn: 1.5 }))).toContain('“Always on”');
  expect(complaint(draft({ most: 65 }))).toContain('0 to 64');
  expect(complaint(draft({ alwaysOn: 3 }))).toBe('3 always on is more than at most 2 allows. Allow 3 or more.');
  expect(complaint(draft({ idle: 'soon' }))).toContain('Write it as in: 30s, 5m, 2h, 1d');
  expect(complaint(draft({ idle: '2d' }))).toContain('1s to 1d');
});

test('it says what an hour may cost, and a month of what never stops', () => {
  expect(priceOf(draft({ most: 4 }))).toBe('At most $14.40/h: 4 workers at $3.60/h.');
  expect(priceOf(draft({ alwaysOn: 1 }))).toContain('1 always on: about $2,628.00 a month.');
  expect(priceOf(draft({ was: { ...SET, ratePerHour: '0' } }))).toContain('no price is set');
  expect(priceOf(draft({ most: NaN }))).toBe('');
  expect(priceOf(draftOf(row('chat')))).toBe('');
});

test('the form and its cell say the same', () => {
  const line = (change: Partial<ScaleDraft>): string => cell('scale', valuesOf(draft(change))).source;
  expect(line({ most: 4, idle: '5m' })).toBe('%gpu scale chat --workers 4 --idle 5m');
  expect(line({ alwaysOn: 1 })).toBe('%gpu scale chat --always-on 1');
  expect(line({})).toBe('%gpu scale chat --workers 2 --always-on 0 --idle 1m');
  expect(line({ most: NaN, idle: 'soon' })).toBe('%gpu scale chat --workers 2 --always-on 0 --idle 1m');
});

test('warm is a cell, too', () => {
  expect(cell('warm', warmValues('chat', 7200)).source).toBe('%gpu warm chat --for 2h');
  expect(cell('warm', warmValues('chat', 7200, 3)).source).toBe('%gpu warm chat --for 2h --workers 3');
  expect(cell('warm', warmValues('chat', 0)).source).toBe('%gpu warm chat --off');
});

test('it is warm until then by the backend’s clock, whatever the browser’s says', () => {
  const warm = row('chat', { warmUntilUs: 60_000_000 });
  const looked = summary([warm], { atUs: 0 });
  expect([0, 59_999, 60_000].map(passed => isWarm(warm, looked, 5_000_000, 5_000_000 + passed))).toEqual([true, true, false]);
  expect(isWarm(row('chat'), looked, 0, 0)).toBe(false);
  const at = new Date(2026, 10, 24, 14, 30).getTime();
  expect(until(at * 1000, at)).toBe('14:30');
  expect(until(at * 1000, at - 86_400_000)).toBe('2026-11-24 14:30');
});

test('to prolong warmth lets none of its workers go', () => {
  expect(warmWorkers(row('chat'))).toBe(1);
  expect(warmWorkers(row('chat', { workersMin: 3 }))).toBe(1);
  expect(warmWorkers(row('chat', { workersMin: 3, warmUntilUs: 1 }))).toBe(3);
});

test('an action warms, and what is refused is shown at the row', async () => {
  const { client, hands } = fake();
  await hands.actions.warm('chat', 1800);
  expect(client.warm).toHaveBeenCalledWith('chat', 1800, 1);
  client.warm.mockRejectedValueOnce(new Failure('It is stopped.'));
  const doing = hands.actions.warm('chat', 0);
  expect(hands.actions.doing.get('chat')).toBe('cooling');
  await doing;
  expect(hands.actions.failed.get('chat')?.what).toBe('It is stopped.');
});

test('a scale that is refused is thrown, for its form', async () => {
  const { client, hands } = fake();
  client.scale.mockRejectedValueOnce(new Failure('They contradict each other.'));
  await expect(hands.actions.scale('chat', { max: 1 })).rejects.toThrow('contradict');
  expect(client.changes).not.toHaveBeenCalled();
});

test('workers that work come first, and those that leave last', () => {
  const workers = ['draining', 'parked', 'idle', 'odd', 'running'].map(state => worker(`w-${state}`, { state }));
  expect(arranged(workers).map(one => one.state)).toEqual(['running', 'idle', 'parked', 'draining', 'odd']);
});

test('a worker says how it started, what it holds and on what', () => {
  expect(traits(worker('w-1f', { tier: 'preimported', held: 2, gpu: 'RTX4090' }))).toBe(
    'pre-imported start · holds 2 requests · RTX4090 · w-1f'
  );
  expect(traits(worker('w-1f', { tier: '' }))).toBe('w-1f');
});

test('a time in a state counts by the backend’s clock', () => {
  expect(ageS(1_000_000, summary([], { atUs: 4_000_000 }), 500, 2500)).toBe(5);
  expect([0.4, 1.9, 125].map(age)).toEqual(['now', '1 s', '2 min 5 s']);
});

test('workers that are paid for share the rate; a parked one stays as it is', () => {
  const workers = [worker('a', { costSoFar: '1' }), worker('b'), worker('c', { state: 'parked', costSoFar: '2' })];
  const chat = row('chat', { workers, ratePerHour: '7.20' });
  expect(workers.map(one => workerCostAt(one, chat, 0, 10_000))).toEqual([1.01, 0.01, 2]);
});

const told = (kind: string, text: string, values: Record<string, unknown> = {}) => {
  const found = happening(event(1, { kind: `worker.${kind}`, text, values }));
  return [found.name === null ? found.text : `${found.name}: ${found.text}`, found.tone];
};

test('cold starts are shown as such', () => {
  expect(told('ready', '…', { seconds: 2.1, tier: 'preimported' })).toEqual(['chat: cold start 2.1 s (pre-imported)', 'good']);
  expect(told('ready', '…', { seconds: 21.43, tier: 'plain' })).toEqual(['chat: cold start 21.4 s', 'good']);
  expect(told('ready', '…', { seconds: 0.083, tier: 'parked' })).toEqual(['chat: woken 0.08 s', 'good']);
  expect(told('ready', '…', { seconds: 0.0042, tier: 'parked' })[0]).toBe('chat: woken 4 ms');
});

test('parked, fell back and throttled say why', () => {
  expect(told('parked', 'A worker of chat is parked: without work for 60 s; it is kept for 10 min')).toEqual([
    'chat: parked: without work for 60 s; it is kept for 10 min', 'quiet'
  ]);
  expect(told('fell_back', 'A worker of chat: it was started plainly: the parent died')).toEqual([
    'chat: fell back: it was started plainly: the parent died', 'warn'
  ]);
  expect(told('throttled', 'chat waits: too little memory: it needs 3.1 GB and 2.0 GB are available')).toEqual([
    'chat: throttled: too little memory: it needs 3.1 GB and 2.0 GB are available', 'warn'
  ]);
});

test('an event that is not understood says its own sentence', () => {
  expect(told('ready', 'A worker is ready', { seconds: 'soon' })).toEqual(['A worker is ready', 'good']);
  expect(told('parked', 'It rests')).toEqual(['It rests', '']);
  expect(told('died', 'A worker of chat failed: no')).toEqual(['A worker of chat failed: no', 'bad']);
  expect(happening(event(1, { endpoint: null, text: 'plain' })).text).toBe('plain');
});

test('what can be typed is found in a next step', () => {
  const typed = (text: string) => steps(text).filter(step => step.typed).map(step => step.text);
  expect(typed('nbgpu ask chat hello   wakes it; nbgpu warm chat   starts it now')).toEqual(['nbgpu ask chat hello', 'nbgpu warm chat']);
  expect(typed('wait: requests are held; nbgpu logs chat   shows the engine')).toEqual(['nbgpu logs chat']);
  expect(typed('nbgpu ask chat hello, or nbgpu stop chat   to stop paying for it')).toEqual(['nbgpu ask chat hello', 'nbgpu stop chat']);
  expect(typed('nbgpu.connect().endpoint("chat").run({…})   wakes it')).toEqual(['nbgpu.connect().endpoint("chat").run({…})']);
  expect(typed('wait: it ends when what it holds is answered')).toEqual([]);
  const text = 'nbgpu ls   shows what else runs; nbgpu stop NAME   frees its memory';
  expect(steps(text).map(step => step.text).join('')).toBe(text);
});

test('a story has the labels and words of the command line', () => {
  const story = why('chat', { typical: 'a plain start takes 12 s here', phases: [{ name: 'import', seconds: 4 }] });
  expect(figures(story, 3, 3600)).toEqual([
    ['since', '15 s ago'], ['cost', '$3.41 so far'], ['typical', 'a plain start takes 12 s here'], ['phases', 'import 4 s']
  ]);
});

test('a story is asked again when its subject is another, and not else', () => {
  const idle = row('chat', { workers: [worker('w-1')] });
  expect(stamp(idle, 'chat')).toBe(stamp({ ...idle, costSoFar: '7', p50Ms: 1 }, 'chat'));
  expect(stamp(idle, 'chat')).not.toBe(stamp({ ...idle, state: 'busy' }, 'chat'));
  expect(stamp(idle, 'w-1')).not.toBe(stamp({ ...idle, workers: [] }, 'w-1'));
});
