import * as React from 'react';
import { act } from 'react';
import { afterEach, expect, test, vi } from 'vitest';
import { Failure } from '../api/problem';
import { button, click, draw, fake, type } from '../testing/hands';
import { changes, key, newKey, row, summary } from '../testing/samples';
import { Endpoints } from './endpoints';

afterEach(() => {
  document.body.replaceChildren();
});

const SECRET = newKey().secret;
const start = () => fake(changes(1, [], { summary: summary([row('chat'), row('other')], { atUs: Date.now() * 1000 }) }));

/** The panel with the keys of chat open. */
async function opened(found: ReturnType<typeof fake>): Promise<HTMLElement> {
  const node = await draw(found.hands, <Endpoints />);
  await act(async () => {
    found.hands.view.toggle('chat');
    await Promise.resolve();
  });
  await click(button(node, 'Keys of chat'));
  return node;
}

const box = (node: Element) => node.querySelector<HTMLElement>('[aria-label="Keys of chat"].nbgpu-Keys');
const field = (node: Element, name: string) => node.querySelector<HTMLInputElement>(`.nbgpu-Keys [name=${name}]`);

async function press(node: Element | null | undefined, name: string): Promise<void> {
  await act(async () => {
    node?.dispatchEvent(new KeyboardEvent('keydown', { key: name, bubbles: true }));
    await Promise.resolve();
  });
}

test('nothing is asked about keys until they are opened, and then once', async () => {
  const found = start();
  const node = await draw(found.hands, <Endpoints />);
  act(() => found.hands.view.toggle('chat'));
  expect(found.keys.list).not.toHaveBeenCalled();
  await click(button(node, 'Keys of chat'));
  await act(() => found.hands.state.refresh());
  expect(found.keys.list.mock.calls).toEqual([['chat']]);
  await click(button(node, 'Read the keys of chat again'));
  expect(found.keys.list).toHaveBeenCalledTimes(2);
});

test('without keys it says what one is for', async () => {
  const node = await opened(start());
  expect(box(node)?.textContent).toContain('No keys yet. With a key, a program outside Jupyter can call chat');
});

test('a key is listed with its label, limits, last use, usage and cost', async () => {
  const found = start();
  const used = { usedUs: (Date.now() - 300_000) * 1000, requests: 3, tokensIn: 1204, tokensOut: 96, cost: '0.41' };
  found.keys.list.mockResolvedValue([key({ label: '<b>app</b>', perMinute: 60, atOnce: 4, ...used }), key({ id: 'key-2' })]);
  const node = await opened(found);
  const [first, second] = [...node.querySelectorAll('[data-key-id]')].map(one => one.textContent);
  for (const text of ['<b>app</b>', 'nbgpu_AbCdEf…', '60 a minute, 4 at once', 'used 5 min ago', '3 requests', '1,204 tokens', '$0.41']) {
    expect(first).toContain(text);
  }
  expect(second).toContain('no limits · never used');
});

test('a list that cannot be read says why, and is read again by a click', async () => {
  const found = start();
  found.keys.list.mockRejectedValueOnce(new Failure('The disk is full.', 'Free some space.'));
  const node = await opened(found);
  expect(box(node)?.querySelector('[role=alert]')?.textContent).toContain('Free some space.');
  await click(button(node, 'Read the keys of chat again'));
  expect(box(node)?.querySelector('[role=alert]')).toBeNull();
  expect(box(node)?.textContent).toContain('No keys yet.');
});

test('what is refused is told at its field, and nothing is sent', async () => {
  const found = start();
  const node = await opened(found);
  await click(button(node, 'New key of chat'));
  expect(document.activeElement).toBe(field(node, 'label'));
  await type(field(node, 'atOnce'), 'many');
  await click(button(node, 'Make a key of chat'));
  const wrong = field(node, 'atOnce');
  expect(wrong?.getAttribute('aria-invalid')).toBe('true');
  expect(document.getElementById(wrong?.getAttribute('aria-describedby') ?? '')?.textContent).toContain('from 1 to 100,000');
  expect(field(node, 'perMinute')?.getAttribute('aria-invalid')).toBe('false');
  expect(document.activeElement).toBe(wrong);
  expect(found.keys.add).not.toHaveBeenCalled();
  await type(wrong, '4');
  expect(node.querySelector('.nbgpu-Wrong')).toBeNull();
});

