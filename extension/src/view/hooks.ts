import type { ISignal } from '@lumino/signaling';
import * as React from 'react';

/** Draw again when a model changed. */
export function useChanges(...signals: ISignal<unknown, unknown>[]): void {
  const [, draw] = React.useReducer((count: number) => count + 1, 0);
  React.useEffect(() => {
    const slot = (): void => draw();
    signals.forEach(signal => signal.connect(slot));
    // It may have changed between drawing and listening.
    draw();
    return () => signals.forEach(signal => signal.disconnect(slot));
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the signals are the dependencies
  }, signals);
}

/** The time in ms, moving only while `active`: what stands still costs nothing. */
export function useNow(active: boolean, everyMs = 1000): number {
  const [now, setNow] = React.useState(() => Date.now());
  React.useEffect(() => {
    setNow(Date.now());
    if (!active) {
      return;
    }
    const timer = setInterval(() => {
      if (!document.hidden) {
        setNow(Date.now());
      }
    }, everyMs);
    return () => clearInterval(timer);
  }, [active, everyMs]);
  return active ? now : Math.max(now, Date.now());
}
