import { addBelowIcon, LabIcon } from '@jupyterlab/ui-components';
import * as React from 'react';
import type { Failure } from '../api/problem';
import type { Cell } from '../verbs/cell';
import { useHands } from './context';

/** A button that does it, and a smaller one that writes it into the notebook. */
export function Act(props: {
  label: string;
  /** for a screen reader: `stop chat` */
  about: string;
  icon?: LabIcon;
  onClick: () => void;
  /** null where a notebook has no such verb */
  cell: (() => Cell) | null;
  disabled?: boolean;
  primary?: boolean;
  danger?: boolean;
  submit?: boolean;
  /** of one that opens something */
  expanded?: boolean;
  button?: React.Ref<HTMLButtonElement>;
  /** what it asks why about */
  subject?: string;
}): React.ReactElement {
  const { insert } = useHands();
  const { cell } = props;
  const look = `${props.primary ? ' nbgpu-mod-primary' : ''}${props.danger ? ' nbgpu-mod-danger' : ''}`;
  return (
    <span className={`nbgpu-Act${look}`}>
      <button
        ref={props.button}
        type={props.submit ? 'submit' : 'button'}
        className="nbgpu-Act-do"
        aria-label={props.about}
        data-why={props.subject}
        aria-expanded={props.expanded}
        disabled={props.disabled}
        onClick={props.submit ? undefined : props.onClick}
      >
        {props.icon && <props.icon.react tag="span" className="nbgpu-Icon" width="14px" height="14px" />}
        <span>{props.label}</span>
      </button>
      {insert && cell && (
        <button
          type="button"
          className="nbgpu-Act-cell"
          title="Insert as cell"
          aria-label={`Insert as cell: ${props.about}`}
          onClick={() => insert(cell())}
        >
          <addBelowIcon.react tag="span" className="nbgpu-Icon" width="14px" height="14px" />
        </button>
      )}
    </span>
  );
}

/** A plain button that looks like text. */
export function Link(props: {
  children: React.ReactNode;
  title?: string;
  label?: string;
  onClick: () => void;
}): React.ReactElement {
  return (
    <button
      type="button"
      className="nbgpu-Link"
      title={props.title}
      aria-label={props.label}
      onClick={props.onClick}
    >
      {props.children}
    </button>
  );
}

/** What went wrong, and what to do. */
export function Trouble(props: { failure: Failure; onClose?: () => void }): React.ReactElement {
  const { what, next } = props.failure;
  return (
    <div className="nbgpu-Trouble" role="alert">
      <span>
        {what} {next && <b>{next}</b>}
      </span>
      {props.onClose && (
        <button type="button" className="nbgpu-Close" aria-label="Close this message" onClick={props.onClose}>
          ×
        </button>
      )}
    </div>
  );
}

/** What to do first, where there is nothing. */
export function Empty(props: { title: string; children?: React.ReactNode }): React.ReactElement {
  return (
    <div className="nbgpu-Empty">
      <p className="nbgpu-Empty-title">{props.title}</p>
      {props.children}
    </div>
  );
}
