import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILauncher } from '@jupyterlab/launcher';
import { Commands } from '../tokens';

export const launcher: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:launcher',
  description: 'A tile of the launcher that deploys a model.',
  autoStart: true,
  requires: [ILauncher],
  activate: (_: JupyterFrontEnd, launcher: ILauncher): void => {
    launcher.add({ command: Commands.deploy, category: 'GPU', rank: 1 });
    launcher.add({ command: Commands.open, category: 'GPU', rank: 2 });
  }
};
