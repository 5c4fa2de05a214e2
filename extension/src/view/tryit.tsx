import { runIcon, stopIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import type { Done, Progress } from '../api/answer';
import { dollars, latency, plural, span } from '../model/format';
import { uncounted } from '../model/telling';
import { cell } from '../verbs/cell';
import { useHands } from './context';
import { useChanges } from './hooks';
import { Act, Trouble } from './parts';

/** A small box that asks the model and streams the answer. */
export function TryIt(props: { name: string; stopped: boolean }): React.ReactElement {
  const { name, stopped } = props;
  const { trials } = useHands();
  const trial = trials.of(name);
  useChanges(trial.changed);
  const asking = trial.state === 'asking';
  const id = `nbgpu-ask-${name}`;
  return (
    <form
      className="nbgpu-Try"
      aria-label={`Try ${name}`}
      onSubmit={event => {
        event.preventDefault();
        void trial.ask();
      }}
    >
      <label htmlFor={id}>Try it</label>
      <textarea
        id={id}
        className="nbgpu-Input"
        rows={2}
        value={trial.text}
        placeholder={stopped ? 'Start it first: a stopped endpoint takes no requests' : 'Say hello in three languages.'}
        onChange={event => trial.edit({ text: event.currentTarget.value })}
        onKeyDown={event => {
          if (event.key === 'Enter' && !event.shiftKey && !event.nativeEvent.isComposing) {
            event.preventDefault();
            void trial.ask();
          }
        }}
      />
      <div className="nbgpu-Buttons">
        {asking ? (
          <Act
            label="Cancel"
            about={`Cancel the question to ${name}`}
            icon={stopIcon}
            onClick={() => trial.cancel()}
            cell={() => question(name, trial.text, trial.raw)}
          />
        ) : (
          <Act
            label="Ask"
            about={`Ask ${name}`}
            icon={runIcon}
            primary
            submit
            disabled={!trial.text.trim()}
            onClick={() => undefined}
            cell={() => question(name, trial.text, trial.raw)}
          />
        )}
        <label className="nbgpu-Check" title="Continue the text as it stands, for models that know no chat">
          <input
            type="checkbox"
            checked={trial.raw}
            onChange={event => trial.edit({ raw: event.currentTarget.checked })}
          />
          Raw text
        </label>
      </div>
      {asking && !trial.answer && <Waiting progress={trial.progress} />}
      {trial.problem && <Trouble failure={trial.problem} />}
      {trial.answer && (
        <div className="nbgpu-Answer" role="region" aria-label={`Answer of ${name}`} aria-live="polite" tabIndex={0}>
          {trial.answer}
        </div>
      )}
      {trial.state === 'cancelled' && <p className="nbgpu-Took">Cancelled: nothing more is generated or billed for it.</p>}
      {trial.done && <Took done={trial.done} />}
    </form>
  );
}

function question(name: string, text: string, raw: boolean): ReturnType<typeof cell> {
  return cell('ask', { name, text: text.trim() || 'Say hello.', raw });
}

function Waiting({ progress }: { progress: Progress | null }): React.ReactElement {
  const typical = progress?.typical_s ?? null;
  const elapsed = progress?.elapsed_s ?? 0;
  const cost = Number(progress?.cost ?? 0);
  const parts = [
    progress ? uncounted(progress.text) : 'waiting for the first word',
    progress && (typical === null ? span(elapsed) : `${span(elapsed)} of about ${span(typical)}`),
    cost > 0 && dollars(cost)
  ].filter(Boolean);
  return (
    <div className="nbgpu-Waiting" role="status">
      <progress
        aria-label="Waiting"
        max={1}
        value={typical ? Math.min(0.98, elapsed / typical) : undefined}
      />
      <span>{parts.join(' · ')}</span>
    </div>
  );
}

function Took({ done }: { done: Done }): React.ReactElement {
  const parts = [
    done.tokens_out !== null && plural(done.tokens_out, 'token'),
    latency(done.total_ms),
    done.cold ? `${latency(done.queue_ms)} of it for a worker to start` : `first word after ${latency(done.first_byte_ms)}`,
    Number(done.cost ?? 0) > 0 && dollars(done.cost ?? 0)
  ].filter(Boolean);
  return <p className="nbgpu-Took">{parts.join(' · ')}</p>;
}
