import * as React from 'react';
import { act } from 'react';
import { afterEach, expect, test, vi } from 'vitest';
import { Failure } from '../api/problem';
import { button, click, draw, fake, type } from '../testing/hands';
import { changes, event, row, summary, worker } from '../testing/samples';
import { Activity } from './activity';
import { Endpoints } from './endpoints';
import { Lost } from './lost';
import { Overview } from './overview';
import { Status } from './status';
import { MOST_ROWS } from './virtual';

afterEach(() => {
  document.body.replaceChildren();
});

const of = (...rows: ReturnType<typeof row>[]) => changes(1, [event(1)], { summary: summary(rows) });

test('without endpoints it says what to do first', async () => {
  const { hands } = fake(changes(0));
  const node = await draw(hands, <Endpoints />);
  expect(node.textContent).toContain('No endpoints yet.');
  await click(button(node, 'Deploy a model'));
  expect(node.querySelector('form[aria-label="Deploy a model"]')).toBeTruthy();
});

test('a deploy needs one typed field and goes on to its row', async () => {
  const { hands, deploy } = fake(changes(0));
  const node = await draw(hands, <Endpoints />);
  await click(button(node, 'Deploy a model'));
  await type(node.querySelector('[name=model]'), 'org/Tiny_Llama');
  expect(node.querySelector<HTMLInputElement>('[name=name]')?.value).toBe('tiny-llama');
  await click(button(node, 'Deploy tiny-llama'));
  await vi.waitFor(() => expect(deploy).toHaveBeenCalledWith(expect.objectContaining({ model: 'org/Tiny_Llama' })));
  await vi.waitFor(() => expect(hands.view.open).toBe('tiny-llama'));
});

test('a deploy that is refused says why and keeps what was typed', async () => {
  const { hands, deploy } = fake(changes(0));
  deploy.mockRejectedValueOnce(new Failure('There is no such folder.', 'Name another.'));
  const node = await draw(hands, <Endpoints />);
  await click(button(node, 'Deploy a model'));
  await type(node.querySelector('[name=model]'), '/nowhere');
  await click(button(node, 'Deploy nowhere'));
  await vi.waitFor(() => expect(node.querySelector('[role=alert]')?.textContent).toContain('Name another.'));
  expect(node.querySelector<HTMLInputElement>('[name=model]')?.value).toBe('/nowhere');
});

test('the form as a cell', async () => {
  const { hands, insert } = fake(changes(0));
  const node = await draw(hands, <Endpoints />);
  await click(button(node, 'Deploy a model'));
  await type(node.querySelector('[name=model]'), 'a/b');
  await click(button(node, 'Insert as cell: Deploy b'));
  expect(insert).toHaveBeenCalledWith({ source: '%gpu deploy a/b --name b', whole: false });
});

test('a row says state, reason, workers, queue, rate, latency and cost', async () => {
  const chat = row('chat', {
    state: 'busy', reason: 'answering', workersByState: { running: 2 }, queued: 3, costSoFar: '0.41',
    requestsPerS: 1.5, p50Ms: 21, p95Ms: 2400
  });
  const { hands } = fake(of(chat));
  const node = await draw(hands, <Endpoints />);
  for (const text of ['busy', 'answering', '2 running', '3 waiting', '1.5/s', '21 ms / 2.4 s', '$0.41']) {
    expect(node.textContent).toContain(text);
  }
});

test('an open row stops, copies and inserts', async () => {
  const { hands, client, copy, insert, remove } = fake(of(row('chat', { state: 'ready' })));
  const node = await draw(hands, <Endpoints />);
  await click(button(node, 'chat, ready'));
  await click(button(node, 'Stop chat'));
  expect(client.act).toHaveBeenCalledWith('chat', 'stop');
  await click(button(node, 'Copy the base URL of chat'));
  expect(copy).toHaveBeenCalledWith('http://127.0.0.1:1/v2/chat/openai/v1', 'The base URL');
  await click(button(node, 'Delete chat'));
  expect(remove).toHaveBeenCalledWith('chat');
  for (const action of ['Ask chat', 'Stop chat', 'Why? chat', 'Delete chat', 'Copy a call of chat in Python']) {
    await click(button(node, `Insert as cell: ${action}`));
  }
  for (const verb of ['logs', 'chart']) {
    await click(button(node, `Insert as cell: ${verb} chat`));
  }
  expect(insert.mock.calls.map(([cell]) => (cell as { source: string }).source.split('\n')[0])).toEqual([
    '%%gpu ask chat', '%gpu stop chat', '%gpu why chat', '%gpu delete chat', 'import nbgpu', '%gpu logs chat',
    '%gpu chart chat latency'
  ]);
});

