import * as React from 'react';

/** Shapes differ as well as colours, so that a state is told without seeing colour. */
const SHAPES: Record<string, React.ReactElement> = {
  full: <circle cx="6" cy="6" r="5" />,
  ring: <circle cx="6" cy="6" r="4" className="nbgpu-mod-line" />,
  half: (
    <>
      <circle cx="6" cy="6" r="4" className="nbgpu-mod-line" />
      <path d="M6 1a5 5 0 0 1 0 10z" />
    </>
  ),
  square: <rect x="2" y="2" width="8" height="8" rx="1" className="nbgpu-mod-line" />,
  pause: (
    <>
      <rect x="2" y="2" width="3" height="8" />
      <rect x="7" y="2" width="3" height="8" />
    </>
  ),
  triangle: <path d="M6 1l5.5 10h-11z" />
};

const LOOKS: Record<string, [shape: string, tone: string]> = {
  busy: ['full', 'busy'],
  ready: ['full', 'good'],
  starting: ['half', 'busy'],
  fetching: ['half', 'busy'],
  throttled: ['half', 'warn'],
  draining: ['half', 'quiet'],
  asleep: ['ring', 'quiet'],
  stopped: ['square', 'quiet'],
  failed: ['triangle', 'bad'],
  running: ['full', 'busy'],
  idle: ['full', 'good'],
  initializing: ['half', 'quiet'],
  parked: ['pause', 'quiet'],
  unhealthy: ['triangle', 'bad'],
  preparing: ['half', 'quiet'],
  stopping: ['half', 'quiet'],
  unreachable: ['triangle', 'warn'],
  connected: ['full', 'good'],
  connecting: ['half', 'busy'],
  refused: ['triangle', 'bad']
};

/** The state of an endpoint, a worker, a pod or a host, as a small mark; its word stands beside it. */
export function Mark(props: { state: string }): React.ReactElement {
  const [shape, tone] = LOOKS[props.state] ?? ['ring', 'quiet'];
  return (
    <svg className={`nbgpu-Mark nbgpu-mod-${tone}`} viewBox="0 0 12 12" width="12" height="12" aria-hidden>
      {SHAPES[shape]}
    </svg>
  );
}
