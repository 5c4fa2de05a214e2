import * as React from 'react';
import { act } from 'react';
import { afterEach, expect, test, vi } from 'vitest';
import { Failure } from '../api/problem';
import type { PodRow } from '../api/schema';
import { button, click, draw, fake, type } from '../testing/hands';
import { changes, event, pod, podInFull, row, stopped, summary } from '../testing/samples';
import { Endpoints } from './endpoints';
import { PodLost } from './lost';
import { Overview } from './overview';
import { Pods } from './pods';
import { Status } from './status';
import { MOST_ROWS } from './virtual';

vi.mock('../verbs/verbs.json', async original => {
  const { withPods } = await import('../testing/verbs');
  return { default: withPods((await original<{ default: { name: string }[] }>()).default) };
});

afterEach(() => {
  document.body.replaceChildren();
});

const GB = 1_000_000_000;
const of = (...pods: PodRow[]) => changes(1, [], { summary: summary([], { pods }) });
const field = (node: Element, name: string) => node.querySelector<HTMLInputElement>(`[name=${name}]`);

async function shown(...pods: PodRow[]) {
  const found = fake(of(...pods));
  const node = await draw(found.hands, <Pods />);
  return { ...found, node };
}

test('without pods there is one line and the way to the form', async () => {
  const { node } = await shown();
  expect(node.textContent).toBe('No pods yet.Open a pod');
  await click(button(node, 'Open a pod'));
  expect(node.querySelector('form[aria-label="Open a pod"]')).toBeTruthy();
});

test('a row says state, since when, why, where, kernel, use, rate, cost and its end', async () => {
  const { node } = await shown(
    pod('train', {
      state: 'busy', reason: 'its kernel works', kernel: 'busy', ratePerHour: '3.60', costSoFar: '0.41',
      reasonSinceUs: -720_000_000, stopsAtUs: 720_000_000, stopsWhy: 'idle',
      use: { memoryBytes: 1.2 * GB, memoryLimit: 8 * GB, cpu: 1.5, processes: 3, terminals: 0 }
    })
  );
  for (const text of [
    'busy 12 min: its kernel works', 'local cpu 2', '1.2 GB, 150 % cpu', '$3.60/h', '$0.41',
    'stops in 12 min: idle', '1 pod, 1 running, $3.60/h'
  ]) {
    expect(node.textContent).toContain(text);
  }
});

test('its end is put off from the row', async () => {
  const { node, client } = await shown(pod('train', { stopsAtUs: 60_000_000 }));
  expect(node.querySelector('.nbgpu-Ending.nbgpu-mod-soon')).toBeTruthy();
  await click(button(node, 'Extend train: it stops no sooner than in 30 minutes'));
  expect(client.extend).toHaveBeenCalledWith('train', 1800);
});

test('the countdown and the cost move on while nothing is asked', async () => {
  vi.useFakeTimers();
  try {
    const { node, hands, client } = await shown(
      pod('train', { stopsAtUs: 90_000_000, ratePerHour: '3600', costSoFar: '1' })
    );
    act(() => hands.state.attend(true));
    expect(node.textContent).toContain('stops in 1 min 30 s');
    const asked = client.changes.mock.calls.length;
    await act(async () => {
      await vi.advanceTimersByTimeAsync(60_000);
    });
    expect(node.textContent).toContain('stops in 30 s');
    expect(node.querySelector('.nbgpu-Row-cost')?.textContent).toBe('$61.00');
    expect(client.changes.mock.calls.length).toBe(asked);
  } finally {
    vi.useRealTimers();
  }
});

test('an open row does what can be done with a pod', async () => {
  const { node, client, pods, insert } = await shown(pod('train'));
  await click(button(node, 'train, idle'));
  await click(button(node, 'Open a notebook in train'));
  await click(button(node, 'Open a terminal in train'));
  await click(button(node, 'Delete train'));
  await click(button(node, 'Stop train'));
  await click(button(node, 'Extend train by 2 h'));
  expect([pods.notebook, pods.terminal, pods.remove].map(one => one.mock.calls)).toEqual(
    Array(3).fill([['train']])
  );
  expect(client.actPod).toHaveBeenCalledWith('train', 'stop');
  expect(client.extend).toHaveBeenCalledWith('train', 7200);
  for (const about of ['Open a notebook in train', 'Stop train', 'Why? train', 'Events of train', 'Delete train', 'Extend train by 2 h']) {
    await click(button(node, `Insert as cell: ${about}`));
  }
  expect(insert.mock.calls.map(([cell]) => (cell as { source: string }).source)).toEqual([
    '%gpu kernel train', '%gpu stop train', '%gpu why train', '%gpu events train', '%gpu delete train',
    '%gpu extend train --for 2h'
  ]);
});