test('a stopped row starts', async () => {
  const { hands, client } = fake(of(row('chat', { state: 'stopped' })));
  const node = await draw(hands, <Endpoints />);
  await click(button(node, 'chat, stopped'));
  await click(button(node, 'Start chat'));
  expect(client.act).toHaveBeenCalledWith('chat', 'start');
});

test('a question is asked and its answer shown', async () => {
  const { hands } = fake(of(row('chat')), [
    { kind: 'text', text: '<b>hello</b>' },
    {
      kind: 'done',
      done: { queue_ms: 9, cold: true, first_byte_ms: 2, total_ms: 1200, tokens_in: 1, tokens_out: 2, cost: '0' }
    }
  ]);
  const node = await draw(hands, <Endpoints />);
  await click(button(node, 'chat, asleep'));
  await type(node.querySelector('textarea'), 'Hello?');
  await click(button(node, 'Ask chat'));
  await vi.waitFor(() => expect(node.querySelector('.nbgpu-Answer')?.textContent).toBe('<b>hello</b>'));
  expect(node.querySelector('.nbgpu-Took')?.textContent).toContain('2 tokens');
});

test('several are selected and stopped', async () => {
  const { hands, client, insert } = fake(of(row('a'), row('b'), row('c')));
  const node = await draw(hands, <Endpoints />);
  await click(node.querySelector('[aria-label="Select a"]'));
  await click(node.querySelector('[aria-label="Select c"]'));
  await click(button(node, 'Insert as cell: Stop 2 selected endpoints'));
  expect(insert).toHaveBeenCalledWith({ source: '%gpu stop a\n%gpu stop c', whole: false });
  await click(button(node, 'Stop 2 selected endpoints'));
  await vi.waitFor(() => expect(client.act.mock.calls).toEqual([['a', 'stop'], ['c', 'stop']]));
});

test('a search without a hit says so and is cleared', async () => {
  const { hands } = fake(of(row('a')));
  const node = await draw(hands, <Endpoints />);
  await type(node.querySelector('[type=search]'), 'zzz');
  expect(node.textContent).toContain('“zzz”');
  await click(button(node, 'Clear the search'));
  expect(node.querySelector('[data-endpoint=a]')).toBeTruthy();
});

test('200 endpoints and 2,000 events are few rows', async () => {
  const rows = Array.from({ length: 200 }, (_, n) => row(`e${n}`));
  const events = Array.from({ length: 2000 }, (_, n) => event(n + 1));
  const { hands } = fake(changes(2000, events, { summary: summary(rows) }));
  const node = await draw(hands, <><Endpoints /><Activity /></>);
  const drawn = node.querySelectorAll('li[data-key]').length;
  expect(drawn).toBeGreaterThan(10);
  expect(drawn).toBeLessThan(60);
  expect(drawn).toBeLessThan(2 * MOST_ROWS);
  const [first] = node.querySelectorAll('.nbgpu-Activity li');
  expect(first!.getAttribute('aria-setsize')).toBe('2000');
  expect(first!.textContent).toContain('event 2000');
});

test('arrow keys go from row to row', async () => {
  const { hands } = fake(of(row('a'), row('b')));
  const node = await draw(hands, <Endpoints />);
  const [a, b] = node.querySelectorAll<HTMLElement>('[data-head]');
  a!.focus();
  await act(async () => {
    a!.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowDown', bubbles: true }));
    await Promise.resolve();
  });
  expect(document.activeElement).toBe(b);
});

