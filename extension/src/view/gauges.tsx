import * as React from 'react';
import type { Gauge } from '../model/pods';

/** From then on a gauge warns. */
const FULL = 0.9;

/** What it uses, in words, each with a bar where what there is is known. */
export function Gauges(props: { of: string; gauges: readonly Gauge[] }): React.ReactElement {
  return (
    <dl className="nbgpu-Facts nbgpu-Gauges" aria-label={`What ${props.of} uses`}>
      {props.gauges.map(({ label, text, share }) => (
        <div key={label}>
          <dt>{label}</dt>
          <dd>
            {text}
            {share !== null && (
              <span
                role="meter"
                className={`nbgpu-Gauge${share >= FULL ? ' nbgpu-mod-full' : ''}`}
                aria-label={`${label} of ${props.of}`}
                aria-valuemin={0}
                aria-valuemax={100}
                aria-valuenow={Math.round(share * 100)}
                aria-valuetext={text}
              >
                <span style={{ width: `${share * 100}%` }} />
              </span>
            )}
          </dd>
        </div>
      ))}
    </dl>
  );
}
