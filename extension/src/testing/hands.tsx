/** Components with a backend that answers from memory. */
import * as React from 'react';
import { act } from 'react';
import { createRoot } from 'react-dom/client';
import { vi } from 'vitest';
import type { Piece } from '../api/answer';
import type { NewHost, Reached, Wanted } from '../api/client';
import type { Changes, Key } from '../api/schema';
import { Actions } from '../model/actions';
import { State } from '../model/state';
import { Trials } from '../model/trial';
import { View } from '../model/view';
import { Hands, HandsProvider } from '../view/context';
import { changes, contact, host, newKey, podInFull, why as story } from './samples';

export function fake(answer: Changes = changes(0), pieces: Piece[] = []) {
  const client = {
    changes: vi.fn(() => Promise.resolve(answer)),
    peek: vi.fn(() => Promise.resolve(null)),
    act: vi.fn(() => Promise.resolve(null as never)),
    create: vi.fn(() => Promise.resolve(null as never)),
    remove: vi.fn(() => Promise.resolve()),
    scale: vi.fn(() => Promise.resolve(null as never)),
    warm: vi.fn(() => Promise.resolve(null as never)),
    openPod: vi.fn(() => Promise.resolve(null as never)),
    actPod: vi.fn(() => Promise.resolve(null as never)),
    removePod: vi.fn(() => Promise.resolve()),
    extend: vi.fn(() => Promise.resolve(null as never)),
    addHost: vi.fn(() => Promise.resolve(null as never)),
    actHost: vi.fn((name: string) => Promise.resolve(host(name))),
    removeHost: vi.fn(() => Promise.resolve()),
    use: vi.fn(() => Promise.resolve(null as never))
  };
  const state = new State(client);
  const insert = vi.fn();
  const copy = vi.fn();
  const remove = vi.fn();
  const limits = vi.fn(() =>
    Promise.resolve({ workers: { min: 0, max: 1, idleTimeout: 60 }, ratePerHour: '3.60' })
  );
  const keys = {
    list: vi.fn(() => Promise.resolve<Key[]>([])),
    add: vi.fn((wanted: Wanted) => Promise.resolve(newKey({ label: wanted.label }))),
    revoke: vi.fn(() => Promise.resolve(true))
  };
  const pods = {
    read: vi.fn((name: string) => Promise.resolve(podInFull(name))),
    open: vi.fn(() => Promise.resolve()),
    remove: vi.fn(),
    notebook: vi.fn(),
    terminal: vi.fn()
  };
  const hosts = {
    meet: vi.fn((_: Reached, fingerprints: readonly string[]) => Promise.resolve(contact(fingerprints.length))),
    add: vi.fn<(host: NewHost) => Promise<void>>(() => Promise.resolve()),
    remove: vi.fn()
  };
  const why = vi.fn((subject: string) => Promise.resolve(story(subject)));
  const deploy = vi.fn(() => Promise.resolve());
  const hands: Hands = {
    state,
    actions: new Actions(client, state),
    view: new View(),
    // eslint-disable-next-line @typescript-eslint/require-await -- a generator of what is there already
    trials: new Trials(async function* () {
      yield* pieces;
    }),
    insert,
    copy,
    remove,
    deploy,
    limits,
    keys,
    pods,
    hosts,
    why,
    places: () => Promise.resolve(new Map([['local', 'this machine']]))
  };
  return { client, hands, insert, copy, remove, deploy, keys, limits, pods, hosts, why };
}

/** Draw it, and return where. */
export async function draw(hands: Hands, what: React.ReactElement): Promise<HTMLElement> {
  const node = document.body.appendChild(document.createElement('div'));
  await act(async () => {
    createRoot(node).render(<HandsProvider value={hands}>{what}</HandsProvider>);
    await hands.state.refresh();
  });
  return node;
}

export async function click(node: Element | null | undefined): Promise<void> {
  await act(async () => {
    (node as HTMLElement).click();
    await Promise.resolve();
  });
}

export async function type(field: Element | null | undefined, text: string): Promise<void> {
  await act(async () => {
    const input = field as HTMLInputElement;
    // React listens to what the browser's own setter does
    Object.getOwnPropertyDescriptor(Object.getPrototypeOf(input), 'value')?.set?.call(input, text);
    input.dispatchEvent(new Event('input', { bubbles: true }));
    await Promise.resolve();
  });
}

export function button(node: Element, label: string): HTMLButtonElement | undefined {
  return [...node.querySelectorAll('button')].find(
    one => one.getAttribute('aria-label') === label || one.textContent === label
  );
}
