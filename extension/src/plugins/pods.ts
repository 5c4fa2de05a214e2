import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, InputDialog, Notification } from '@jupyterlab/apputils';
import { PageConfig } from '@jupyterlab/coreutils';
import type { Terminal } from '@jupyterlab/services';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { Failure, failure } from '../api/problem';
import { gpuIcon } from '../icon';
import { NO_POD } from '../model/opening';
import { ready } from '../model/pods';
import { Commands, INbgpu, PANEL } from '../tokens';

const ARGUMENTS = {
  args: {
    type: 'object',
    properties: { name: { type: 'string', description: 'of the pod; by default the only one that runs' } }
  }
} as const;

/** The pod of a command: the one that is named, the open one, the only one that runs, or the one that is chosen. */
async function chosenPod(
  { state, view }: INbgpu, title: string, args: ReadonlyPartialJSONObject
): Promise<{ name: string; kernelspec: string } | null> {
  if (!state.summary || (typeof args.name === 'string' && !state.pod(args.name))) {
    await state.refresh(); // it may have been opened just now
  }
  const rows = (state.summary?.pods ?? []).filter(ready);
  const names = rows.map(row => row.name);
  let name = typeof args.name === 'string' ? args.name : view.open;
  if (typeof args.name !== 'string' && (name === null || !names.includes(name))) {
    const items = [...names].sort();
    name = items.length < 2 ? (items[0] ?? null) : (await InputDialog.getItem({ title, label: 'Pod', items })).value;
    if (name === null) {
      if (items.length === 0) {
        throw new Failure('No pod runs.', 'Open one first.');
      }
      return null;
    }
  }
  const found = rows.find(row => row.name === name);
  if (!found) {
    const row = state.pod(name ?? '');
    throw row
      ? new Failure(`${row.name} is ${row.state}: ${row.reason}.`, 'Start it first, or wait for it.')
      : new Failure(`There is no pod ${name}.`);
  }
  return found;
}

function sessionOf(made: unknown): Terminal.ITerminalConnection | null {
  const { content } = (made ?? {}) as { content?: { session?: Terminal.ITerminalConnection } };
  return content?.session ?? null;
}

/** Resolves when what is sent to it arrives. */
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
    const told = (run: (args: ReadonlyPartialJSONObject) => Promise<void>) => (args: ReadonlyPartialJSONObject) =>
      run(args).catch((thrown: unknown) => void Notification.error(failure(thrown).message));

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
      describedBy: ARGUMENTS,
      execute: told(async args => {
        const pod = await chosenPod(nbgpu, 'A notebook in which pod?', args);
        if (pod) {
          await kernelspecs.ready;
          if (!specs.has(pod.kernelspec)) {
            await specs.refresh();
          }
          if (!specs.has(pod.kernelspec)) {
            throw new Failure(`Jupyter does not list the kernel of ${pod.name}.`, 'See the log of Jupyter for the reason.');
          }
          await app.commands.execute('notebook:create-new', { kernelName: pod.kernelspec });
        }
      })
    });
    app.commands.addCommand(Commands.podTerminal, {
      label: 'New Terminal in a Pod…',
      caption: 'A shell in the pod',
      icon: gpuIcon,
      describedBy: ARGUMENTS,
      execute: told(async args => {
        const pod = await chosenPod(nbgpu, 'A terminal in which pod?', args);
        if (pod) {
          const attach = PageConfig.getOption('nbgpuTerminal'); // of our server extension, quoted for a shell
          if (!attach || !terminals.isAvailable() || !app.commands.hasCommand('terminal:create-new')) {
            throw new Failure('This Jupyter has no terminals.', `In a shell of this machine, type: nbgpu ssh ${pod.name}`);
          }
          const session = sessionOf(await app.commands.execute('terminal:create-new'));
          if (!session) {
            throw new Failure('No terminal could be opened.', 'See the log of Jupyter for the reason.');
          }
          await connected(session);
          session.send({ type: 'stdin', content: [`${attach} ${pod.name}\r`] });
        }
      })
    });
    for (const command of [Commands.openPod, Commands.podNotebook, Commands.podTerminal]) {
      palette?.addItem({ command, category: 'GPU' });
    }
  }
};
