import { InputDialog, Notification } from '@jupyterlab/apputils';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import type { EndpointRow, PodRow } from '../api/schema';
import type { INbgpu } from '../tokens';

/** As commands describe the argument that names it. */
export const NAME = { type: 'string', description: 'of the endpoint; by default the open one' } as const;
export const POD = { type: 'string', description: 'of the pod; by default the open one' } as const;

/** Of which rows a command chooses. */
export interface Choice<T> {
  what: string;
  rows: (nbgpu: INbgpu) => readonly T[];
}

const ENDPOINT: Choice<EndpointRow> = { what: 'endpoint', rows: ({ state }) => state.summary?.endpoints ?? [] };

/** Those that have a kernel. */
export const RUNNING: Choice<PodRow> = {
  what: 'running pod',
  rows: ({ state }) => (state.summary?.pods ?? []).filter(row => row.kernelspec !== null)
};

/** The row of a command: the one that is named, the open one, the only one, or the one that is chosen. */
export async function chosenRow<T extends { name: string }>(
  nbgpu: INbgpu,
  title: string,
  args: ReadonlyPartialJSONObject,
  { what, rows }: Choice<T>
): Promise<T | null> {
  const { state, view } = nbgpu;
  const find = (name: unknown): T | undefined => rows(nbgpu).find(row => row.name === name);
  if (!state.summary || (typeof args.name === 'string' && !find(args.name))) {
    await state.refresh(); // it may have been made just now
  }
  if (typeof args.name === 'string') {
    const found = find(args.name);
    if (!found) {
      Notification.error(`There is no ${what} ${args.name}.`);
    }
    return found ?? null;
  }
  const items = rows(nbgpu).map(row => row.name).sort();
  const name =
    view.open !== null && items.includes(view.open)
      ? view.open
      : items.length < 2
        ? items[0]
        : (await InputDialog.getItem({ title, label: 'Name', items })).value;
  return find(name) ?? null;
}

/** The name of an endpoint, likewise. */
export async function chosen(nbgpu: INbgpu, title: string, args: ReadonlyPartialJSONObject): Promise<string | null> {
  return (await chosenRow(nbgpu, title, args, ENDPOINT))?.name ?? null;
}
