import { runIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import { Failure, failure } from '../api/problem';
import { changeOf, complaint, draftFrom, MOST_WORKERS, priceOf, ScaleDraft, valuesOf } from '../model/scaling';
import { cell, known } from '../verbs/cell';
import { useHands } from './context';
import { Act, Link, Trouble } from './parts';

const IDLES = ['30s', '1m', '5m', '15m', '1h'];

/** How far an endpoint may scale. What is set is read when it opens. */
export function ScaleForm(props: { draft: ScaleDraft; onClose: () => void }): React.ReactElement {
  const { draft, onClose } = props;
  const { name } = draft;
  const { actions, limits, view } = useHands();
  const [trouble, setTrouble] = React.useState<Failure | null>(null);
  const [sending, setSending] = React.useState(false);
  const first = React.useRef<HTMLInputElement>(null);
  const reading = draft.was === null;

  React.useEffect(() => {
    if (!reading) {
      return;
    }
    let gone = false;
    limits(name).then(
      was => {
        if (!gone) {
          view.rescale(draftFrom(name, was));
          first.current?.focus();
          first.current?.select();
        }
      },
      (thrown: unknown) => !gone && setTrouble(failure(thrown))
    );
    return () => {
      gone = true;
    };
  }, [name, reading, limits, view]);

  const change = changeOf(draft);
  const send = async (): Promise<void> => {
    const wrong = complaint(draft) ?? (Object.keys(change).length > 0 ? null : 'It is set so already: change a number first.');
    if (wrong !== null) {
      setTrouble(new Failure(wrong));
      return;
    }
    setTrouble(null);
    setSending(true);
    try {
      await actions.scale(name, change);
      onClose();
    } catch (thrown) {
      setTrouble(failure(thrown));
      setSending(false);
    }
  };

  const list = `nbgpu-idles-${name}`;
  return (
    <form
      className="nbgpu-Scale"
      aria-label={`Scale ${name}`}
      aria-busy={reading}
      noValidate
      onSubmit={event => {
        event.preventDefault();
        if (!reading && !sending) {
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
        <Count
          label="At most"
          about="At most so many workers run"
          field={first}
          value={draft.most}
          readOnly={reading}
          onChange={most => view.rescale({ most })}
        />
        <Count
          label="Always on"
          about="So many workers run, asked or not"
          value={draft.alwaysOn}
          readOnly={reading}
          onChange={alwaysOn => view.rescale({ alwaysOn })}
        />
        <label className="nbgpu-Field" title="A worker ends after so long without work: 30s, 5m, 2h, 1d">
          <span>Idle</span>
          <input
            className="nbgpu-Input"
            name="idle"
            list={list}
            spellCheck={false}
            autoComplete="off"
            readOnly={reading}
            value={draft.idle}
            onChange={event => view.rescale({ idle: event.currentTarget.value })}
          />
        </label>
        <datalist id={list}>
          {IDLES.map(idle => (
            <option key={idle} value={idle} />
          ))}
        </datalist>
      </div>
      <p className="nbgpu-Price" role="status">
        {priceOf(draft)}
      </p>
      {trouble && <Trouble failure={trouble} />}
      <div className="nbgpu-Buttons">
        <Act
          label={sending ? 'Scaling…' : 'Apply'}
          about={`Apply the limits of ${name}`}
          icon={runIcon}
          primary
          submit
          disabled={reading}
          onClick={() => undefined}
          cell={known('scale') ? () => cell('scale', valuesOf(draft)) : null}
        />
        <Link onClick={onClose}>Cancel</Link>
      </div>
    </form>
  );
}

function Count(props: {
  label: string;
  about: string;
  value: number;
  readOnly: boolean;
  field?: React.Ref<HTMLInputElement>;
  onChange: (value: number) => void;
}): React.ReactElement {
  return (
    <label className="nbgpu-Field" title={props.about}>
      <span>{props.label}</span>
      <input
        ref={props.field}
        className="nbgpu-Input"
        type="number"
        min={0}
        max={MOST_WORKERS}
        readOnly={props.readOnly}
        value={Number.isNaN(props.value) ? '' : props.value}
        onChange={event => props.onChange(event.currentTarget.valueAsNumber)}
      />
    </label>
  );
}
