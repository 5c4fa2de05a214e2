import * as React from 'react';
import { act } from 'react';
import { afterEach, expect, test, vi } from 'vitest';
import { Failure } from '../api/problem';
import { button, click, draw, fake, type } from '../testing/hands';
import { changes, event, row, summary, why as story, worker } from '../testing/samples';
import { Activity } from './activity';
import { Endpoints } from './endpoints';

vi.mock('../verbs/verbs.json', async original => {
  const { withScaling } = await import('../testing/verbs');
  return { default: withScaling((await original<{ default: { name: string }[] }>()).default) };
});

afterEach(() => {
  document.body.replaceChildren();
});

const of = (one: ReturnType<typeof row>, atUs = 0) => changes(1, [], { summary: summary([one], { atUs }) });
const field = (node: Element, label: string) =>
  [...node.querySelectorAll('label')].find(one => one.textContent === label)?.querySelector('input');

async function opened(found: ReturnType<typeof fake>): Promise<HTMLElement> {
  const node = await draw(found.hands, <Endpoints />);
  await act(async () => {
    found.hands.view.toggle('chat');
    await Promise.resolve();
  });
  return node;
}

async function press(node: Element | null | undefined, key: string): Promise<void> {
  await act(async () => {
    node?.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
    await Promise.resolve();
  });
}

test('the workers are shown by state, each with reason, time, tier, load and cost', async () => {
  const workers = [
    worker('w-2', { state: 'parked', reason: 'without work for 60 s', costSoFar: '0.02' }),
    worker('w-1', { state: 'running', tier: 'preimported', held: 2, reason: 'it answers', costSoFar: '0.41', sinceUs: 5_000_000 })
  ];
  const found = fake(of(row('chat', { workers, workersByState: { running: 1, parked: 1 } }), 17_000_000));
  const node = await opened(found);
  const [first, second] = [...node.querySelectorAll('[data-worker]')].map(one => one.textContent);
  for (const text of ['running', '12 s', '$0.41', 'it answers', 'pre-imported start', 'holds 2 requests']) {
    expect(first).toContain(text);
  }
  expect(second).toContain('without work for 60 s');
  expect(node.querySelector('.nbgpu-Workers')?.textContent).toContain('Workers: 1 running, 1 parked');
});

test('64 workers are few lines', async () => {
  const workers = Array.from({ length: 64 }, (_, n) => worker(`w-${n}`));
  const node = await opened(fake(of(row('chat', { workers }))));
  expect(node.querySelectorAll('[data-worker]').length).toBeLessThan(30);
});

test('without workers it says what a cold start takes', async () => {
  const node = await opened(fake(of(row('chat', { typicalColdStartS: 12.3 }))));
  expect(node.textContent).toContain('Workers: none; a cold start takes 12.3 s here');
});

test('a time in a state moves on, and nothing is asked for it', async () => {
  vi.useFakeTimers();
  try {
    const found = fake(of(row('chat', { workers: [worker('w-1', { sinceUs: 0 })] }), 2_000_000));
    const node = await opened(found);
    act(() => found.hands.state.attend(true));
    const asked = found.client.changes.mock.calls.length;
    await act(async () => {
      await vi.advanceTimersByTimeAsync(10_000);
    });
    expect(node.querySelector('[data-worker]')?.textContent).toContain('12 s');
    expect(found.client.changes.mock.calls.length).toBe(asked);
  } finally {
    vi.useRealTimers();
  }
});

test('why opens the words of the command line, and what is next is copied', async () => {
  const found = fake(of(row('chat')));
  found.why.mockResolvedValue(
    story('chat', {
      facts: ['3 requests wait, the oldest for 2 s'],
      typical: 'a plain start takes 12 s here',
      nextStep: 'nbgpu ask chat hello   wakes it; nbgpu warm chat   starts it now',
      history: ['14:02:11  A worker of chat has ended'],
      tail: ['<b>boom</b>']
    })
  );
  const node = await opened(found);
  await click(button(node, 'Why? chat'));
  const told = node.querySelector('.nbgpu-Why');
  for (const text of [
    'chat is asleep: no worker runs and nothing waits', '3 requests wait', '12 s ago', '$0.41 so far',
    'a plain start takes 12 s here', 'starts it now', '14:02:11', '<b>boom</b>'
  ]) {
    expect(told?.textContent).toContain(text);
  }
  await click(button(node, 'copy: nbgpu warm chat'));
  expect(found.copy).toHaveBeenCalledWith('nbgpu warm chat', 'The command');
  await press(told, 'Escape');
  expect(node.querySelector('.nbgpu-Why')).toBeNull();
  expect(document.activeElement).toBe(button(node, 'Why? chat'));
});

test('a worker’s why is asked by its id, again when it is another, and stays when it ends', async () => {
  const one = row('chat', { workers: [worker('w-1')] });
  const found = fake(of(one));
  const node = await opened(found);
  await click(button(node, 'why? worker w-1'));
  expect(found.why.mock.calls).toEqual([['w-1']]);
  await click(button(node, 'as cell: why w-1'));
  expect(found.insert).toHaveBeenCalledWith({ source: '%gpu why w-1', whole: false });
  const refreshed = async (next: ReturnType<typeof row>) => {
    found.client.changes.mockResolvedValue(of(next));
    await act(() => found.hands.state.refresh());
  };
  await refreshed({ ...one, costSoFar: '7' });
  expect(found.why).toHaveBeenCalledTimes(1);
  await refreshed({ ...one, workers: [] });
  expect(found.why.mock.calls).toEqual([['w-1'], ['w-1']]);
  expect(node.querySelector('.nbgpu-Why')?.textContent).toContain('w-1 is asleep');
});

