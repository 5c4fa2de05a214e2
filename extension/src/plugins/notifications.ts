import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import { shortened, worthTelling } from '../model/telling';
import { Commands, INbgpu, IPresentation } from '../tokens';

export const notifications: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:notifications',
  description: 'Tells of endpoints that failed.',
  autoStart: true,
  requires: [INbgpu, IPresentation],
  activate: (app: JupyterFrontEnd, { state, view }: INbgpu, presentation: IPresentation): void => {
    const told = new Map<string, number>();
    state.news.connect((_, { events }) => {
      if (!presentation.notifications) {
        return;
      }
      for (const event of worthTelling(events, told)) {
        const { endpoint } = event;
        const show = {
          label: 'Show',
          callback: () => {
            void app.commands.execute(Commands.open);
            if (endpoint !== null) {
              view.show(endpoint);
            }
          }
        };
        Notification.error(shortened(event.text), { actions: [show], autoClose: 10_000 });
      }
    });
  }
};
