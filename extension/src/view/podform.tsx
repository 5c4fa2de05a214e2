import { runIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import { Failure, failure } from '../api/problem';
import { openCell, PodDraft, PodField, podName, wrongs } from '../model/opening';
import { useHands } from './context';
import { Field } from './field';
import { Act, Link, Trouble } from './parts';

type Line = readonly [field: Exclude<PodField, 'hardware' | 'on'>, label: string, about: string, placeholder?: string];

const PROCESSORS: Line = ['processors', 'Processors', 'As many as it counts with'];
const GPUS: Line = ['gpus', 'GPUs', 'What will do, in order: H100, A100 or any:2', 'any'];
const REST: readonly Line[] = [
  ['idle', 'Idle stop', 'It stops after so long without use: 10m, 2h, or never'],
  ['until', 'Until', 'It stops after so long, whatever it does: 8h; empty: no such end', 'no end'],
  ['requirements', 'Requirements', 'A file whose packages are installed first, as seen from the notebook', 'requirements.txt'],
  ['volume', 'Volume', 'One that outlives the pod, as its /workspace; made if it is not there', 'its own']
];
const LISTS: Partial<Record<PodField, readonly string[]>> = {
  idle: ['10m', '30m', '1h', '4h', 'never'],
  until: ['1h', '8h', '1d']
};

/** Open a pod: everything is as by default until it is said otherwise. */
export function PodForm({ draft }: { draft: PodDraft }): React.ReactElement {
  const { pods, places, state, view } = useHands();
  const [trouble, setTrouble] = React.useState<Failure | null>(null);
  const [sending, setSending] = React.useState(false);
  const [tried, setTried] = React.useState(false);
  const [prices, setPrices] = React.useState<ReadonlyMap<string, string>>(new Map());
  const form = React.useRef<HTMLFormElement>(null);
  const taken = state.names();
  const name = podName(draft, taken);
  const wrong = tried ? wrongs(draft, taken) : {};
  const hosts = state.summary?.hosts ?? [];
  const on = draft.on ?? state.summary?.place ?? 'local';
  const price = prices.get(on);
  const lines: readonly Line[] = [draft.hardware === 'cpu' ? PROCESSORS : GPUS, ...REST];

  React.useEffect(() => {
    const first = form.current?.querySelector('input');
    first?.focus();
    first?.select();
    let gone = false;
    places().then(
      found => !gone && setPrices(found),
      () => undefined // the form works without prices
    );
    return () => {
      gone = true;
    };
  }, [places]);

  const send = async (): Promise<void> => {
    setTried(true);
    setTrouble(null);
    const found = wrongs(draft, taken);
    const first = (['name', ...lines.map(([field]) => field)] as PodField[]).find(field => field in found);
    if (first) {
      form.current?.querySelector<HTMLElement>(`[name=${first}]`)?.focus();
      return;
    }
    setSending(true);
    try {
      await pods.open(draft);
      view.set({ pod: null });
      view.show(name);
    } catch (thrown) {
      setTrouble(failure(thrown));
      setSending(false);
    }
  };

  const field = ([field, label, about, placeholder]: Line): React.ReactElement => (
    <Field
      key={field}
      of="pod"
      name={field}
      label={label}
      about={about}
      placeholder={placeholder}
      list={LISTS[field]}
      numeric={field === 'processors'}
      value={field === 'name' ? name : draft[field]}
      wrong={wrong[field]}
      onChange={value => view.repod({ [field]: value })}
    />
  );
  return (
    <form
      ref={form}
      className="nbgpu-Form"
      aria-label="Open a pod"
      noValidate
      onSubmit={event => {
        event.preventDefault();
        if (!sending) {
          void send();
        }
      }}
      onKeyDown={event => event.key === 'Escape' && view.set({ pod: null })}
    >
      <div className="nbgpu-Fields">
        {field(['name', 'Name', 'How notebooks and commands call it'])}
        {hosts.length > 0 && (
          <label className="nbgpu-Field" title="This machine, or a host">
            <span>On</span>
            <select
              className="nbgpu-Input"
              name="on"
              value={on}
              onChange={event => view.repod({ on: event.currentTarget.value })}
            >
              <option value="local">this machine</option>
              {hosts.map(host => (
                <option key={host.name} value={host.name}>
                  {host.state === 'connected' ? host.name : `${host.name}, ${host.state}`}
                </option>
              ))}
            </select>
          </label>
        )}
        <label className="nbgpu-Field">
          <span>With</span>
          <select
            className="nbgpu-Input"
            name="hardware"
            value={draft.hardware}
            onChange={event => view.repod({ hardware: event.currentTarget.value === 'gpu' ? 'gpu' : 'cpu' })}
          >
            <option value="cpu">CPU</option>
            <option value="gpu">GPU</option>
          </select>
        </label>
        {lines.map(field)}
      </div>
      {price && <p className="nbgpu-Price">On {price}.</p>}
      {trouble && <Trouble failure={trouble} />}
      <div className="nbgpu-Buttons">
        <Act
          label={sending ? 'Opening…' : 'Open'}
          about={name ? `Open the pod ${name}` : 'Open the pod'}
          icon={runIcon}
          primary
          submit
          disabled={sending || state.connection === 'reading'}
          onClick={() => undefined}
          cell={openCell(draft, taken)}
        />
        <Link label="Cancel opening a pod" onClick={() => view.set({ pod: null })}>
          Cancel
        </Link>
      </div>
    </form>
  );
}