test('a why that cannot be told says so', async () => {
  const found = fake(of(row('chat')));
  found.why.mockRejectedValue(new Failure('There is no worker w-1.', 'See what there is.'));
  const node = await opened(found);
  await click(button(node, 'Why? chat'));
  expect(node.querySelector('.nbgpu-Why [role=alert]')?.textContent).toContain('See what there is.');
});

test('scale reads what is set, says what it may cost and sends what is changed', async () => {
  // while it is warm, another minimum holds than the one that is set
  const found = fake(of(row('chat', { workersMin: 1, warmUntilUs: 1e18 })));
  const node = await opened(found);
  await click(button(node, 'Scale chat'));
  expect(field(node, 'Always on')?.value).toBe('0');
  expect(document.activeElement).toBe(field(node, 'At most'));
  await type(field(node, 'At most'), '4');
  expect(node.querySelector('.nbgpu-Price')?.textContent).toBe('At most $14.40/h: 4 workers at $3.60/h.');
  await click(button(node, 'Insert as cell: Apply the limits of chat'));
  expect(found.insert).toHaveBeenCalledWith({ source: '%gpu scale chat --workers 4', whole: false });
  await click(button(node, 'Apply the limits of chat'));
  expect(found.client.scale).toHaveBeenCalledWith('chat', { max: 4 });
  await vi.waitFor(() => expect(node.querySelector('.nbgpu-Scale')).toBeNull());
  expect(document.activeElement).toBe(button(node, 'Scale chat'));
});

test('a scale that cannot be says why and sends nothing', async () => {
  const found = fake(of(row('chat')));
  const node = await opened(found);
  await click(button(node, 'Scale chat'));
  await click(button(node, 'Apply the limits of chat'));
  expect(node.querySelector('[role=alert]')?.textContent).toContain('It is set so already');
  await type(field(node, 'Idle'), 'soon');
  await click(button(node, 'Apply the limits of chat'));
  expect(node.querySelector('[role=alert]')?.textContent).toContain('“soon” is no length of time');
  expect(found.client.scale).not.toHaveBeenCalled();
  await press(field(node, 'Idle'), 'Escape');
  expect(node.querySelector('.nbgpu-Scale')).toBeNull();
});

test('a refused scale keeps what was typed', async () => {
  const found = fake(of(row('chat')));
  found.client.scale.mockRejectedValueOnce(new Failure('There is no such endpoint.'));
  const node = await opened(found);
  await click(button(node, 'Scale chat'));
  await type(field(node, 'At most'), '4');
  await click(button(node, 'Apply the limits of chat'));
  await vi.waitFor(() => expect(node.querySelector('[role=alert]')?.textContent).toContain('no such endpoint'));
  expect(field(node, 'At most')?.value).toBe('4');
});

test('warm starts, is shown with its end, and ends', async () => {
  const found = fake(of(row('chat')));
  const node = await opened(found);
  await click(button(node, 'Keep chat warm for 2 h'));
  expect(found.client.warm).toHaveBeenCalledWith('chat', 7200, 1);
  expect(button(node, 'Warm off: chat may scale down')).toBeUndefined();
  const end = new Date(2026, 10, 24, 14, 30).getTime() * 1000;
  found.client.changes.mockResolvedValue(of(row('chat', { warmUntilUs: end, workersMin: 1 }), end - 5_000_000));
  await act(() => found.hands.state.refresh());
  expect(node.querySelector('.nbgpu-Row-numbers')?.textContent).toMatch(/warm until (\S+ )?14:30/);
  for (const action of ['Keep chat warm for 2 h', 'Warm off: chat may scale down']) {
    await click(button(node, `Insert as cell: ${action}`));
  }
  expect(found.insert.mock.calls.map(([cell]) => (cell as { source: string }).source)).toEqual([
    '%gpu warm chat --for 2h', '%gpu warm chat --off'
  ]);
  await click(button(node, 'Warm off: chat may scale down'));
  expect(found.client.warm).toHaveBeenLastCalledWith('chat', 0, 1);
});

test('a stopped endpoint is not kept warm', async () => {
  const node = await opened(fake(of(row('chat', { state: 'stopped', warmUntilUs: 1e18 }))));
  expect(node.textContent).not.toContain('warm until');
  expect(button(node, 'Keep chat warm for 2 h')?.disabled).toBe(true);
});

test('the list of what happened names cold starts', async () => {
  const ready = event(1, { values: { seconds: 2.1, tier: 'preimported' }, text: 'A worker of chat is ready after 2.1 s' });
  const { hands } = fake(changes(1, [ready]));
  const node = await draw(hands, <Activity />);
  expect(node.querySelector('.nbgpu-Event-text')?.textContent).toBe('chat: cold start 2.1 s (pre-imported)');
  expect(node.querySelector('.nbgpu-Event')?.getAttribute('title')).toBe('A worker of chat is ready after 2.1 s');
});
