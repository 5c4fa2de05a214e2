import { runIcon, searchIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import { Failure, failure } from '../api/problem';
import type { Contact } from '../api/schema';
import {
  addHostCell, askedKey, fingerprintsOf, hostComplaints, HostDraft, HostField, hostName, hostRequest, printing, reachedOf,
  typed
} from '../model/adding';
import { hostRow } from '../model/hosts';
import { useHands } from './context';
import { Field } from './field';
import { Act, Link, Trouble } from './parts';

const FIELDS: readonly (readonly [field: HostField, label: string, about: string, placeholder: string])[] = [
  ['target', 'Address', 'user@host, with :port behind it if it is not 22, or a name of ~/.ssh/config', 'user@address'],
  ['name', 'Name', 'What to call it', 'suggested'],
  ['rate', '$ an hour', 'What an hour of it costs, for each pod or worker', 'no price'],
  ['keyFile', 'Key file', 'A key file of this machine, instead of those of ssh', 'those of ssh'],
  ['jump', 'Jump host', 'A host to go through, user@host, or a name of ~/.ssh/config', 'as ssh does']
];
/** The host is another than the one whose key was accepted: it is asked about anew. */
const OTHER_KEY = 'host_key_changed';

/** Add a host: its key is shown and asked about, those of jump hosts first; then it is logged in to. */
export function HostForm({ draft }: { draft: HostDraft }): React.ReactElement {
  const { hosts, state, view } = useHands();
  const [trouble, setTrouble] = React.useState<Failure | null>(null);
  const [waiting, setWaiting] = React.useState('');
  const [tried, setTried] = React.useState(false);
  const form = React.useRef<HTMLFormElement>(null);
  const question = React.useRef<HTMLDivElement>(null);
  const buttons = React.useRef<HTMLDivElement>(null);
  const taken = ['local', ...(state.summary?.hosts ?? []).map(host => host.name)];
  const wrong = tried ? hostComplaints(draft, taken) : {};
  const asked = draft.met && askedKey(draft.met);

  React.useEffect(() => {
    form.current?.querySelector('input')?.focus();
  }, []);
  React.useEffect(() => {
    if (asked?.fingerprint) {
      question.current?.focus({ preventScroll: true });
    }
  }, [asked?.fingerprint]);
  // what is said and asked stands below the fields
  React.useEffect(() => {
    if (asked?.fingerprint || trouble) {
      buttons.current?.scrollIntoView({ block: 'nearest' });
    }
  }, [asked?.fingerprint, trouble]);

  const wait = async (text: string, act: () => Promise<void>): Promise<void> => {
    setTried(true);
    setTrouble(null);
    const found = hostComplaints(draft, taken);
    const first = FIELDS.find(([field]) => field in found);
    if (first) {
      form.current?.querySelector<HTMLElement>(`[name=${first[0]}]`)?.focus();
      return;
    }
    setWaiting(text);
    try {
      await act();
    } catch (thrown) {
      const found = failure(thrown);
      setTrouble(found);
      if (found.code === OTHER_KEY) {
        view.rehost({ met: null });
      }
    }
    setWaiting('');
  };
  const meet = (accepted: readonly string[]): Promise<void> =>
    wait('Asking for its key…', async () => view.rehost({ met: await hosts.meet(reachedOf(draft), accepted) }));
  const accept = (met: Contact): Promise<void> =>
    met.more
      ? meet(fingerprintsOf(met))
      : wait(`Logging in to ${met.user}@${met.address}, and looking around…`, async () => {
          await hosts.add(hostRequest(draft, taken, met));
          view.set({ host: null });
          view.show(hostRow(hostName(draft, taken)));
        });

  return (
    <form
      ref={form}
      className="nbgpu-Form nbgpu-Form-host"
      aria-label="Add a host"
      noValidate
      onSubmit={event => {
        event.preventDefault();
        if (!waiting && !draft.met) {
          void meet([]);
        }
      }}
      onKeyDown={event => event.key === 'Escape' && view.set({ host: null })}
    >
      <div className="nbgpu-Fields">
        {FIELDS.map(([field, label, about, placeholder]) => (
          <Field
            key={field}
            of="host"
            name={field}
            label={label}
            about={about}
            placeholder={placeholder}
            value={field === 'name' ? hostName(draft, taken) : draft[field]}
            wrong={wrong[field]}
            onChange={value => view.set({ host: typed(draft, field, value) })}
          />
        ))}
      </div>
      {draft.met && asked && (
        <div ref={question} className="nbgpu-Secret" role="group" aria-label={`The key of ${asked.where}`} tabIndex={-1}>
          {draft.met.keys.slice(0, -1).map(key => (
            <p key={key.where} className="nbgpu-Label">
              ✓ the key of {key.where} is accepted
            </p>
          ))}
          <p role="status">
            {asked.where} shows the {asked.kind} key
          </p>
          <code className="nbgpu-Secret-text">{asked.fingerprint}</code>
          <p>Is that its key?</p>
          <p className="nbgpu-Label">
            That machine itself shows it with: <code>{printing(asked)}</code>
          </p>
        </div>
      )}
      {waiting && (
        <p className="nbgpu-Label" role="status">
          {waiting}
        </p>
      )}
      {trouble && <Trouble failure={trouble} />}
      <div ref={buttons} className="nbgpu-Buttons">
        {draft.met && asked ? (
          <Act
            key="accept"
            label={draft.met.more ? 'Yes, go on' : 'Yes, add it'}
            about={`Accept the key of ${asked.where}${draft.met.more ? '' : ', and add the host'}`}
            icon={runIcon}
            primary
            disabled={waiting !== ''}
            onClick={() => draft.met && void accept(draft.met)}
            cell={null}
          />
        ) : (
          <Act
            key="meet"
            label="Show its key"
            about="Show the key of the host"
            icon={searchIcon}
            primary
            submit
            disabled={waiting !== '' || state.connection === 'reading'}
            onClick={() => undefined}
            cell={addHostCell(draft, taken)}
          />
        )}
        {asked && (
          <Act
            label="No"
            about={`Do not accept the key of ${asked.where}`}
            disabled={waiting !== ''}
            onClick={() => {
              view.rehost({ met: null });
              form.current?.querySelector('input')?.focus();
            }}
            cell={null}
          />
        )}
        <Link label="Cancel adding a host" onClick={() => view.set({ host: null })}>
          Cancel
        </Link>
      </div>
    </form>
  );
}
