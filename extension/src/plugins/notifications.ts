import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { shortened, worthTelling } from '../model/telling';
import { Commands, INbgpu, IPresentation } from '../tokens';

export const notifications: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:notifications',
  description: 'Tells of endpoints and pods that failed.',
  autoStart: true,
  requires: [INbgpu, IPresentation],
  optional: [INotebookTracker],
  activate: (
    app: JupyterFrontEnd,
    { specs, state, view }: INbgpu,
    presentation: IPresentation,
    tracker: INotebookTracker | null
  ): void => {
    const told = new Map<string, number>();
    /** Of a pod whose kernel a notebook uses, that is told with the notebook. */
    const besides = (name: string | null): boolean => {
      const kernelspec = name === null ? undefined : specs.of(name);
      const uses = tracker?.find(panel => panel.sessionContext.session?.kernel?.name === kernelspec);
      return kernelspec !== undefined && uses !== undefined;
    };
    state.news.connect((_, { events }) => {
      if (!presentation.notifications) {
        return;
      }
      for (const event of worthTelling(events, told)) {
        const { endpoint } = event;
        if (event.kind === 'pod.failed' && besides(endpoint)) {
          continue;
        }
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
