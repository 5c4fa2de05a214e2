import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Clipboard, Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import { PageConfig } from '@jupyterlab/coreutils';
import { INotebookTracker } from '@jupyterlab/notebook';
import * as React from 'react';
import { failure } from '../api/problem';
import { folderOf, requestOf } from '../model/deployment';
import { perHour } from '../model/format';
import { revocation } from '../model/keys';
import { ICells, INbgpu, IPresentation } from '../tokens';
import type { Hands } from '../view/context';
import { Lost } from '../view/lost';
import { Panel } from '../view/panel';

/** Where relative paths count from: as for a cell of the current notebook; null if unknown. */
function folder(tracker: INotebookTracker | null): string | null {
  // of our server extension: Jupyter's own `serverRoot` may begin with ~
  const root = PageConfig.getOption('nbgpuRoot');
  return root ? folderOf(root, tracker?.currentWidget?.context.localPath ?? '') : null;
}

function hands(nbgpu: INbgpu, cells: ICells | null, tracker: INotebookTracker | null): Hands {
  const { actions, client, state } = nbgpu;
  const taken = (): string[] => (state.summary?.endpoints ?? []).map(row => row.name);
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
    deploy: draft => actions.deploy(requestOf(draft, taken(), folder(tracker))),
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
  description: 'The side panel: endpoints and what happens to them.',
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
    const widget = new Panel(hands(nbgpu, cells, tracker));
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
