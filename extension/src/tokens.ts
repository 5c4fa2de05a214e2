import { Token } from '@lumino/coreutils';
import type { ISignal } from '@lumino/signaling';
import type { Client } from './api/client';
import type { Actions } from './model/actions';
import type { Sort } from './model/order';
import type { Specs } from './model/specs';
import type { State } from './model/state';
import type { Trials } from './model/trial';
import type { View } from './model/view';
import type { Cell } from './verbs/cell';

/** How things stand, and what can be done. */
export interface INbgpu {
  readonly client: Client;
  readonly state: State;
  readonly specs: Specs;
  readonly actions: Actions;
  readonly trials: Trials;
  readonly view: View;
}

export const INbgpu = new Token<INbgpu>('nbgpu:INbgpu', 'The endpoints and pods of nbgpu, and what can be done with them.');

/** Writes cells into notebooks. */
export interface ICells {
  /** Into the current notebook, or a new one. */
  insert(cell: Cell): Promise<void>;
}

export const ICells = new Token<ICells>('nbgpu:ICells', 'Writes what a button does into a notebook.');

/** How the person wants things shown. */
export interface IPresentation {
  readonly area: 'left' | 'right';
  readonly sort: Sort;
  readonly notifications: boolean;
  readonly statusItem: boolean;
  readonly changed: ISignal<unknown, void>;
}

export const IPresentation = new Token<IPresentation>('nbgpu:IPresentation', 'How the person wants things shown.');

/** The panel's id in the shell. */
export const PANEL = 'nbgpu-panel';

/** The commands, for the palette, menus, shortcuts and other extensions. */
export const Commands = {
  open: 'nbgpu:open',
  deploy: 'nbgpu:deploy',
  scale: 'nbgpu:scale',
  warm: 'nbgpu:warm',
  keys: 'nbgpu:keys',
  openPod: 'nbgpu:pod-open',
  podNotebook: 'nbgpu:pod-notebook',
  podTerminal: 'nbgpu:pod-terminal',
  addHost: 'nbgpu:host-add',
  insert: 'nbgpu:insert-cell'
} as const;
