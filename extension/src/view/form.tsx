import { runIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import { Failure, failure } from '../api/problem';
import { complaint, Draft, MOST_WORKERS, nameOf, valuesOf } from '../model/deployment';
import { cell } from '../verbs/cell';
import { useHands } from './context';
import { Act, Link, Trouble } from './parts';

const IDLES: [seconds: number, label: string][] = [
  [30, '30 s'],
  [60, '1 min'],
  [300, '5 min'],
  [900, '15 min'],
  [3600, '1 h']
];

/** Deploy a model: only the model must be typed. */
export function DeployForm(props: { draft: Draft; taken: readonly string[] }): React.ReactElement {
  const { draft, taken } = props;
  const { view, deploy, places, state } = useHands();
  const [trouble, setTrouble] = React.useState<Failure | null>(null);
  const [sending, setSending] = React.useState(false);
  const [offered, setOffered] = React.useState<Map<string, string>>(() => new Map([['local', 'this machine']]));
  const first = React.useRef<HTMLInputElement>(null);
  const used = state.summary?.place ?? 'local';

  React.useEffect(() => {
    first.current?.focus();
    let gone = false;
    places().then(
      found => !gone && found.size > 0 && setOffered(found),
      () => undefined // the form works without prices
    );
    return () => {
      gone = true;
    };
  }, [places]);

  const send = async (): Promise<void> => {
    const wrong = complaint(draft, taken);
    if (wrong !== null) {
      setTrouble(new Failure(wrong));
      return;
    }
    setTrouble(null);
    setSending(true);
    try {
      const name = nameOf(draft, taken);
      await deploy(draft);
      view.set({ draft: null });
      view.show(name);
    } catch (thrown) {
      setTrouble(failure(thrown));
      setSending(false);
    }
  };

  const name = nameOf(draft, taken);
  return (
    <form
      className="nbgpu-Form"
      aria-label="Deploy a model"
      noValidate
      onSubmit={event => {
        event.preventDefault();
        void send();
      }}
      onKeyDown={event => event.key === 'Escape' && view.set({ draft: null })}
    >
      <label className="nbgpu-Field">
        <span>Model</span>
        <input
          ref={first}
          className="nbgpu-Input"
          name="model"
          required
          spellCheck={false}
          autoComplete="off"
          value={draft.model}
          placeholder="org/name or /path/to/folder"
          onChange={event => view.edit({ model: event.currentTarget.value })}
        />
      </label>
      <label className="nbgpu-Field">
        <span>Name</span>
        <input
          className="nbgpu-Input"
          name="name"
          spellCheck={false}
          autoComplete="off"
          value={name}
          placeholder="suggested from the model"
          onChange={event => view.edit({ name: event.currentTarget.value || null })}
        />
      </label>
      <div className="nbgpu-Fields">
        <label className="nbgpu-Field">
          <span>Place</span>
          <select
            className="nbgpu-Input"
            name="place"
            value={draft.on ?? used}
            onChange={event => view.edit({ on: event.currentTarget.value })}
          >
            {[...offered].map(([place, text]) => (
              <option key={place} value={place}>
                {text}
              </option>
            ))}
          </select>
        </label>
        <label className="nbgpu-Field" title="At most so many run; none runs while nobody asks">
          <span>Workers</span>
          <input
            className="nbgpu-Input"
            name="workers"
            type="number"
            min={1}
            max={MOST_WORKERS}
            value={Number.isNaN(draft.workers) ? '' : draft.workers}
            onChange={event => view.edit({ workers: event.currentTarget.valueAsNumber })}
          />
        </label>
        <label className="nbgpu-Field" title="A worker stops after so long without work">
          <span>Idle</span>
          <select
            className="nbgpu-Input"
            name="idle"
            value={draft.idleS}
            onChange={event => view.edit({ idleS: Number(event.currentTarget.value) })}
          >
            {IDLES.map(([seconds, label]) => (
              <option key={seconds} value={seconds}>
                {label}
              </option>
            ))}
          </select>
        </label>
      </div>
      {trouble && <Trouble failure={trouble} />}
      <div className="nbgpu-Buttons">
        <Act
          label={sending ? 'Deploying…' : 'Deploy'}
          about={name ? `Deploy ${name}` : 'Deploy'}
          icon={runIcon}
          primary
          submit
          disabled={sending || state.connection === 'reading'}
          onClick={() => undefined}
          cell={() => cell('deploy', valuesOf(draft, taken))}
        />
        <Link onClick={() => view.set({ draft: null })}>Cancel</Link>
      </div>
    </form>
  );
}
