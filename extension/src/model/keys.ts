import type { Wanted } from '../api/client';
import type { Key, NewKey, Summary } from '../api/schema';
import { Cell, cell, known } from '../verbs/cell';
import { dollars, plural } from './format';
import { age, ageS } from './workers';

/** What the backend takes. */
const LONGEST_LABEL = 80;
const MOST = { perMinute: 1_000_000, atOnce: 100_000 };

/** A new key's form, as it is typed; a limit that is empty is none. */
export interface KeyDraft {
  label: string;
  perMinute: string;
  atOnce: string;
}

export const NO_KEY: KeyDraft = { label: '', perMinute: '', atOnce: '' };

/** The keys of an endpoint, while they are open. */
export interface KeysShown {
  name: string;
  /** null until they are read; `at`, when they were, in ms */
  listed: { keys: readonly Key[]; at: number } | null;
  /** the form, null while it is closed */
  draft: KeyDraft | null;
  /** the one that was made just now: its secret is here and nowhere else */
  made: NewKey | null;
}

export function keysOf(name: string): KeysShown {
  return { name, listed: null, draft: null, made: null };
}

function count(text: string): number | null {
  return /^\s*\d+\s*$/.test(text) ? Number(text) : null;
}

/** What is wrong with each field, as a sentence; empty if it can be sent. */
export function complaints(draft: KeyDraft): Partial<KeyDraft> {
  const wrong: Partial<KeyDraft> = {};
  const label = draft.label.trim();
  if (Array.from(label).length > LONGEST_LABEL) {
    wrong.label = `A label has at most ${LONGEST_LABEL} characters.`;
  } else if (/\p{Cc}/u.test(label)) {
    wrong.label = 'A label is one line of plain text.';
  }
  for (const field of ['perMinute', 'atOnce'] as const) {
    const found = count(draft[field]);
    if (draft[field].trim() && (found === null || found < 1 || found > MOST[field])) {
      wrong[field] = `A number from 1 to ${MOST[field].toLocaleString('en-US')}; empty: no limit.`;
    }
  }
  return wrong;
}

/** The request for a draft without complaints. */
export function wantedOf(endpoint: string, draft: KeyDraft): Wanted {
  const [perMinute, atOnce] = [count(draft.perMinute), count(draft.atOnce)];
  return {
    endpoint,
    label: draft.label.trim(),
    ...(perMinute === null ? {} : { perMinute }),
    ...(atOnce === null ? {} : { atOnce })
  };
}

/** The same as a cell, which keeps the secret in a variable: none is in the notebook. */
export function addCell(endpoint: string, draft: KeyDraft): Cell {
  const { label, perMinute, atOnce } = wantedOf(endpoint, draft);
  const found = cell('key', {
    action: 'add',
    name: endpoint,
    '--label': label || null,
    '--per-minute': perMinute ?? null,
    '--at-once': atOnce ?? null
  });
  return { ...found, source: `${found.source} -o new_key` };
}

/** The cell that lists them; null where a notebook has no such verb. */
export function listCell(name: string): (() => Cell) | null {
  return known('key') ? () => cell('key', { action: 'ls', name }) : null;
}

/** `app (nbgpu_Xy12…)`, or how it begins alone. */
export function named(key: Key): string {
  return key.label ? `${key.label} (${key.prefix}…)` : `${key.prefix}…`;
}

/** `60 a minute, 4 at once`, or `no limits`. */
export function limitsText(key: Key): string {
  const parts = [
    key.perMinute !== null && `${key.perMinute.toLocaleString('en-US')} a minute`,
    key.atOnce !== null && `${key.atOnce.toLocaleString('en-US')} at once`
  ];
  return parts.filter(Boolean).join(', ') || 'no limits';
}

/** As of the list, by the backend's clock. `summaryAt` and `at` in ms. */
export function usedText(key: Key, summary: Summary, summaryAt: number, at: number): string {
  if (key.usedUs === null) {
    return 'never used';
  }
  const since = age(ageS(key.usedUs, summary, summaryAt, at));
  return since === 'now' ? 'used just now' : `used ${since} ago`;
}

/** `3 requests · 1,204 tokens in, 96 out · $0.41`. */
export function usageText(key: Key): string {
  const out = key.tokensOut.toLocaleString('en-US');
  return `${plural(key.requests, 'request')} · ${plural(key.tokensIn, 'token')} in, ${out} out · ${dollars(key.cost)}`;
}

/** What is asked before a key is revoked. */
export function revocation(key: Key): { title: string; body: string } {
  return {
    title: `Revoke ${named(key)}?`,
    body: `It opens ${key.endpoint} no more, and cannot be brought back. What it has in progress goes on.`
  };
}
