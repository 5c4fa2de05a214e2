import { addIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import { perHour } from '../model/format';
import { NO_POD } from '../model/opening';
import { arrangePods, podsText, rateOf } from '../model/pods';
import { useHands } from './context';
import { useChanges } from './hooks';
import { PodRowView } from './pod';
import { PodForm } from './podform';
import { VirtualList } from './virtual';

/** All pods, whoever opened them; without any, one line. */
export function Pods(): React.ReactElement {
  const { state, view } = useHands();
  useChanges(state.changed, view.changed);
  const { summary } = state;
  const rows = React.useMemo(() => arrangePods(summary?.pods ?? [], view.sort), [summary, view.sort]);
  const rate = rows.reduce((sum, row) => sum + rateOf(row), 0);
  const said = rows.length > 0 ? `${podsText(rows)}${rate > 0 ? `, ${perHour(rate)}` : ''}` : 'No pods yet.';
  const about = 'Open a pod: a private place to work, with a kernel, a terminal and a /workspace';
  return (
    <div className="nbgpu-Endpoints">
      {summary && (
        <div className="nbgpu-Tools nbgpu-Pods-head">
          <span>{said}</span>
          <button
            type="button"
            className={rows.length > 0 ? 'nbgpu-Square' : 'nbgpu-Chip'}
            aria-label="Open a pod"
            title={about}
            aria-expanded={view.pod !== null}
            onClick={() => view.set({ pod: view.pod ? null : NO_POD })}
          >
            {rows.length > 0 ? (
              <addIcon.react tag="span" className="nbgpu-Icon" width="14px" height="14px" />
            ) : (
              'Open a pod'
            )}
          </button>
        </div>
      )}
      {view.pod && <PodForm draft={view.pod} />}
      {rows.length > 0 && (
        <VirtualList
          label="Pods"
          items={rows}
          keyOf={row => row.name}
          estimate={64}
          draw={row => <PodRowView row={row} />}
          reveal={view.reveal}
          onRevealed={() => view.set({ reveal: null })}
        />
      )}
    </div>
  );
}
