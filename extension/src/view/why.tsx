import * as React from 'react';
import { Failure, failure } from '../api/problem';
import type { EndpointRow, Why as Told } from '../api/schema';
import { figures, stamp, steps } from '../model/story';
import { workerRate } from '../model/workers';
import { cell } from '../verbs/cell';
import { useHands } from './context';
import { useNow } from './hooks';
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

interface Story {
  told: Told | null;
  problem: Failure | null;
  /** when it was told, in ms */
  at: number;
}

/** Asked when it opens, and again when the row says something else of it; never two at a time. */
function useStory(subject: string, mark: string): Story {
  const { why } = useHands();
  const [story, setStory] = React.useState<Story>({ told: null, problem: null, at: 0 });
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
    const take = (told: Told | null, problem: Failure | null): void => {
      asking.current = false;
      if (!gone.current) {
        setStory({ told, problem, at: Date.now() });
        next(); // it may be another meanwhile
      }
    };
    why(subject).then(
      told => take(told, null),
      (thrown: unknown) => take(null, failure(thrown))
    );
  }, [why, subject, mark, round]);
  return story;
}

/** Why an endpoint or a worker is as it is: the words of `nbgpu why`. */
export function WhyStory(props: { row: EndpointRow; subject: string; onClose: () => void }): React.ReactElement {
  const { row, subject, onClose } = props;
  const { insert, view } = useHands();
  const { told, problem, at } = useStory(subject, stamp(row, subject));
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
      {told && <Words told={told} at={at} row={row} />}
    </section>
  );
}

function Words(props: { told: Told; at: number; row: EndpointRow }): React.ReactElement {
  const { told, at, row } = props;
  const { state } = useHands();
  const now = useNow(state.attentive && told.state !== 'stopped');
  const worker = row.workers.find(one => one.id === told.name);
  const rate = told.subject === 'endpoint' ? Number(row.ratePerHour) : worker ? workerRate(worker, row) : 0;
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
