import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILauncher } from '@jupyterlab/launcher';
import { Commands } from '../tokens';

export const launcher: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:launcher',
  description: 'Tiles of the launcher that deploy a model and open a pod.',
  autoStart: true,
  requires: [ILauncher],
  activate: (_: JupyterFrontEnd, launcher: ILauncher): void => {
    launcher.add({ command: Commands.deploy, category: 'GPU', rank: 1 });
    launcher.add({ command: Commands.openPod, category: 'GPU', rank: 1.5 });
    launcher.add({ command: Commands.open, category: 'GPU', rank: 2 });
  }
};
