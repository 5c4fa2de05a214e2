import type { Deploy } from '../api/client';
import type { Values } from '../verbs/cell';

const PATTERN = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** What the form holds. `name` is null until it is typed: it is suggested then. `on` null: where `use` says. */
export interface Draft {
  model: string;
  name: string | null;
  on: string | null;
  workers: number;
  idleS: number;
}

export const EMPTY: Draft = { model: '', name: null, on: null, workers: 1, idleS: 60 };
export const MOST_WORKERS = 64;

/** The name that `%gpu deploy` would take, with a number behind it if it is taken. */
export function suggestName(model: string, taken: readonly string[]): string {
  const last = model.trim().replace(/\/+$/, '').split(/[/:]/).pop() ?? '';
  const name = last.toLowerCase().replace(/[^a-z0-9]+/g, '-').slice(0, 63).replace(/^-+|-+$/g, '');
  if (!name || !taken.includes(name)) {
    return name;
  }
  for (let number = 2; ; number++) {
    const next = `${name.slice(0, 59)}-${number}`;
    if (!taken.includes(next)) {
      return next;
    }
  }
}

export function nameOf(draft: Draft, taken: readonly string[]): string {
  return draft.name ?? suggestName(draft.model, taken);
}

/** What is wrong with it, as a sentence with the next step; null if it can be sent. */
export function complaint(draft: Draft, taken: readonly string[]): string | null {
  const name = nameOf(draft, taken);
  if (!draft.model.trim()) {
    return 'Which model? Give a Hub id such as Qwen/Qwen2.5-0.5B-Instruct, or the path of a folder.';
  }
  if (!PATTERN.test(name)) {
    return 'The name cannot be used: take a-z, 0-9 and - inside, at most 63 characters.';
  }
  if (taken.includes(name)) {
    return `${name} exists already: take another name.`;
  }
  if (!Number.isInteger(draft.workers) || draft.workers < 1 || draft.workers > MOST_WORKERS) {
    return `Workers is a number from 1 to ${MOST_WORKERS}.`;
  }
  return null;
}

/** The folder of a notebook, whose path counts from `root`; of none, `root` itself. Both with `/`. */
export function folderOf(root: string, notebook: string): string {
  return [root.replace(/\/+$/, ''), ...notebook.split('/').slice(0, -1)].join('/') || '/';
}

/** The create request. `used` is the place in use, `cwd` the folder that a relative path counts from. */
export function requestOf(draft: Draft, taken: readonly string[], used: string, cwd: string | null): Deploy {
  return {
    name: nameOf(draft, taken),
    workers: { min: 0, max: draft.workers, idleTimeout: draft.idleS },
    nbgpu: { model: draft.model.trim(), place: { on: draft.on ?? used }, ...(cwd ? { cwd } : {}) }
  };
}

/** The same as the arguments of `deploy`. */
export function valuesOf(draft: Draft, taken: readonly string[]): Values {
  return {
    model: draft.model.trim(),
    name: nameOf(draft, taken),
    on: draft.on,
    workers: draft.workers === 1 ? null : draft.workers,
    idle: draft.idleS
  };
}
