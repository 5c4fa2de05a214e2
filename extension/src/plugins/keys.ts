import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { gpuIcon } from '../icon';
import { keysOf } from '../model/keys';
import { Commands, INbgpu, PANEL } from '../tokens';
import { chosen, NAME } from './chosen';

export const keys: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:keys',
  description: 'The keys of an endpoint as a command.',
  autoStart: true,
  requires: [INbgpu],
  optional: [ICommandPalette],
  activate: (app: JupyterFrontEnd, nbgpu: INbgpu, palette: ICommandPalette | null): void => {
    const { view } = nbgpu;
    app.commands.addCommand(Commands.keys, {
      label: 'Keys of an Endpoint…',
      caption: 'What opens it for programs outside Jupyter, and what came with each',
      icon: gpuIcon,
      describedBy: { args: { type: 'object', properties: { name: NAME } } },
      execute: async args => {
        const name = await chosen(nbgpu, 'Keys of which endpoint?', args);
        app.shell.activateById(PANEL);
        // those that are open stay: a secret may be shown there
        if (name !== null && view.keys?.name !== name) {
          view.show(name);
          view.set({ keys: keysOf(name) });
        }
      }
    });
    palette?.addItem({ command: Commands.keys, category: 'GPU' });
  }
};
