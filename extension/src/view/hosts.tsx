import { addIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import { NO_HOST } from '../model/adding';
import { hostRow, hostsText } from '../model/hosts';
import { useHands } from './context';
import { HostRowView } from './host';
import { HostForm } from './hostform';
import { useChanges } from './hooks';
import { Trouble } from './parts';
import { VirtualList } from './virtual';

/** Own servers, by name; without any, one line. */
export function Hosts(): React.ReactElement {
  const { state, actions, view } = useHands();
  useChanges(state.changed, view.changed, actions.changed);
  const { summary } = state;
  const rows = summary?.hosts ?? [];
  const local = hostRow('local');
  const failed = actions.failed.get(local);
  return (
    <div className="nbgpu-Endpoints">
      {summary && (
        <div className="nbgpu-Tools nbgpu-Pods-head">
          <span title={rows.length > 0 ? `Pods and endpoints that name no place go to ${summary.place}` : undefined}>
            {hostsText(summary)}
          </span>
          {summary.place !== 'local' && (
            <button
              type="button"
              className="nbgpu-Chip"
              aria-label="Use local: pods that name no place go to this machine"
              disabled={actions.doing.has(local)}
              onClick={() => void actions.use('local')}
            >
              use local
            </button>
          )}
          <button
            type="button"
            className={rows.length > 0 ? 'nbgpu-Square' : 'nbgpu-Chip'}
            aria-label="Add a host"
            title="Add one of your servers, over SSH, as a place where pods run"
            aria-expanded={view.host !== null}
            onClick={() => view.set({ host: view.host ? null : NO_HOST })}
          >
            {rows.length > 0 ? (
              <addIcon.react tag="span" className="nbgpu-Icon" width="14px" height="14px" />
            ) : (
              'Add a host'
            )}
          </button>
        </div>
      )}
      {failed && <Trouble failure={failed} onClose={() => actions.forget(local)} />}
      {view.host && <HostForm draft={view.host} />}
      {rows.length > 0 && (
        <VirtualList
          label="Hosts"
          items={rows}
          keyOf={host => hostRow(host.name)}
          estimate={84}
          draw={host => <HostRowView host={host} />}
          reveal={view.reveal}
          onRevealed={() => view.set({ reveal: null })}
        />
      )}
    </div>
  );
}
