import { addIcon, stopIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import { EMPTY } from '../model/deployment';
import { arrange, Sort, SORTS } from '../model/order';
import { plural } from '../model/format';
import { hostRow } from '../model/hosts';
import { lines } from '../verbs/cell';
import { useHands } from './context';
import { DeployForm } from './form';
import { useChanges } from './hooks';
import { Act, Empty, Link } from './parts';
import { Endpoint } from './row';
import { VirtualList } from './virtual';

/** All endpoints, whoever made them. */
export function Endpoints(): React.ReactElement {
  const { state, view } = useHands();
  useChanges(state.changed, view.changed);
  const rows = state.summary?.endpoints ?? [];
  const taken = state.names();
  const hosts = (state.summary?.hosts ?? []).map(host => hostRow(host.name));
  React.useEffect(() => view.keep([...taken, ...hosts]));
  const shown = React.useMemo(
    () => arrange(state.summary?.endpoints ?? [], view.search, view.sort),
    [state.summary, view.search, view.sort]
  );
  return (
    <div className="nbgpu-Endpoints">
      {rows.length > 0 && <Tools count={rows.length} />}
      {view.selected.size > 0 && <Selection />}
      {view.draft && <DeployForm draft={view.draft} taken={taken} />}
      {shown.length > 0 ? (
        <VirtualList
          label="Endpoints"
          items={shown}
          keyOf={row => row.name}
          estimate={64}
          draw={row => <Endpoint row={row} />}
          reveal={view.reveal}
          onRevealed={() => view.set({ reveal: null })}
        />
      ) : (
        <Nothing any={rows.length > 0} />
      )}
    </div>
  );
}

function Tools({ count }: { count: number }): React.ReactElement {
  const { view } = useHands();
  return (
    <div className="nbgpu-Tools">
      <input
        type="search"
        className="nbgpu-Input"
        aria-label="Search endpoints"
        placeholder="Search"
        title={plural(count, 'endpoint')}
        value={view.search}
        onChange={event => view.set({ search: event.currentTarget.value })}
      />
      <select
        className="nbgpu-Input"
        aria-label="Sort by"
        title="Sort by"
        value={view.sort}
        onChange={event => view.set({ sort: event.currentTarget.value as Sort })}
      >
        {SORTS.map(sort => (
          <option key={sort} value={sort}>
            {sort}
          </option>
        ))}
      </select>
      <button
        type="button"
        className="nbgpu-Square"
        aria-label="Deploy a model"
        title="Deploy a model"
        aria-expanded={view.draft !== null}
        onClick={() => view.set({ draft: view.draft ? null : EMPTY })}
      >
        <addIcon.react tag="span" className="nbgpu-Icon" width="14px" height="14px" />
      </button>
    </div>
  );
}

function Selection(): React.ReactElement {
  const { view, actions } = useHands();
  const names = [...view.selected];
  return (
    <div className="nbgpu-Selection" role="group" aria-label="Selected endpoints">
      <span role="status">{names.length} selected</span>
      <Act
        label="Stop"
        about={`Stop ${plural(names.length, 'selected endpoint')}`}
        icon={stopIcon}
        onClick={() => {
          view.select([]);
          void actions.stopAll(names);
        }}
        cell={() => lines('stop', names.map(name => ({ name })))}
      />
      <Link onClick={() => view.select([])}>Clear</Link>
    </div>
  );
}

/** No rows: what to do first. */
function Nothing({ any }: { any: boolean }): React.ReactElement | null {
  const { state, view } = useHands();
  if (any) {
    return (
      <Empty title={`Nothing is called “${view.search}”.`}>
        <Link onClick={() => view.set({ search: '' })}>Clear the search</Link>
      </Empty>
    );
  }
  if (view.draft) {
    return null;
  }
  if (!state.summary) {
    return state.connection === 'down' ? (
      <Empty title="There is nothing to show without the backend." />
    ) : (
      <Empty title="Looking for endpoints…" />
    );
  }
  return (
    <Empty title="No endpoints yet.">
      <p>
        Deploy a model first. A worker starts when it is asked and stops when it idles, so that what nobody
        uses costs nothing.
      </p>
      <button
        type="button"
        className="nbgpu-Big jp-mod-styled jp-mod-accept"
        onClick={() => view.set({ draft: EMPTY })}
      >
        Deploy a model
      </button>
    </Empty>
  );
}
