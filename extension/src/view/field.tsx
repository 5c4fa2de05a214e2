import * as React from 'react';

/** A labelled input that says below it what is wrong with what was typed. */
export function Field(props: {
  /** what it is of: its id must be unlike those of other forms */
  of: string;
  name: string;
  label: string;
  about: string;
  value: string;
  wrong: string | undefined;
  placeholder?: string;
  numeric?: boolean;
  /** what can be chosen besides */
  list?: readonly string[];
  onChange: (value: string) => void;
}): React.ReactElement {
  const { name, wrong, list } = props;
  const id = `nbgpu-${props.of}-${name}`;
  return (
    <div>
      <label className="nbgpu-Field" title={props.about}>
        <span>{props.label}</span>
        <input
          className="nbgpu-Input"
          name={name}
          autoComplete="off"
          spellCheck={false}
          inputMode={props.numeric ? 'numeric' : undefined}
          placeholder={props.placeholder}
          list={list && `${id}-list`}
          aria-invalid={wrong !== undefined}
          aria-describedby={wrong === undefined ? undefined : id}
          value={props.value}
          onChange={event => props.onChange(event.currentTarget.value)}
        />
      </label>
      {list && (
        <datalist id={`${id}-list`}>
          {list.map(one => (
            <option key={one} value={one} />
          ))}
        </datalist>
      )}
      {wrong !== undefined && (
        <p id={id} className="nbgpu-Wrong" role="alert">
          {wrong}
        </p>
      )}
    </div>
  );
}
