import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Kernel } from '@jupyterlab/services';
import { failure } from '../api/problem';
import { obey, TARGET } from '../model/switching';
import { INbgpu } from '../tokens';

/** Resolves when the kernel is idle, or ends. */
function rest(kernel: Kernel.IKernelConnection): Promise<void> {
  const busy = (status: Kernel.Status): boolean => status === 'busy';
  return new Promise(resolve => {
    const done = (): void => {
      kernel.statusChanged.disconnect(look);
      kernel.disposed.disconnect(done);
      resolve();
    };
    const look = (_: unknown, status: Kernel.Status): void => {
      if (!busy(status)) {
        done();
      }
    };
    kernel.statusChanged.connect(look);
    kernel.disposed.connect(done);
    look(null, kernel.isDisposed ? 'dead' : kernel.status);
  });
}

export const switching: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:switching',
  description: 'Gives a notebook to the kernel of a pod when a cell of it asks for that.',
  autoStart: true,
  requires: [INbgpu, INotebookTracker],
  activate: (_: JupyterFrontEnd, { specs }: INbgpu, tracker: INotebookTracker): void => {
    const listen = (panel: NotebookPanel): void => {
      const { sessionContext } = panel;
      const register = (kernel: Kernel.IKernelConnection | null | undefined): void => {
        kernel?.registerCommTarget(TARGET, (comm, message) => {
          obey(message.content.data, specs, {
            answer: answer => {
              if (!comm.isDisposed) {
                comm.send(answer);
              }
            },
            rest: () => rest(kernel),
            change: async kernelspec => {
              // it may be there already, or the person may have chosen another meanwhile
              if (kernel.name !== kernelspec && !panel.isDisposed && sessionContext.session?.kernel?.id === kernel.id) {
                await sessionContext.changeKernel({ name: kernelspec });
              }
            }
          }).catch((thrown: unknown) => void Notification.error(failure(thrown).message));
        });
      };
      sessionContext.kernelChanged.connect((_, { newValue }) => register(newValue));
      register(sessionContext.session?.kernel);
    };
    tracker.forEach(listen);
    tracker.widgetAdded.connect((_, panel) => listen(panel));
  }
};
