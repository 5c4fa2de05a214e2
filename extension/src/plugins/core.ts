import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { Client } from '../api/client';
import { Actions } from '../model/actions';
import { Specs } from '../model/specs';
import { State, Wake } from '../model/state';
import { Trials } from '../model/trial';
import { View } from '../model/view';
import { INbgpu } from '../tokens';

/** The schema of what the server extension says over Jupyter's event bus. */
const CHANGES = 'https://nbgpu.dev/events/changes/v1';

function isWake(found: object): found is Wake {
  const { seq, kinds, backend } = found as Partial<Record<keyof Wake, unknown>>;
  return typeof seq === 'number' && Array.isArray(kinds) && (backend === 'up' || backend === 'down');
}

export const core: JupyterFrontEndPlugin<INbgpu> = {
  id: 'nbgpu:core',
  description: 'The endpoints and pods of nbgpu: read when Jupyter’s event bus says that something changed.',
  autoStart: true,
  provides: INbgpu,
  activate: (app: JupyterFrontEnd): INbgpu => {
    const client = new Client(app.serviceManager.serverSettings);
    const state = new State(client);
    const view = new View();
    app.serviceManager.events.stream.connect((_, event) => {
      if (event.schema_id === CHANGES && isWake(event)) {
        state.wake(event);
      }
    });
    void app.restored.then(() => state.peek());
    return {
      client,
      state,
      specs: new Specs(state, app.serviceManager.kernelspecs),
      view,
      actions: new Actions(client, state),
      trials: new Trials((name, question, signal) => client.ask(name, question, signal))
    };
  }
};
