import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, InputDialog, Notification } from '@jupyterlab/apputils';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import type { Limits } from '../api/client';
import { failure } from '../api/problem';
import { gpuIcon } from '../icon';
import { draftOf } from '../model/scaling';
import { WARMTHS, warmWorkers } from '../model/warmth';
import { Commands, INbgpu, PANEL } from '../tokens';
import { chosen, NAME } from './chosen';

const OFF = 'off: no longer';

/** How long, in seconds; null if the person thinks better of it. */
async function length(name: string): Promise<number | null> {
  const items = [...WARMTHS.map(([, label]) => label), OFF];
  const asked = await InputDialog.getItem({ title: `Keep ${name} warm for how long?`, label: 'Time', items });
  if (asked.value === OFF) {
    return 0;
  }
  return WARMTHS.find(([, label]) => label === asked.value)?.[0] ?? null;
}

/** What the arguments name. */
function limitsOf(args: ReadonlyPartialJSONObject): Partial<Limits> {
  const { workers, alwaysOn, idle } = args;
  return {
    ...(typeof workers === 'number' ? { max: workers } : {}),
    ...(typeof alwaysOn === 'number' ? { min: alwaysOn } : {}),
    ...(typeof idle === 'number' ? { idleTimeout: idle } : {})
  };
}

const NUMBER = { type: 'number' } as const;

export const scaling: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:scaling',
  description: 'Scale and warm as commands.',
  autoStart: true,
  requires: [INbgpu],
  optional: [ICommandPalette],
  activate: (app: JupyterFrontEnd, nbgpu: INbgpu, palette: ICommandPalette | null): void => {
    const { actions, state, view } = nbgpu;
    app.commands.addCommand(Commands.scale, {
      label: 'Scale an Endpoint…',
      caption: 'How many of its workers may run, and how many always do',
      icon: gpuIcon,
      describedBy: {
        args: {
          type: 'object',
          properties: {
            name: NAME,
            workers: { ...NUMBER, description: 'at most so many' },
            alwaysOn: { ...NUMBER, description: 'so many run, asked or not' },
            idle: { ...NUMBER, description: 'seconds' }
          }
        }
      },
      execute: async args => {
        const name = await chosen(nbgpu, 'Scale which endpoint?', args);
        const row = name === null ? undefined : state.endpoint(name);
        const limits = limitsOf(args);
        if (row && Object.keys(limits).length > 0) {
          await actions.scale(row.name, limits).catch((thrown: unknown) => Notification.error(failure(thrown).message));
          return;
        }
        app.shell.activateById(PANEL);
        if (row) {
          view.show(row.name);
          view.set({ scaling: draftOf(row) });
        }
      }
    });
    app.commands.addCommand(Commands.warm, {
      label: 'Keep an Endpoint Warm…',
      caption: 'Start a worker now and keep it up for a while',
      icon: gpuIcon,
      describedBy: {
        args: {
          type: 'object',
          properties: {
            name: NAME,
            seconds: { ...NUMBER, description: '0 ends it' },
            workers: { ...NUMBER, description: 'so many are kept up' }
          }
        }
      },
      execute: async args => {
        const name = await chosen(nbgpu, 'Keep which endpoint warm?', args);
        const row = name === null ? undefined : state.endpoint(name);
        if (!row) {
          app.shell.activateById(PANEL);
          return;
        }
        const seconds = typeof args.seconds === 'number' ? args.seconds : await length(row.name);
        if (seconds !== null) {
          await actions.warm(row.name, seconds, typeof args.workers === 'number' ? args.workers : warmWorkers(row));
          const failed = actions.failed.get(row.name);
          if (failed) {
            Notification.error(failed.message);
          }
        }
      }
    });
    for (const command of [Commands.scale, Commands.warm]) {
      palette?.addItem({ command, category: 'GPU' });
    }
  }
};
