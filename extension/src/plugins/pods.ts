import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { PageConfig } from '@jupyterlab/coreutils';
import type { Terminal } from '@jupyterlab/services';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { Failure, failure } from '../api/problem';
import { gpuIcon } from '../icon';
import { NO_POD } from '../model/opening';
import { Commands, INbgpu, PANEL } from '../tokens';
import { chosenRow, POD, RUNNING } from './chosen';

const describedBy = { args: { type: 'object', properties: { name: POD } } } as const;

function sessionOf(made: unknown): Terminal.ITerminalConnection | null {
  const { content } = (made || {}) as { content?: { session?: Terminal.ITerminalConnection } };
  return content?.session ?? null;
}

/** A shell that has not said anything for so long has its prompt out already, in ms. */
const SILENT_MS = 1000;

/** Resolves when its shell listens: what is typed before its prompt is shown twice. */
async function listening(session: Terminal.ITerminalConnection): Promise<void> {
  const said = new Promise<void>(resolve => session.messageReceived.connect(() => resolve()));
  await connected(session);
  await Promise.race([said, new Promise(resolve => setTimeout(resolve, SILENT_MS))]);
}

async function connected(session: Terminal.ITerminalConnection): Promise<void> {
  if (session.connectionStatus === 'connected') {
    return;
  }
  await new Promise<void>((resolve, reject) => {
    const listen = (_: unknown, status: Terminal.ConnectionStatus): void => {
      if (status !== 'connecting') {
        session.connectionStatusChanged.disconnect(listen);
        if (status === 'connected') {
          resolve();
        } else {
          reject(new Failure('The terminal was closed before it was there.', 'Open it again.'));
        }
      }
    };
    session.connectionStatusChanged.connect(listen);
  });
}

export const pods: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:pods',
  description: 'Pods as commands: open one, a notebook in one, a terminal in one.',
  autoStart: true,
  requires: [INbgpu],
  optional: [ICommandPalette],
  activate: (app: JupyterFrontEnd, nbgpu: INbgpu, palette: ICommandPalette | null): void => {
    const { specs, view } = nbgpu;
    const { kernelspecs, terminals } = app.serviceManager;
    /** With the pod that is chosen; what goes wrong is shown. */
    const withPod =
      (title: string, run: (name: string, kernelspec: string) => Promise<void>) =>
      async (args: ReadonlyPartialJSONObject): Promise<void> => {
        try {
          const pod = await chosenRow(nbgpu, title, args, RUNNING);
          if (pod?.kernelspec) {
            await run(pod.name, pod.kernelspec);
          } else {
            app.shell.activateById(PANEL);
          }
        } catch (thrown) {
          Notification.error(failure(thrown).message);
        }
      };

    app.commands.addCommand(Commands.openPod, {
      label: 'Open a Pod…',
      caption: 'A private place to work: a kernel, a terminal and a /workspace',
      icon: gpuIcon,
      execute: () => {
        app.shell.activateById(PANEL);
        view.set({ pod: view.pod ?? NO_POD });
      }
    });
    app.commands.addCommand(Commands.podNotebook, {
      label: 'New Notebook in a Pod…',
      caption: 'Its cells run in the kernel of the pod',
      icon: gpuIcon,
      describedBy,
      execute: withPod('A notebook in which pod?', async (name, kernelspec) => {
        await kernelspecs.ready;
        if (!specs.has(kernelspec)) {
          await specs.refresh();
        }
        if (!specs.has(kernelspec)) {
          throw new Failure(`Jupyter does not list the kernel of ${name}.`, 'See the log of Jupyter.');
        }
        await app.commands.execute('notebook:create-new', { kernelName: kernelspec });
      })
    });
    app.commands.addCommand(Commands.podTerminal, {
      label: 'New Terminal in a Pod…',
      caption: 'A shell in the pod',
      icon: gpuIcon,
      describedBy,
      execute: withPod('A terminal in which pod?', async name => {
        const attach = PageConfig.getOption('nbgpuTerminal'); // of our server extension, quoted for a shell
        const made: unknown = attach && terminals.isAvailable() && (await app.commands.execute('terminal:create-new'));
        const session = sessionOf(made);
        if (!session) {
          throw new Failure('This Jupyter has no terminals.', `In a shell of this machine, type: nbgpu ssh ${name}`);
        }
        await listening(session);
        session.send({ type: 'stdin', content: [`${attach} ${name}\r`] });
      })
    });
    for (const command of [Commands.openPod, Commands.podNotebook, Commands.podTerminal]) {
      palette?.addItem({ command, category: 'GPU' });
    }
  }
};
