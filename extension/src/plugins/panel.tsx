import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Clipboard, Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import { PageConfig, PathExt } from '@jupyterlab/coreutils';
import { INotebookTracker } from '@jupyterlab/notebook';
import * as React from 'react';
import { Failure, failure } from '../api/problem';
import type { Volume } from '../api/schema';
import { folderOf, requestOf } from '../model/deployment';
import { perHour } from '../model/format';
import { removal } from '../model/hosts';
import { revocation } from '../model/keys';
import { openRequest, requirementsOf } from '../model/opening';
import { Commands, ICells, INbgpu, IPresentation } from '../tokens';
import type { Hands, Pods } from '../view/context';
import { Lost, PodLost } from '../view/lost';
import { Panel } from '../view/panel';

/** Where relative paths count from: as for a cell of the current notebook; null if unknown. */
function folder(tracker: INotebookTracker | null): string | null {
  // of our server extension: Jupyter's own `serverRoot` may begin with ~
  const root = PageConfig.getOption('nbgpuRoot');
  return root ? folderOf(root, tracker?.currentWidget?.context.localPath ?? '') : null;
}

/** The lines of a requirements file, whose path counts from the folder of the current notebook. Throws a Failure. */
async function requirements(app: JupyterFrontEnd, tracker: INotebookTracker | null, written: string): Promise<string[]> {
  const root = PageConfig.getOption('nbgpuRoot');
  const here = PathExt.dirname(tracker?.currentWidget?.context.localPath ?? '');
  const inside = root !== '' && written.startsWith(`${root}/`);
  const path = inside ? written.slice(root.length + 1) : PathExt.join(here, written);
  try {
    if (written.startsWith('/') && !inside) {
      throw new Error('it lies outside of Jupyter’s folder');
    }
    const found = await app.serviceManager.contents.get(path, { type: 'file', format: 'text' });
    return requirementsOf(String(found.content));
  } catch (thrown) {
    throw new Failure(
      `${written} cannot be read: ${failure(thrown).what.replace(/\.$/, '')}.`,
      'Give its path from the folder of the notebook.'
    );
  }
}

function podHands(app: JupyterFrontEnd, nbgpu: INbgpu, tracker: INotebookTracker | null): Pods {
  const { actions, client, state } = nbgpu;
  /** The volume that goes with it; null if there is none or it cannot be known. */
  const volume = async (name: string): Promise<Volume | null> => {
    try {
      const [pod, volumes] = await Promise.all([client.pod(name), client.volumes()]);
      return volumes.find(one => one.id === pod.nbgpu.volumeId) ?? null;
    } catch {
      return null; // the question works without its size
    }
  };
  return {
    read: name => client.pod(name),
    open: async draft => {
      const file = draft.requirements.trim();
      const lines = file ? await requirements(app, tracker, file) : [];
      const { summary } = state;
      const now = summary ? summary.atUs + (Date.now() - state.summaryAt) * 1000 : Date.now() * 1000;
      await actions.open(openRequest(draft, state.names(), now, lines, summary?.place));
    },
    remove: name => {
      void (async () => {
        const row = state.pod(name);
        const own = row?.volumeName === null;
        const asked = await showDialog({
          title: `Delete ${name}?`,
          body: row ? <PodLost row={row} volume={own ? await volume(name) : null} /> : '',
          checkbox: own ? { label: 'Keep the volume', checked: false } : null,
          buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Delete' })],
          defaultButton: 0
        });
        if (asked.button.accept) {
          await actions.removePod(name, asked.isChecked === true);
        }
      })();
    },
    notebook: name => void app.commands.execute(Commands.podNotebook, { name }),
    terminal: name => void app.commands.execute(Commands.podTerminal, { name })
  };
}

function hands(
  app: JupyterFrontEnd,
  nbgpu: INbgpu,
  cells: ICells | null,
  tracker: INotebookTracker | null
): Hands {
  const { actions, client, state } = nbgpu;
  const taken = (): string[] => state.names();
  const say = (thrown: unknown): void => {
    Notification.error(failure(thrown).message);
  };
  return {
    ...nbgpu,
    insert: cells && (cell => void cells.insert(cell).catch(say)),
    copy: (text, what) => {
      Clipboard.copyToSystem(text);
      Notification.info(`${what} is on the clipboard.`, { autoClose: 2000 });
    },
    remove: name => {
      void (async () => {
        const row = state.endpoint(name);
        const asked = await showDialog({
          title: `Delete ${name}?`,
          body: row ? <Lost row={row} /> : '',
          buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Delete' })],
          defaultButton: 0
        });
        if (asked.button.accept) {
          await actions.remove(name);
        }
      })();
    },
    deploy: draft => actions.deploy(requestOf(draft, taken(), state.summary?.place ?? 'local', folder(tracker))),
    limits: async name => {
      const { workers, nbgpu: status } = await client.endpoint(name);
      return { workers, ratePerHour: status.ratePerHour };
    },
    keys: {
      list: name => client.keys(name),
      add: wanted => client.addKey(wanted),
      revoke: async key => {
        const asked = await showDialog({
          ...revocation(key),
          buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Revoke' })],
          defaultButton: 0
        });
        if (asked.button.accept) {
          await client.revoke(key.id);
        }
        return asked.button.accept;
      }
    },
    pods: podHands(app, nbgpu, tracker),
    hosts: {
      meet: (reached, fingerprints) => client.meet(reached, fingerprints),
      add: host => actions.addHost(host),
      remove: name => {
        void (async () => {
          const asked = await showDialog({
            ...removal(name, state.summary),
            buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Remove' })],
            defaultButton: 0
          });
          if (asked.button.accept) {
            await actions.removeHost(name);
          }
        })();
      }
    },
    why: subject => client.why(subject),
    places: async () => {
      const { rates } = await client.settings();
      return new Map(
        Object.entries(rates).map(([place, rate]) => {
          const where = place === 'local' ? 'this machine' : place;
          return [place, Number(rate) > 0 ? `${where}, ${perHour(rate)}` : where];
        })
      );
    }
  };
}

export const panel: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:panel',
  description: 'The side panel: endpoints, pods, hosts and what happens to them.',
  autoStart: true,
  requires: [INbgpu, IPresentation],
  optional: [ICells, INotebookTracker, ILayoutRestorer],
  activate: (
    app: JupyterFrontEnd,
    nbgpu: INbgpu,
    presentation: IPresentation,
    cells: ICells | null,
    tracker: INotebookTracker | null,
    restorer: ILayoutRestorer | null
  ): void => {
    nbgpu.view.set({ sort: presentation.sort });
    const widget = new Panel(hands(app, nbgpu, cells, tracker));
    let area = presentation.area;
    app.shell.add(widget, area, { rank: 300, type: 'nbgpu' });
    restorer?.add(widget, widget.id);
    presentation.changed.connect(() => {
      nbgpu.view.set({ sort: presentation.sort });
      if (presentation.area !== area) {
        area = presentation.area;
        app.shell.add(widget, area, { rank: 300, type: 'nbgpu' });
        app.shell.activateById(widget.id);
      }
    });
  }
};
