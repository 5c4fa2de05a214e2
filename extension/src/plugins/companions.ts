import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Notification } from '@jupyterlab/apputils';
import { PageConfig } from '@jupyterlab/coreutils';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { Event } from '../api/schema';
import { closedUnder, endings, leftRunning, openedBy, Used, used } from '../model/companions';
import { Commands, INbgpu } from '../tokens';

/** A notebook that is open, or was a moment ago. */
interface Companion {
  panel: NotebookPanel;
  path: string;
  kernel: Used | undefined;
  /** its kernel is there: once it goes, that is told once */
  runs: boolean;
}

export const companions: JupyterFrontEndPlugin<void> = {
  id: 'nbgpu:companions',
  description: 'Tells of pods that outlive their notebook, and of notebooks whose pod has ended.',
  autoStart: true,
  requires: [INbgpu, INotebookTracker],
  activate: (app: JupyterFrontEnd, { actions, specs, state, view }: INbgpu, tracker: INotebookTracker): void => {
    const open = new Set<Companion>();
    /** notebooks that wait for their pod to run again, since somebody has asked for that */
    const waiting = new Map<string, Companion[]>();
    /** what is shown of a pod that ended */
    const cards = new Map<string, string>();

    const show = (name: string): void => {
      void app.commands.execute(Commands.open);
      view.show(name);
    };

    /** Its kernel went: what it has opened goes on. */
    const ended = async (notebook: Companion): Promise<void> => {
      if (!notebook.runs) {
        return;
      }
      notebook.runs = false;
      if (state.connection !== 'up') {
        return;
      }
      await state.refresh(); // it may have been opened just now
      const rows = openedBy(state.summary?.pods ?? [], notebook.path, PageConfig.getOption('nbgpuRoot'));
      const [first] = rows;
      if (first) {
        const stop = (): void => rows.forEach(row => void actions.stopPod(row.name));
        Notification.emit(leftRunning(rows, notebook.path), 'warning', {
          autoClose: false,
          actions: [
            { label: 'Stop', caption: `Stop ${rows.map(row => row.name).join(', ')}`, displayType: 'warn', callback: stop },
            { label: 'Show', callback: () => show(first.name) }
          ]
        });
      }
    };

    const watch = (panel: NotebookPanel): void => {
      const { context, sessionContext } = panel;
      const notebook: Companion = { panel, path: context.localPath, kernel: undefined, runs: false };
      open.add(notebook);
      const take = (name: string | undefined): void => {
        if (name !== undefined) {
          notebook.kernel = { kernelspec: name, endedAt: null };
          notebook.runs = true;
        } else if (notebook.kernel && notebook.kernel.endedAt === null) {
          notebook.kernel.endedAt = Date.now();
        }
      };
      take(sessionContext.session?.kernel?.name);
      context.pathChanged.connect(() => {
        notebook.path = context.localPath;
      });
      sessionContext.kernelChanged.connect((_, { newValue }) => {
        take(newValue?.name);
        if (!newValue) {
          void ended(notebook);
        }
      });
      sessionContext.statusChanged.connect((_, status) => {
        if (status === 'dead') {
          void ended(notebook);
        } else if (status === 'idle' || status === 'busy') {
          notebook.runs = true; // also once more after its death
        }
      });
      panel.disposed.connect(() => {
        open.delete(notebook);
        // another view of the same notebook may be open
        if (![...open].some(other => other.panel.context === context)) {
          void ended(notebook);
        }
      });
    };

    const closed = (pod: string, event: Event): void => {
      const now = Date.now();
      const there = [...open].filter(one => used(one.kernel, specs.of(pod), now));
      const before = cards.get(pod);
      if (there.length === 0) {
        return;
      }
      if (before !== undefined) {
        Notification.dismiss(before);
      }
      const again = (): void => {
        waiting.set(pod, there);
        void actions.startPod(pod);
      };
      const start = { label: 'Start again', caption: `Start ${pod} again`, displayType: 'accent' as const, callback: again };
      const text = closedUnder(event, [...new Set(there.map(one => one.path))]);
      cards.set(
        pod,
        Notification.emit(text, 'warning', {
          autoClose: false,
          actions: event.kind === 'pod.deleted' ? [] : [start, { label: 'Show', callback: () => show(pod) }]
        })
      );
    };

    /** It runs again: its notebooks get its kernel back. */
    const back = async (pod: string): Promise<void> => {
      const card = cards.get(pod);
      if (card !== undefined) {
        Notification.dismiss(card);
        cards.delete(pod);
      }
      const kernelspec = specs.of(pod);
      const there = (waiting.get(pod) ?? []).filter(
        ({ panel, kernel }) => !panel.isDisposed && kernel?.kernelspec === kernelspec
      );
      waiting.delete(pod);
      if (there.length === 0) {
        return;
      }
      await specs.refresh();
      // All of the old ones end first: an end that came later would be one of the pod's new kernel.
      for (const notebook of there) {
        notebook.runs = false;
        await notebook.panel.sessionContext.shutdown();
      }
      for (const { panel } of there) {
        await panel.sessionContext.changeKernel({ name: kernelspec });
      }
    };

    tracker.forEach(watch);
    tracker.widgetAdded.connect((_, panel) => watch(panel));
    state.news.connect((_, { events }) => {
      for (const [pod, event] of endings(events)) {
        closed(pod, event);
      }
      for (const { kind, endpoint } of events) {
        if (kind === 'pod.ready' && endpoint !== null) {
          void back(endpoint).catch((thrown: unknown) => console.warn(`nbgpu: ${endpoint} has no kernel yet.`, thrown));
        }
      }
    });
  }
};