test('texts of others are text', async () => {
  const bad = '<img src=x onerror=window.pwned=1>';
  const { hands } = fake(changes(1, [event(1, { text: bad })], { summary: summary([row('a', { reason: bad, model: bad })]) }));
  const node = await draw(hands, <><Endpoints /><Activity /></>);
  await click(button(node, 'a, asleep'));
  expect(node.querySelector('img')).toBeNull();
  expect(node.querySelector('.nbgpu-Activity')?.textContent).toContain(bad);
});

test('the header says what an hour costs, what today did, and what idles at a price', async () => {
  const { hands } = fake(
    changes(1, [], { summary: summary([row('chat')], { perHour: '2.50', spentToday: '7', idleButBilling: ['chat'] }) })
  );
  const node = await draw(hands, <Overview />);
  expect(node.textContent).toContain('$2.50/h');
  expect(node.textContent).toContain('$7.00');
  await click(button(node, 'chat'));
  expect(hands.view.open).toBe('chat');
});

test('what is spent and asked moves on while nothing is heard', async () => {
  vi.useFakeTimers();
  try {
    const chat = row('chat', {
      costSoFar: '1', ratePerHour: '3600', requestsPerS: 1, spark: [...Array<number>(59).fill(0), 60]
    });
    const { hands, client } = fake(
      changes(1, [], { summary: summary([chat], { perHour: '3600', spentToday: '7' }) })
    );
    const node = await draw(hands, <><Overview /><Endpoints /></>);
    act(() => hands.state.attend(true));
    const cost = () => node.querySelector('.nbgpu-Row-cost')?.textContent;
    expect([node.querySelectorAll('dd')[1]?.textContent, cost()]).toEqual(['$7.00', '$1.00']);
    expect(node.textContent).toContain('1.0/s');
    const line = node.querySelector('.nbgpu-Spark polyline')?.getAttribute('points');
    const asked = client.changes.mock.calls.length;
    await act(async () => {
      await vi.advanceTimersByTimeAsync(90_000);
    });
    expect([node.querySelectorAll('dd')[1]?.textContent, cost()]).toEqual(['$97.00', '$91.00']);
    expect(node.textContent).toContain('0/s');
    expect(node.querySelector('.nbgpu-Spark polyline')?.getAttribute('points')).not.toBe(line);
    expect(client.changes.mock.calls.length).toBe(asked);
  } finally {
    vi.useRealTimers();
  }
});

test('a backend that ended is told, with the way back', async () => {
  const { hands, client } = fake(changes(1));
  const node = await draw(hands, <Overview />);
  await act(async () => {
    hands.state.wake({ seq: 1, kinds: ['backend'], backend: 'down' });
    await Promise.resolve();
  });
  expect(node.querySelector('[role=alert]')?.textContent).toContain('has ended');
  client.changes.mockClear();
  await click(button(node, 'Start it again'));
  expect(client.changes).toHaveBeenCalledTimes(1);
});

test('a delete names workers and requests that go with it', async () => {
  const lost = row('a', { queued: 1, held: 1, costSoFar: '0.41', workers: [worker('w-1')] });
  const { hands } = fake();
  const node = await draw(hands, <Lost row={lost} />);
  for (const text of ['1 worker,', '2 requests', '$0.41']) {
    expect(node.textContent).toContain(text);
  }
});

test('the status bar shows the price of an hour and how many run', async () => {
  const busy = row('a', { workers: [worker('w-1', { state: 'running' })] });
  const parked = row('b', { workers: [worker('w-2', { state: 'parked' })] });
  const { hands } = fake(changes(1, [], { summary: summary([busy, parked, row('c')], { perHour: '1.10' }) }));
  const open = vi.fn();
  const node = await draw(hands, <Status state={hands.state} open={open} />);
  expect(node.textContent).toBe('$1.10/h · 1 running');
  expect(node.querySelector('button')?.title).toBe('GPU endpoints: 1 of 3 running, $1.10/h now');
  await click(node.querySelector('button'));
  expect(open).toHaveBeenCalled();
});
