import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IStatusBar } from '@jupyterlab/statusbar';
import { Signal } from '@lumino/signaling';
import { Commands, INbgpu, IPresentation } from '../tokens';
import { statusItem } from '../view/status';

export const statusbar: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:statusbar',
  description: 'What an hour costs now, in the status bar.',
  autoStart: true,
  requires: [INbgpu, IPresentation, IStatusBar],
  activate: (app: JupyterFrontEnd, { state }: INbgpu, presentation: IPresentation, bar: IStatusBar): void => {
    const changed = new Signal<object, void>({});
    presentation.changed.connect(() => changed.emit());
    bar.registerStatusItem('nbgpu:status', {
      item: statusItem(state, () => void app.commands.execute(Commands.open)),
      align: 'right',
      rank: 50,
      isActive: () => presentation.statusItem,
      activeStateChanged: changed
    });
  }
};