test('the secret is shown once, with its address, and is gone after', async () => {
  const found = start();
  const node = await opened(found);
  await click(button(node, 'New key of chat'));
  await type(field(node, 'label'), 'app');
  await type(field(node, 'perMinute'), '60');
  await click(button(node, 'Make a key of chat'));
  expect(found.keys.add.mock.calls).toEqual([[{ endpoint: 'chat', label: 'app', perMinute: 60 }]]);
  expect(found.keys.list).toHaveBeenCalledTimes(2);
  const shown = node.querySelector('.nbgpu-Secret');
  for (const text of [SECRET, 'will not be shown again', newKey().baseUrl]) {
    expect(shown?.textContent).toContain(text);
  }
  const copy = button(node, 'Copy the new key of chat');
  expect(document.activeElement).toBe(copy);
  await click(copy);
  expect(found.copy).toHaveBeenCalledWith(SECRET, 'The key');
  // a key press does not lose what was not copied yet
  await press(copy, 'Escape');
  expect(node.textContent).toContain(SECRET);
  await click(button(node, 'Hide the new key of chat'));
  expect(node.innerHTML).not.toContain(SECRET);
  expect(document.activeElement).toBe(button(node, 'New key of chat'));
  expect(JSON.stringify(found.hands.view.keys)).not.toContain(SECRET);
});

test('to close and open the keys shows no secret', async () => {
  const found = start();
  const node = await opened(found);
  await click(button(node, 'New key of chat'));
  await click(button(node, 'Make a key of chat'));
  expect(node.textContent).toContain(SECRET);
  await click(button(node, 'Close the keys of chat'));
  expect(box(node)).toBeNull();
  expect(document.activeElement).toBe(button(node, 'Keys of chat'));
  await click(button(node, 'Keys of chat'));
  expect(box(node)?.textContent).toContain('Keys, as of');
  expect(node.innerHTML).not.toContain(SECRET);
});

test('a refused key says why at the form and keeps what was typed', async () => {
  const found = start();
  found.keys.add.mockRejectedValueOnce(new Failure('There is no endpoint chat.', 'See what there is.'));
  const node = await opened(found);
  await click(button(node, 'New key of chat'));
  await type(field(node, 'label'), 'app');
  await click(button(node, 'Make a key of chat'));
  await vi.waitFor(() => expect(node.querySelector('.nbgpu-Keys-new [role=alert]')?.textContent).toContain('See what there is.'));
  expect(field(node, 'label')?.value).toBe('app');
  expect(button(node, 'Make a key of chat')?.disabled).toBe(false);
  await press(field(node, 'label'), 'Escape');
  expect(node.querySelector('.nbgpu-Keys-new')).toBeNull();
  expect(box(node)).not.toBeNull();
  expect(document.activeElement).toBe(button(node, 'New key of chat'));
});

test('what was typed outlives its row’s drawing', async () => {
  const found = start();
  const node = await opened(found);
  await click(button(node, 'New key of chat'));
  await type(field(node, 'label'), 'app');
  act(() => found.hands.view.set({ search: 'other' }));
  expect(box(node)).toBeNull();
  act(() => found.hands.view.set({ search: '' }));
  expect(field(node, 'label')?.value).toBe('app');
  expect(document.activeElement).not.toBe(field(node, 'label'));
});

test('a revoked key leaves the list; one that is kept stays, and nothing is read', async () => {
  const found = start();
  const app = key({ label: 'app' });
  found.keys.list.mockResolvedValueOnce([app]);
  found.keys.revoke.mockResolvedValueOnce(false);
  const node = await opened(found);
  await click(button(node, 'Revoke app (nbgpu_AbCdEf…)'));
  expect(found.keys.revoke.mock.calls).toEqual([[app]]);
  expect(found.keys.list).toHaveBeenCalledTimes(1);
  await click(button(node, 'Revoke app (nbgpu_AbCdEf…)'));
  await vi.waitFor(() => expect(box(node)?.textContent).toContain('No keys yet.'));
  expect(document.activeElement).toBe(button(node, 'New key of chat'));
});

test('a key that somebody else revoked is told, and the list is read again', async () => {
  const found = start();
  found.keys.list.mockResolvedValueOnce([key()]);
  found.keys.revoke.mockRejectedValueOnce(new Failure('There is no key key-1f.'));
  const node = await opened(found);
  await click(button(node, 'Revoke nbgpu_AbCdEf…'));
  await vi.waitFor(() => expect(box(node)?.textContent).toContain('There is no key key-1f.'));
  await vi.waitFor(() => expect(box(node)?.textContent).toContain('No keys yet.'));
});

test('an answer that was overtaken does not bring a revoked key back', async () => {
  const found = start();
  let answer: (keys: ReturnType<typeof key>[]) => void = () => undefined;
  found.keys.list.mockReturnValueOnce(new Promise(resolve => (answer = resolve)));
  const node = await opened(found);
  await click(button(node, 'Read the keys of chat again'));
  await act(async () => {
    answer([key()]);
    await Promise.resolve();
  });
  expect(box(node)?.textContent).toContain('No keys yet.');
});
