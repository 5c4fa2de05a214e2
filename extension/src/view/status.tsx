import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';
import { gpuIcon } from '../icon';
import { perHour } from '../model/format';
import { rests } from '../model/pods';
import type { State } from '../model/state';
import { useChanges } from './hooks';

/** `$0.10/h · 1 running` in the status bar; a click opens the panel. */
export function Status(props: { state: State; open: () => void }): React.ReactElement {
  const { state, open } = props;
  useChanges(state.changed);
  const { summary } = state;
  const idle = summary?.idleButBilling.length ?? 0;
  const down = state.connection === 'down';
  // What is parked is stopped, and costs nothing.
  const endpoints = summary?.endpoints.filter(row => row.workers.some(worker => worker.state !== 'parked')).length ?? 0;
  const pods = summary?.pods.filter(row => !rests(row)).length ?? 0;
  const running = endpoints + pods;
  const title = !summary
    ? 'GPU endpoints: open the panel to see them'
    : `GPU endpoints: ${endpoints} of ${summary.endpoints.length} running, ` +
      (summary.pods.length > 0 ? `pods: ${pods} of ${summary.pods.length} running, ` : '') +
      `${perHour(summary.perHour)} now` +
      (idle ? `, ${idle} idle but billing` : '');
  const figures = summary ? perHour(summary.perHour) + (running ? ` · ${running} running` : '') : 'GPU';
  return (
    <button
      type="button"
      className={`nbgpu-Status${idle > 0 ? ' nbgpu-mod-warn' : ''}`}
      title={down ? 'GPU endpoints: the backend does not answer' : title}
      onClick={open}
    >
      <gpuIcon.react tag="span" className="nbgpu-Icon" width="14px" height="14px" />
      <span>{down ? 'GPU –' : figures}</span>
    </button>
  );
}

export function statusItem(state: State, open: () => void): ReactWidget {
  const item = ReactWidget.create(<Status state={state} open={open} />);
  item.addClass('jp-mod-highlighted');
  return item;
}
