import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { INotebookTracker, NotebookActions, NotebookPanel } from '@jupyterlab/notebook';
import { ICells } from '../tokens';
import type { Cell } from '../verbs/cell';
import { sources } from '../verbs/loading';

/** Write below the active cell, or into it if it is empty; what was written is selected. */
async function write(panel: NotebookPanel, cell: Cell): Promise<void> {
  // What is put into a notebook that still loads would be lost.
  await panel.context.ready;
  await panel.revealed;
  const notebook = panel.content;
  // An editor that takes the focus would undo the selection below.
  notebook.mode = 'command';
  const above = notebook.widgets
    .slice(0, notebook.activeCellIndex + 1)
    .filter(widget => widget.model.type === 'code')
    .map(widget => widget.model.sharedModel.getSource());
  const written = sources(cell, above);
  let first = -1;
  for (const source of written) {
    const active = notebook.activeCell;
    const empty = active?.model.type === 'code' && !active.model.sharedModel.getSource().trim();
    if (first >= 0 || !empty) {
      NotebookActions.insertBelow(notebook);
    }
    notebook.activeCell?.model.sharedModel.setSource(source);
    NotebookActions.changeCellType(notebook, 'code');
    first = first < 0 ? notebook.activeCellIndex : first;
  }
  if (written.length > 1) {
    // Both are run by one Shift+Enter.
    const last = notebook.activeCellIndex;
    notebook.activeCellIndex = first;
    notebook.deselectAll();
    notebook.extendContiguousSelectionTo(last);
  }
  // Not scrollToCell, which would undo the selection.
  await notebook.scrollToItem(notebook.activeCellIndex).catch(() => undefined);
}

async function created(app: JupyterFrontEnd): Promise<NotebookPanel | null> {
  await app.serviceManager.kernelspecs.ready;
  const kernelName = app.serviceManager.kernelspecs.specs?.default;
  const made: unknown = await app.commands.execute('notebook:create-new', kernelName ? { kernelName } : {});
  return made instanceof NotebookPanel ? made : null;
}

export const cells: JupyterFrontEndPlugin<ICells> = {
  id: 'nbgpu:cells',
  description: 'Writes what a button does into a notebook.',
  autoStart: true,
  provides: ICells,
  requires: [INotebookTracker],
  activate: (app: JupyterFrontEnd, tracker: INotebookTracker): ICells => {
    // One after another, so that cells keep the order of the clicks.
    let last: Promise<void> = Promise.resolve();
    const insert = async (cell: Cell): Promise<void> => {
      const panel = tracker.currentWidget ?? (await created(app));
      if (panel) {
        app.shell.activateById(panel.id);
        await write(panel, cell);
      }
    };
    return {
      insert: cell => {
        last = last.catch(() => undefined).then(() => insert(cell));
        return last;
      }
    };
  }
};
