import * as React from 'react';
import { act } from 'react';
import { afterEach, expect, test } from 'vitest';
import { Failure } from '../api/problem';
import type { Host, Summary } from '../api/schema';
import { button, click, draw, fake, type } from '../testing/hands';
import { changes, contact, host, pod, summary } from '../testing/samples';
import { Hosts } from './hosts';
import { Pods } from './pods';

afterEach(() => {
  document.body.replaceChildren();
});

const start = (hosts: Host[] = [], more: Partial<Summary> = {}) =>
  fake(changes(1, [], { summary: summary([], { atUs: Date.now() * 1000, hosts, ...more }) }));
const rowIn = (node: Element, name: string) => node.querySelector<HTMLElement>(`[data-host="${name}"]`);
const field = (node: Element, name: string) => node.querySelector<HTMLInputElement>(`form [name=${name}]`);

async function opened(found: ReturnType<typeof fake>, name = 'lab1'): Promise<HTMLElement> {
  const node = await draw(found.hands, <Hosts />);
  await click(rowIn(node, name)?.querySelector('.nbgpu-Row-head'));
  return node;
}

/** The form, filled in, and its key asked for. */
async function asked(found: ReturnType<typeof fake>): Promise<HTMLElement> {
  const node = await draw(found.hands, <Hosts />);
  await click(button(node, 'Add a host'));
  await type(field(node, 'target'), 'ada@lab1.example.org');
  await act(async () => {
    node.querySelector('form')?.requestSubmit();
    await Promise.resolve();
  });
  return node;
}

test('without hosts there is one line and a button that opens the form', async () => {
  const node = await draw(start().hands, <Hosts />);
  expect(node.textContent).toBe('No hosts yet.Add a host');
  await click(button(node, 'Add a host'));
  expect(document.activeElement).toBe(field(node, 'target'));
});

test('a row says how a host is, what it has, what runs there and what that costs', async () => {
  const far = pod('far', { on: 'lab1', ratePerHour: '0.5' });
  const found = start([host('lab1', { pods: ['far'], priced: true })], { place: 'lab1', pods: [far] });
  const text = rowIn(await draw(found.hands, <Hosts />), 'lab1')?.textContent;
  for (const part of ['connected', 'ada@lab1.example.org', '2 × H100', '32 processors', 'runs far', '$0.50/h', 'in use']) {
    expect(text).toContain(part);
  }
});

test('one that is not reached says since when, why, and what to do', async () => {
  const away = { sinceUs: (Date.now() - 300_000) * 1000, sentence: 'lab1 refuses connections.', nextStep: 'Is sshd running?' };
  const node = await draw(start([host('lab1', { state: 'unreachable', facts: null, ...away })]).hands, <Hosts />);
  const text = rowIn(node, 'lab1')?.textContent;
  expect(text).toContain('unreachable 5 min: lab1 refuses connections. Is sshd running?');
  expect(text).toContain('no price set');
});

test('a check says what is missing and how to get it', async () => {
  const found = start([host('lab1')]);
  const findings = [
    { what: 'Python', good: true, text: '3.11', advice: '' },
    { what: 'sandbox', good: false, text: 'bubblewrap does not work', advice: 'On Debian: apt install bubblewrap.' }
  ];
  found.client.actHost.mockResolvedValue(host('lab1', { findings }));
  const node = await opened(found);
  await click(button(node, 'Check the host lab1: what it has and lacks'));
  const box = node.querySelector('[aria-label="What the check of lab1 found"]');
  expect(box?.textContent).toContain('1 of 2 could be better');
  expect(box?.textContent).toContain('sandbox: bubblewrap does not work. On Debian: apt install bubblewrap.');
  await click(button(node, 'Close what the check of lab1 found'));
  expect(node.querySelector('[aria-label="What the check of lab1 found"]')).toBeNull();
});

test('what is refused is told in the row', async () => {
  const found = start([host('lab1', { state: 'refused' })]);
  found.client.actHost.mockRejectedValue(new Failure('It shows another key.', 'Look at it there.'));
  const node = await opened(found);
  await click(button(node, 'Reconnect to the host lab1'));
  expect(rowIn(node, 'lab1')?.querySelector('[role=alert]')?.textContent).toContain('Look at it there.');
});