test('its details tell the isolation in words and show gauges by name', async () => {
  const use = { memoryBytes: 7.6 * GB, memoryLimit: 8 * GB, cpu: 0.5, processes: 3, terminals: 0 };
  const { node, pods } = await shown(pod('train', { use }));
  pods.read.mockResolvedValue(podInFull('train', { isolationText: 'bubblewrap: a home of its own', volumeName: null }));
  await click(button(node, 'train, idle'));
  await vi.waitFor(() => expect(node.textContent).toContain('bubblewrap: a home of its own'));
  expect(node.textContent).toContain('after 30 min without use');
  const memory = node.querySelector('[role=meter][aria-label="memory of train"]');
  expect(memory?.getAttribute('aria-valuenow')).toBe('95');
  expect(memory?.classList.contains('nbgpu-mod-full')).toBe(true);
  expect(pods.read).toHaveBeenCalledTimes(1);
});

test('a stopped pod starts, and offers nothing that needs a kernel', async () => {
  const { node, client } = await shown(stopped('train'));
  await click(button(node, 'train, stopped'));
  expect(button(node, 'Open a notebook in train')?.disabled).toBe(true);
  expect(button(node, 'Open a terminal in train')?.disabled).toBe(true);
  expect(button(node, 'Extend train by 2 h')).toBeUndefined();
  expect(node.querySelector('[role=meter]')).toBeNull();
  await click(button(node, 'Start train'));
  expect(client.actPod).toHaveBeenCalledWith('train', 'start');
});

test('one that failed shows the end of its log', async () => {
  const { node, pods } = await shown(stopped('train', { state: 'failed', status: 'ERROR' }));
  pods.read.mockResolvedValue(podInFull('train', { tail: ['MemoryError'] }));
  await click(button(node, 'train, failed'));
  await vi.waitFor(() => expect(node.querySelector('pre')?.textContent).toBe('MemoryError'));
});

test('what cannot be done is told in the row', async () => {
  const { node, client } = await shown(pod('train'));
  client.actPod.mockRejectedValueOnce(new Failure('It is stopping already.', 'Wait.'));
  await click(button(node, 'train, idle'));
  await click(button(node, 'Stop train'));
  await vi.waitFor(() => expect(node.querySelector('[role=alert]')?.textContent).toContain('It is stopping already.'));
});

test('why, and what happened, open in the row and close to where they were opened', async () => {
  const events = [event(1, { endpoint: 'train', kind: 'pod.ready', text: 'train is ready' }), event(2)];
  const found = fake(changes(2, events, { summary: summary([], { pods: [pod('train')] }) }));
  const node = await draw(found.hands, <Pods />);
  await click(button(node, 'train, idle'));
  await click(button(node, 'Why? train'));
  await vi.waitFor(() => expect(node.querySelector('[aria-label="Why train is as it is"]')?.textContent).toContain('$0.41'));
  await click(button(node, 'Close why train'));
  expect(document.activeElement).toBe(button(node, 'Why? train'));
  await click(button(node, 'Events of train'));
  const listed = node.querySelector('section[aria-label="Events of train"]');
  expect(listed?.querySelectorAll('li')).toHaveLength(1);
  expect(listed?.textContent).toContain('train is ready');
  await click(button(node, 'Close the events of train'));
  expect(document.activeElement).toBe(button(node, 'Events of train'));
});

test('a pod opens with nothing typed, and its row opens', async () => {
  const { node, pods, hands, insert } = await shown();
  await click(button(node, 'Open a pod'));
  expect(document.activeElement).toBe(field(node, 'name'));
  expect(field(node, 'name')?.value).toBe('pod');
  expect(node.textContent).toContain('On this machine.');
  await click(button(node, 'Insert as cell: Open the pod pod'));
  expect(insert).toHaveBeenCalledWith({ source: '%gpu open pod --cpu 1', whole: false });
  await click(button(node, 'Open the pod pod'));
  await vi.waitFor(() => expect(pods.open).toHaveBeenCalledTimes(1));
  await vi.waitFor(() => expect(hands.view.open).toBe('pod'));
  expect(node.querySelector('form')).toBeNull();
});

