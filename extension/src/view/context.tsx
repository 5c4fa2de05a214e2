import * as React from 'react';
import type { NewHost, Reached, Wanted } from '../api/client';
import type { Contact, Key, NewKey, Pod, Why } from '../api/schema';
import type { Actions } from '../model/actions';
import type { Draft } from '../model/deployment';
import type { PodDraft } from '../model/opening';
import type { Limited } from '../model/scaling';
import type { State } from '../model/state';
import type { Trials } from '../model/trial';
import type { View } from '../model/view';
import type { Cell } from '../verbs/cell';

/** The keys of endpoints. Each throws a Failure. */
export interface Keys {
  readonly list: (endpoint: string) => Promise<Key[]>;
  readonly add: (wanted: Wanted) => Promise<NewKey>;
  /** Asks first; false if the person thinks better of it. */
  readonly revoke: (key: Key) => Promise<boolean>;
}

/** What is done with a pod besides `actions`. */
export interface Pods {
  /** In full; throws a Failure. */
  readonly read: (name: string) => Promise<Pod>;
  /** throws a Failure */
  readonly open: (draft: PodDraft) => Promise<void>;
  /** asks first */
  readonly remove: (name: string) => void;
  /** a new one with its kernel */
  readonly notebook: (name: string) => void;
  readonly terminal: (name: string) => void;
}

/** What is done with a host besides `actions`. */
export interface Hosts {
  /** The keys that are shown on the way to it; throws a Failure. */
  readonly meet: (reached: Reached, fingerprints: readonly string[]) => Promise<Contact>;
  /** throws a Failure */
  readonly add: (host: NewHost) => Promise<void>;
  /** asks first */
  readonly remove: (name: string) => void;
}

/** What the components draw, and whom they tell what was clicked. They ask nobody else. */
export interface Hands {
  readonly state: State;
  readonly actions: Actions;
  readonly trials: Trials;
  readonly view: View;
  /** null where there are no notebooks */
  readonly insert: ((cell: Cell) => void) | null;
  readonly copy: (text: string, what: string) => void;
  /** asks first */
  readonly remove: (name: string) => void;
  /** throws a Failure */
  readonly deploy: (draft: Draft) => Promise<void>;
  /** How far it may scale, as it is set; throws a Failure. */
  readonly limits: (name: string) => Promise<Limited>;
  readonly keys: Keys;
  readonly pods: Pods;
  readonly hosts: Hosts;
  /** Of an endpoint, a worker or a pod; throws a Failure. */
  readonly why: (subject: string) => Promise<Why>;
  /** The places, with the price of an hour there in words. */
  readonly places: () => Promise<Map<string, string>>;
}

const Context = React.createContext<Hands | null>(null);

export const HandsProvider = Context.Provider;

export function useHands(): Hands {
  const hands = React.useContext(Context);
  if (!hands) {
    throw new Error('Draw it inside HandsProvider.');
  }
  return hands;
}
