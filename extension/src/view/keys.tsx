import { addIcon, copyIcon, runIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import { Failure, failure } from '../api/problem';
import type { Key, NewKey } from '../api/schema';
import { clock } from '../model/format';
import {
  addCell, complaints, KeyDraft, KeysShown, limitsText, named, NO_KEY, usageText, usedText, wantedOf
} from '../model/keys';
import { known } from '../verbs/cell';
import { useHands } from './context';
import { Field } from './field';
import { Act, Link, Trouble } from './parts';
import { VirtualList } from './virtual';

/** The keys of an endpoint: read when they open and after each change, never by themselves. */
export function Keys(props: { shown: KeysShown; onClose: () => void }): React.ReactElement {
  const { shown, onClose } = props;
  const { name, listed, draft, made } = shown;
  const { keys, view } = useHands();
  const [trouble, setTrouble] = React.useState<Failure | null>(null);
  const box = React.useRef<HTMLElement>(null);
  const newKey = React.useRef<HTMLButtonElement>(null);
  const back = React.useRef(false);
  /** asked for here: what comes back into view by a scroll takes no focus */
  const asked = React.useRef(false);
  const round = React.useRef(0);
  const unread = listed === null;

  const read = React.useCallback(async () => {
    const mine = ++round.current;
    try {
      const found = await keys.list(name);
      // an answer that was overtaken is older than what is shown
      if (mine === round.current) {
        view.rekey(name, { listed: { keys: found, at: Date.now() } });
      }
    } catch (thrown) {
      if (mine === round.current) {
        setTrouble(failure(thrown));
      }
    }
  }, [keys, name, view]);
  React.useEffect(() => {
    if (unread) {
      void read();
    }
  }, [unread, read]);
  const unseen = React.useRef(unread);
  React.useEffect(() => {
    if (!unread && unseen.current) {
      unseen.current = false;
      box.current?.scrollIntoView({ block: 'nearest' });
    }
  }, [unread]);

  const again = (): void => {
    setTrouble(null);
    void read();
  };
  // What had the focus goes away: it goes to the button once that is drawn.
  React.useEffect(() => {
    if (back.current && newKey.current) {
      back.current = false;
      newKey.current.focus();
    }
  });
  const closeForm = (): void => {
    back.current = true;
    view.rekey(name, { draft: null, made: null });
  };
  const revoke = async (key: Key): Promise<void> => {
    setTrouble(null);
    try {
      if (!(await keys.revoke(key))) {
        return;
      }
      back.current = true;
    } catch (thrown) {
      setTrouble(failure(thrown));
    }
    await read(); // also when it failed: somebody else may have revoked it
  };

  return (
    <section
      ref={box}
      className="nbgpu-Keys"
      aria-label={`Keys of ${name}`}
      aria-busy={unread}
      onKeyDown={event => {
        // a secret that was not copied yet is not lost by a key press
        if (event.key === 'Escape' && !made) {
          event.stopPropagation();
          onClose();
        }
      }}
    >
      <div className="nbgpu-Keys-head">
        <span className="nbgpu-Label" role="status">
          {listed ? `Keys, as of ${clock(listed.at * 1000)}` : trouble ? 'Keys' : 'Reading the keys…'}
        </span>
        <Link label={`Read the keys of ${name} again`} onClick={again}>
          Refresh
        </Link>
        <button type="button" className="nbgpu-Close" aria-label={`Close the keys of ${name}`} onClick={onClose}>
          ×
        </button>
      </div>
      {trouble && <Trouble failure={trouble} />}
      {listed?.keys.length === 0 && (
        <p className="nbgpu-Keys-none">
          No keys yet. With a key, a program outside Jupyter can call {name}, and nothing else; each has its own
          limits and its own bill.
        </p>
      )}
      {listed && listed.keys.length > 0 && (
        <VirtualList
          label={`Keys of ${name}, by age`}
          items={listed.keys}
          keyOf={key => key.id}
          estimate={74}
          draw={key => <Line of={key} at={listed.at} onRevoke={() => void revoke(key)} />}
        />
      )}
      {made ? (
        <Secret made={made} focus={asked.current} onClose={closeForm} />
      ) : draft ? (
        <KeyForm name={name} draft={draft} focus={asked.current} onMade={again} onClose={closeForm} />
      ) : (
        <div className="nbgpu-Buttons">
          <Act
            label="New key"
            about={`New key of ${name}`}
            icon={addIcon}
            button={newKey}
            onClick={() => {
              asked.current = true;
              view.rekey(name, { draft: NO_KEY });
            }}
            cell={null}
          />
        </div>
      )}
    </section>
  );
}

function Line(props: { of: Key; at: number; onRevoke: () => void }): React.ReactElement {
  const { of: key, at, onRevoke } = props;
  const { state } = useHands();
  const used = state.summary && usedText(key, state.summary, state.summaryAt, at);
  return (
    <div className="nbgpu-Key" data-key-id={key.id}>
      <div className="nbgpu-Row-line">
        <span className="nbgpu-Key-name" title={`${key.id}, made ${clock(key.createdUs)}`}>
          {key.label && <b>{key.label}</b>} <code>{key.prefix}…</code>
        </span>
        <button type="button" className="nbgpu-Chip" aria-label={`Revoke ${named(key)}`} onClick={onRevoke}>
          revoke
        </button>
      </div>
      <p>{[limitsText(key), used].filter(Boolean).join(' · ')}</p>
      <p>{usageText(key)}</p>
    </div>
  );
}

const FIELDS: readonly (readonly [field: keyof KeyDraft, label: string, about: string])[] = [
  ['label', 'Label', 'What it is for'],
  ['perMinute', 'Requests a minute', 'Requests and jobs; empty: no limit'],
  ['atOnce', 'At once', 'Requests and jobs in progress; empty: no limit']
];

function KeyForm(props: {
  name: string;
  draft: KeyDraft;
  focus: boolean;
  onMade: () => void;
  onClose: () => void;
}): React.ReactElement {
  const { name, draft, focus, onMade, onClose } = props;
  const { keys, view } = useHands();
  const [trouble, setTrouble] = React.useState<Failure | null>(null);
  const [sending, setSending] = React.useState(false);
  const [tried, setTried] = React.useState(false);
  const form = React.useRef<HTMLFormElement>(null);
  const wrong = tried ? complaints(draft) : {};

  React.useEffect(() => {
    if (focus) {
      form.current?.querySelector('input')?.focus();
    }
  }, [focus]);

  const send = async (): Promise<void> => {
    setTried(true);
    setTrouble(null);
    const first = FIELDS.find(([field]) => field in complaints(draft));
    if (first) {
      form.current?.querySelector<HTMLElement>(`[name=${first[0]}]`)?.focus();
      return;
    }
    setSending(true);
    try {
      const made = await keys.add(wantedOf(name, draft));
      view.rekey(name, { made, draft: null });
      onMade();
    } catch (thrown) {
      setTrouble(failure(thrown));
      setSending(false);
    }
  };

  return (
    <form
      ref={form}
      className="nbgpu-Keys-new"
      aria-label={`New key of ${name}`}
      noValidate
      onSubmit={event => {
        event.preventDefault();
        if (!sending) {
          void send();
        }
      }}
      onKeyDown={event => {
        if (event.key === 'Escape') {
          event.stopPropagation();
          onClose();
        }
      }}
    >
      <div className="nbgpu-Fields">
        {FIELDS.map(([field, label, about]) => (
          <Field
            key={field}
            of={`wrong-${name}`}
            name={field}
            label={label}
            about={about}
            numeric={field !== 'label'}
            placeholder={field === 'label' ? 'what it is for' : 'no limit'}
            value={draft[field]}
            wrong={wrong[field]}
            onChange={value => view.rekey(name, { draft: { ...draft, [field]: value } })}
          />
        ))}
      </div>
      {trouble && <Trouble failure={trouble} />}
      <div className="nbgpu-Buttons">
        <Act
          label={sending ? 'Making…' : 'Make key'}
          about={`Make a key of ${name}`}
          icon={runIcon}
          primary
          submit
          disabled={sending}
          onClick={() => undefined}
          cell={known('key') ? () => addCell(name, draft) : null}
        />
        <Link onClick={onClose}>Cancel</Link>
      </div>
    </form>
  );
}

/** The one time that the key itself is shown. */
function Secret(props: { made: NewKey; focus: boolean; onClose: () => void }): React.ReactElement {
  const { made, focus, onClose } = props;
  const { copy } = useHands();
  const box = React.useRef<HTMLDivElement>(null);
  React.useEffect(() => {
    if (focus) {
      box.current?.querySelector('button')?.focus();
    }
  }, [focus]);
  return (
    <div ref={box} className="nbgpu-Secret" role="group" aria-label={`The new key of ${made.endpoint}`}>
      <p role="status">Copy it now: it will not be shown again, and is kept nowhere.</p>
      <code className="nbgpu-Secret-text">{made.secret}</code>
      <div className="nbgpu-Buttons">
        <Act
          label="Copy"
          about={`Copy the new key of ${made.endpoint}`}
          icon={copyIcon}
          primary
          onClick={() => copy(made.secret, 'The key')}
          cell={null}
        />
        <Link label={`Hide the new key of ${made.endpoint}`} onClick={onClose}>
          Done
        </Link>
      </div>
      <dl className="nbgpu-Facts">
        <div>
          <dt>base URL</dt>
          <dd className="nbgpu-Url">
            <code>{made.baseUrl}</code>
            <button
              type="button"
              className="nbgpu-Chip"
              aria-label="Copy the base URL of the new key"
              onClick={() => copy(made.baseUrl, 'The base URL')}
            >
              copy
            </button>
          </dd>
        </div>
      </dl>
    </div>
  );
}
