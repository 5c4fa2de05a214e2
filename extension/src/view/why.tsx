import * as React from 'react';
import type { Why as Told } from '../api/schema';
import { figures, steps } from '../model/story';
import { cell } from '../verbs/cell';
import { useHands } from './context';
import { useAnswer, useNow } from './hooks';
import { Trouble } from './parts';

/** A small button that asks why. */
export function Wonder(props: { subject: string; about: string }): React.ReactElement {
  const { view } = useHands();
  const { subject, about } = props;
  return (
    <button
      type="button"
      className="nbgpu-Chip"
      data-why={subject}
      aria-label={`why? ${about}`}
      aria-expanded={view.why === subject}
      onClick={() => view.wonder(subject)}
    >
      why?
    </button>
  );
}

/** Why an endpoint, a worker or a pod is as it is: the words of `nbgpu why`. */
export function WhyStory(props: {
  subject: string;
  /** what is known of it: once that is another, it is asked again */
  mark: string;
  /** dollars an hour of what is told of */
  rate: (told: Told) => number;
  onClose: () => void;
}): React.ReactElement {
  const { subject, mark, rate, onClose } = props;
  const { insert, view, why } = useHands();
  const { told, problem, at } = useAnswer(why, subject, mark);
  const box = React.useRef<HTMLElement>(null);
  const there = told !== null;
  React.useEffect(() => {
    if (there && view.unseen) {
      view.unseen = false;
      box.current?.scrollIntoView({ block: 'nearest' });
    }
  }, [there, view]);
  return (
    <section
      ref={box}
      className="nbgpu-Why"
      aria-label={`Why ${subject} is as it is`}
      onKeyDown={event => {
        if (event.key === 'Escape') {
          event.stopPropagation();
          onClose();
        }
      }}
    >
      <div className="nbgpu-Why-head">
        <button type="button" className="nbgpu-Close" aria-label={`Close why ${subject}`} onClick={onClose}>
          ×
        </button>
        {insert && (
          <button
            type="button"
            className="nbgpu-Chip"
            title={`Insert as cell: %gpu why ${subject}`}
            aria-label={`as cell: why ${subject}`}
            onClick={() => insert(cell('why', { name: subject }))}
          >
            as cell
          </button>
        )}
        <p role="status">
          {told && <b>{`${told.name} is ${told.state}`}</b>}
          {told ? `: ${told.reason.text}` : problem ? '' : 'Asking…'}
        </p>
      </div>
      {problem && <Trouble failure={problem} />}
      {told && <Words told={told} at={at} rate={rate(told)} />}
    </section>
  );
}

function Words(props: { told: Told; at: number; rate: number }): React.ReactElement {
  const { told, at, rate } = props;
  const { state } = useHands();
  const now = useNow(state.attentive && told.state !== 'stopped');
  return (
    <>
      {told.facts.length > 0 && (
        <ul className="nbgpu-Why-facts" aria-label="Facts">
          {told.facts.map((fact, index) => (
            <li key={index}>{fact}</li>
          ))}
        </ul>
      )}
      <dl className="nbgpu-Facts">
        {figures(told, Math.max(0, now - at) / 1000, rate).map(([label, text]) => (
          <div key={label}>
            <dt>{label}</dt>
            <dd>{text}</dd>
          </div>
        ))}
        {told.nextStep && <Next text={told.nextStep} />}
      </dl>
      {told.history.length > 0 && (
        <details>
          <summary>before</summary>
          <ul className="nbgpu-Why-facts">
            {told.history.map((line, index) => (
              <li key={index}>{line}</li>
            ))}
          </ul>
        </details>
      )}
      {told.tail.length > 0 && (
        <details open>
          <summary>last log lines</summary>
          <pre tabIndex={0} aria-label="Last log lines">
            {told.tail.join('\n')}
          </pre>
        </details>
      )}
    </>
  );
}

/** What to do next; what can be typed is copied by a click. */
function Next({ text }: { text: string }): React.ReactElement {
  const { copy } = useHands();
  return (
    <div>
      <dt>next</dt>
      <dd>
        {steps(text).map((step, index) =>
          step.typed ? (
            <React.Fragment key={index}>
              <code>{step.text}</code>{' '}
              <button
                type="button"
                className="nbgpu-Chip"
                aria-label={`copy: ${step.text}`}
                onClick={() => copy(step.text, 'The command')}
              >
                copy
              </button>
            </React.Fragment>
          ) : (
            <React.Fragment key={index}>{step.text}</React.Fragment>
          )
        )}
      </dd>
    </div>
  );
}
