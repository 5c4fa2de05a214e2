import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { gpuIcon } from '../icon';
import { NO_HOST } from '../model/adding';
import { EMPTY } from '../model/deployment';
import { Commands, ICells, INbgpu, PANEL } from '../tokens';
import { cell, Values } from '../verbs/cell';

export const commands: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:commands',
  description: 'The commands of nbgpu, in the palette too.',
  autoStart: true,
  requires: [INbgpu],
  optional: [ICells, ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    { view }: INbgpu,
    cells: ICells | null,
    palette: ICommandPalette | null
  ): void => {
    const open = (): void => app.shell.activateById(PANEL);
    app.commands.addCommand(Commands.open, {
      label: 'GPU Endpoints',
      caption: 'Show what runs, what it costs and what happened',
      icon: gpuIcon,
      execute: open
    });
    app.commands.addCommand(Commands.deploy, {
      label: 'Deploy a Model…',
      caption: 'Open the form that serves a model',
      icon: gpuIcon,
      execute: () => {
        open();
        view.set({ draft: view.draft ?? EMPTY });
      }
    });
    app.commands.addCommand(Commands.addHost, {
      label: 'Add a Host…',
      caption: 'One of your servers, over SSH, as a place where pods run',
      icon: gpuIcon,
      execute: () => {
        open();
        view.set({ host: view.host ?? NO_HOST });
      }
    });
    app.commands.addCommand(Commands.insert, {
      label: 'Insert an nbgpu Verb as Cell',
      caption: 'args: verb, and its values by name',
      isEnabled: () => cells !== null,
      execute: async args => {
        const verb = typeof args.verb === 'string' ? args.verb : 'status';
        await cells?.insert(cell(verb, (args.values ?? {}) as Values));
      }
    });
    for (const command of [Commands.open, Commands.deploy, Commands.addHost]) {
      palette?.addItem({ command, category: 'GPU' });
    }
  }
};
