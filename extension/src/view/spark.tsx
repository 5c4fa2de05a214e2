import * as React from 'react';

const WIDTH = 60;
const HEIGHT = 16;

/** A small line of counts, one px a number; flat where nothing happened. */
export function Spark(props: { counts: readonly number[]; label: string }): React.ReactElement {
  const { counts } = props;
  const most = Math.max(1, ...counts);
  const step = WIDTH / Math.max(1, counts.length - 1);
  const points = counts.map((n, i) => `${(i * step).toFixed(1)},${(HEIGHT - 1 - (n / most) * (HEIGHT - 2)).toFixed(1)}`);
  const flat = counts.every(n => n === 0);
  return (
    <svg
      className={`nbgpu-Spark${flat ? ' nbgpu-mod-flat' : ''}`}
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      width={WIDTH}
      height={HEIGHT}
      preserveAspectRatio="none"
      role="img"
      aria-label={props.label}
    >
      <polygon points={`0,${HEIGHT} ${points.join(' ')} ${WIDTH},${HEIGHT}`} />
      <polyline points={points.join(' ')} />
    </svg>
  );
}
