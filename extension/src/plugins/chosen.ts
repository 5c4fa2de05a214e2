import { InputDialog, Notification } from '@jupyterlab/apputils';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import type { INbgpu } from '../tokens';

/** As commands describe the argument that names it. */
export const NAME = { type: 'string', description: 'of the endpoint; by default the open one' } as const;

/** The endpoint of a command: the one that is named, the open one, the only one, or the one that is chosen. */
export async function chosen(nbgpu: INbgpu, title: string, args: ReadonlyPartialJSONObject): Promise<string | null> {
  const { state, view } = nbgpu;
  if (!state.summary || (typeof args.name === 'string' && !state.endpoint(args.name))) {
    await state.refresh(); // it may have been made just now
  }
  const names = (state.summary?.endpoints ?? []).map(row => row.name);
  if (typeof args.name === 'string') {
    if (names.includes(args.name)) {
      return args.name;
    }
    Notification.error(`There is no endpoint ${args.name}.`);
    return null;
  }
  if (view.open !== null && names.includes(view.open)) {
    return view.open;
  }
  if (names.length < 2) {
    return names[0] ?? null;
  }
  return (await InputDialog.getItem({ title, label: 'Endpoint', items: [...names].sort() })).value;
}