test('a place is taken into use, and this machine again', async () => {
  const found = start([host('lab1'), host('lab2')], { place: 'lab2' });
  const node = await opened(found);
  await click(button(node, 'Use lab1: pods that name no place go there'));
  await click(button(node, 'Use local: pods that name no place go to this machine'));
  expect(found.client.use.mock.calls).toEqual([['lab1'], ['local']]);
});

test('the key is shown and asked about before anything is added', async () => {
  const found = start();
  const node = await asked(found);
  expect(found.hosts.meet.mock.calls).toEqual([[{ target: 'ada@lab1.example.org' }, []]]);
  const question = node.querySelector('[aria-label="The key of lab1.example.org"]');
  expect(question?.textContent).toContain('shows the ssh-ed25519 keySHA256:lab1.example.orgIs that its key?');
  expect(document.activeElement).toBe(question);
  expect(found.hosts.add).not.toHaveBeenCalled();
  await click(button(node, 'Accept the key of lab1.example.org, and add the host'));
  expect(found.hosts.add.mock.calls).toEqual([
    [{ target: 'ada@lab1.example.org', name: 'lab1', fingerprints: ['SHA256:lab1.example.org'] }]
  ]);
  expect(node.querySelector('form')).toBeNull();
  expect(found.hands.view.open).toBe('host:lab1');
});

test('each jump host is asked about before what lies behind it', async () => {
  const found = start();
  found.hosts.meet.mockImplementation((_, accepted) => Promise.resolve(contact(accepted.length, ['door', 'inner'])));
  const node = await asked(found);
  await click(button(node, 'Accept the key of door'));
  expect(found.hosts.meet.mock.lastCall?.[1]).toEqual(['SHA256:door']);
  expect(node.textContent).toContain('the key of door is accepted');
  await click(button(node, 'Accept the key of inner, and add the host'));
  expect(found.hosts.add.mock.lastCall?.[0].fingerprints).toEqual(['SHA256:door', 'SHA256:inner']);
});

test('a key that is not its own goes back to the form, which keeps what was typed', async () => {
  const found = start();
  const node = await asked(found);
  await click(button(node, 'Do not accept the key of lab1.example.org'));
  expect(button(node, 'Show the key of the host')).toBeDefined();
  expect(field(node, 'target')?.value).toBe('ada@lab1.example.org');
  expect(found.hosts.add).not.toHaveBeenCalled();
});

test('what fails is told with its next step, and the input stays', async () => {
  const found = start();
  found.hosts.meet.mockRejectedValueOnce(new Failure('Nothing listens there.', 'Is sshd running?'));
  const node = await asked(found);
  expect(node.querySelector('[role=alert]')?.textContent).toContain('Is sshd running?');
  expect(field(node, 'target')?.value).toBe('ada@lab1.example.org');
  await click(button(node, 'Show the key of the host'));
  found.hosts.add.mockRejectedValueOnce(new Failure('It accepts none of our keys.', 'Name another.', 'auth_failed'));
  await click(button(node, 'Accept the key of lab1.example.org, and add the host'));
  expect(node.querySelector('[role=alert]')?.textContent).toContain('Name another.');
  // with another key file the host is the same
  await type(field(node, 'keyFile'), '~/.ssh/other');
  expect(button(node, 'Accept the key of lab1.example.org, and add the host')).toBeDefined();
  found.hosts.add.mockRejectedValueOnce(new Failure('It shows another key now.', '', 'host_key_changed'));
  await click(button(node, 'Accept the key of lab1.example.org, and add the host'));
  expect(button(node, 'Show the key of the host')).toBeDefined();
});

test('a pod is opened at the place that is in use, or another that is chosen', async () => {
  const found = start([host('lab1'), host('lab2', { state: 'unreachable' })], { place: 'lab1' });
  const node = await draw(found.hands, <Pods />);
  await click(button(node, 'Open a pod'));
  const places = node.querySelector<HTMLSelectElement>('select[name=on]');
  expect(places?.value).toBe('lab1');
  expect([...(places?.options ?? [])].map(one => one.text)).toEqual(['this machine', 'lab1', 'lab2, unreachable']);
});
