import type { ISignal } from '@lumino/signaling';
import * as React from 'react';
import { Failure, failure } from '../api/problem';

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

/** What was asked about a subject; `at`: when it was told, in ms. */
export interface Answer<T> {
  told: T | null;
  problem: Failure | null;
  at: number;
}

/** Asked when it is drawn, and again when `mark` is another; never two at a time. */
export function useAnswer<T>(ask: (subject: string) => Promise<T>, subject: string, mark: string): Answer<T> {
  const [answer, setAnswer] = React.useState<Answer<T>>({ told: null, problem: null, at: 0 });
  const asking = React.useRef(false);
  const [round, next] = React.useReducer((count: number) => count + 1, 0);
  const asked = React.useRef('');
  const wanted = React.useRef('');
  const gone = React.useRef(false);
  wanted.current = `${subject} ${mark}`;
  React.useEffect(() => {
    gone.current = false;
    return () => {
      gone.current = true;
    };
  }, []);
  React.useEffect(() => {
    if (asking.current || asked.current === wanted.current) {
      return;
    }
    asking.current = true;
    asked.current = wanted.current;
    const take = (told: T | null, problem: Failure | null): void => {
      asking.current = false;
      if (!gone.current) {
        setAnswer({ told, problem, at: Date.now() });
        next(); // it may be another meanwhile
      }
    };
    ask(subject).then(
      told => take(told, null),
      (thrown: unknown) => take(null, failure(thrown))
    );
  }, [ask, subject, mark, round]);
  return answer;
}