test('a mistake is told at its field, which has the focus then', async () => {
  const { node, pods } = await shown();
  await click(button(node, 'Open a pod'));
  await type(field(node, 'idle'), 'soon');
  await click(button(node, 'Open the pod pod'));
  expect(node.querySelector('[role=alert]')?.textContent).toContain('“soon” is no length of time.');
  expect(field(node, 'idle')?.getAttribute('aria-invalid')).toBe('true');
  expect(document.activeElement).toBe(field(node, 'idle'));
  expect(pods.open).not.toHaveBeenCalled();
});

test('what the backend refuses is told, and what was typed stays', async () => {
  const { node, pods } = await shown();
  pods.open.mockRejectedValueOnce(new Failure('No GPU is here.', 'Take a CPU.'));
  await click(button(node, 'Open a pod'));
  await type(field(node, 'name'), 'big');
  await click(button(node, 'Open the pod big'));
  await vi.waitFor(() => expect(node.querySelector('[role=alert]')?.textContent).toContain('Take a CPU.'));
  expect(field(node, 'name')?.value).toBe('big');
});

test('a name of an endpoint is taken for a pod, and the other way round', async () => {
  const found = fake(changes(1, [], { summary: summary([row('chat')], { pods: [pod('pod')] }) }));
  const node = await draw(found.hands, <><Endpoints /><Pods /></>);
  await click(button(node, 'Open a pod'));
  expect(field(node, 'name')?.value).toBe('pod-2');
  await type(field(node, 'name'), 'chat');
  await click(button(node, 'Open the pod chat'));
  expect(node.querySelector('[role=alert]')?.textContent).toContain('chat exists already');
});

test('500 pods are few rows', async () => {
  const { node } = await shown(...Array.from({ length: 500 }, (_, n) => pod(`p${n}`)));
  const drawn = node.querySelectorAll('li[data-key]');
  expect(drawn.length).toBeGreaterThan(5);
  expect(drawn.length).toBeLessThan(MOST_ROWS);
  expect(drawn[0]!.getAttribute('aria-setsize')).toBe('500');
});

test('the header leads to a pod that idles at a price, and the status bar counts pods', async () => {
  const told = summary([], { pods: [pod('train'), stopped('old')], idleButBilling: ['train'], perHour: '1.10' });
  const { hands } = fake(changes(1, [], { summary: told }));
  const node = await draw(hands, <><Overview /><Status state={hands.state} open={vi.fn()} /></>);
  expect(button(node, 'Select 1 endpoint that idle')).toBeUndefined();
  await click(button(node, 'train'));
  expect(hands.view.open).toBe('train');
  expect(node.querySelector('.nbgpu-Status')?.textContent).toBe('$1.10/h · 1 running');
  expect(node.querySelector('.nbgpu-Status')?.getAttribute('title')).toContain('pods: 1 of 2 running');
});

test('an open pod stays open while endpoints are drawn too', async () => {
  const found = fake(changes(1, [], { summary: summary([row('chat')], { pods: [pod('train')] }) }));
  const node = await draw(found.hands, <><Endpoints /><Pods /></>);
  await click(button(node, 'train, idle'));
  await act(() => found.hands.state.refresh());
  expect(found.hands.view.open).toBe('train');
});

test('texts of others are text', async () => {
  const bad = '<img src=x onerror=window.pwned=1>';
  const { node } = await shown(pod('train', { reason: bad, stopsWhy: bad, stopsAtUs: 1, origin: bad }));
  await click(button(node, 'train, idle'));
  expect(node.querySelector('img')).toBeNull();
});

test('a delete names what goes with it', async () => {
  const { hands } = fake();
  const node = await draw(hands, <PodLost row={pod('train', { costSoFar: '0.41' })} volume={null} />);
  for (const text of ['its kernel, with all variables', 'its home', '/workspace', '$0.41']) {
    expect(node.textContent).toContain(text);
  }
});
