import type { NewHost, Reached } from '../api/client';
import type { Contact, ShownKey } from '../api/schema';
import { Cell, cell, known } from '../verbs/cell';

const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const RATE = /^\$?(\d+(\.\d+)?|\.\d+)$/;

/** The form that adds a host, as it is typed; `name` is null until it is: one is suggested then. */
export interface HostDraft {
  /** `ada@lab1.example.org:2222`, or a name of ~/.ssh/config */
  target: string;
  name: string | null;
  /** the path of a file; empty: those of ssh */
  keyFile: string;
  /** a host to go through; empty: as ssh does */
  jump: string;
  /** dollars an hour; empty: no price */
  rate: string;
  /** the keys that were shown so far: all but the last are accepted */
  met: Contact | null;
}

export const NO_HOST: HostDraft = { target: '', name: null, keyFile: '', jump: '', rate: '', met: null };

export type HostField = Exclude<keyof HostDraft, 'met'>;

/** Of the first part of its address, with a number behind it if that is taken. */
export function suggestedHost(target: string, taken: readonly string[]): string {
  const address = target.trim().replace(/^ssh:\/\//, '').replace(/^.*@/, '').toLowerCase();
  const first = address.split(/[.:/]/)[0] ?? '';
  const base = !address ? '' : /^[a-z]/.test(first) && NAME.test(first) ? first : 'host';
  for (let number = 1; ; number++) {
    const name = number === 1 ? base : `${base.slice(0, 59)}-${number}`;
    if (!name || !taken.includes(name)) {
      return name;
    }
  }
}

export function hostName(draft: HostDraft, taken: readonly string[]): string {
  return draft.name?.trim() ?? suggestedHost(draft.target, taken);
}

/** A change of the form. Keys that were shown are those of one way: with another they are asked for anew. */
export function typed(draft: HostDraft, field: HostField, value: string): HostDraft {
  const other = field === 'target' || field === 'jump' ? { met: null } : {};
  return { ...draft, ...other, [field]: field === 'name' ? value || null : value };
}

/** What is wrong with each field, as a sentence; empty if it can be sent. `taken`: the places that there are. */
export function hostComplaints(draft: HostDraft, taken: readonly string[]): Partial<Record<HostField, string>> {
  const name = hostName(draft, taken);
  const wrong: Partial<Record<HostField, string>> = {};
  if (!draft.target.trim()) {
    wrong.target = 'Where is it? Write it as in: ada@lab1.example.org';
  } else if (!NAME.test(name)) {
    wrong.name = 'A name is made of a-z, 0-9 and - inside, at most 63 characters.';
  } else if (taken.includes(name)) {
    wrong.name = `There is a place ${name} already: choose another name.`;
  }
  if (draft.rate.trim() && !RATE.test(draft.rate.trim())) {
    wrong.rate = 'Dollars an hour, as in: 0.50; empty: no price.';
  }
  return wrong;
}

export function reachedOf({ target, keyFile, jump }: HostDraft): Reached {
  return {
    target: target.trim(),
    ...(keyFile.trim() ? { keyFile: keyFile.trim() } : {}),
    ...(jump.trim() ? { jump: jump.trim() } : {})
  };
}

/** The key that is asked about: of the nearest machine that was not accepted yet. */
export function askedKey({ keys }: Contact): ShownKey | undefined {
  return keys[keys.length - 1];
}

/** What prints the fingerprint of a key on the machine itself. */
export function printing({ kind }: ShownKey): string {
  const type = kind.startsWith('ecdsa') ? 'ecdsa' : kind.replace(/^ssh-/, '');
  return `ssh-keygen -lf /etc/ssh/ssh_host_${type}_key.pub`;
}

/** Of all keys that were shown, which a person accepts with the last of them. */
export function fingerprintsOf({ keys }: Contact): string[] {
  return keys.map(key => key.fingerprint);
}

/** The request, once the keys of `met` are accepted. */
export function hostRequest(draft: HostDraft, taken: readonly string[], met: Contact): NewHost {
  const rate = draft.rate.trim();
  return {
    ...reachedOf(draft),
    name: hostName(draft, taken),
    fingerprints: fingerprintsOf(met),
    ...(rate ? { rate } : {})
  };
}

/** The same as a cell, which asks about the keys itself; null where a notebook has no such verb. */
export function addHostCell(draft: HostDraft, taken: readonly string[]): (() => Cell) | null {
  return known('host')
    ? () =>
        cell('host', {
          action: 'add',
          name: hostName(draft, taken),
          target: draft.target.trim(),
          '--key': draft.keyFile.trim() || null,
          '--jump': draft.jump.trim() || null,
          '--rate': draft.rate.trim() || null
        })
    : null;
}
