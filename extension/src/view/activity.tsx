import * as React from 'react';
import type { Event } from '../api/schema';
import { clock } from '../model/format';
import { happening } from '../model/happening';
import { useHands } from './context';
import { useChanges } from './hooks';
import { Empty } from './parts';
import { VirtualList } from './virtual';

/** One thing that happened. */
export function EventLine(props: { event: Event }): React.ReactElement {
  const { event } = props;
  const { name, text, tone } = happening(event);
  return (
    <div className={`nbgpu-Event${tone && ` nbgpu-mod-${tone}`}`} title={event.text}>
      <time dateTime={new Date(event.atUs / 1000).toISOString()}>{clock(event.atUs)}</time>
      <span className="nbgpu-Event-text">
        {name !== null && <b>{name}</b>}
        {name !== null && ': '}
        {text}
      </span>
    </div>
  );
}

/** What happened, newest first. */
export function Activity(): React.ReactElement {
  const { state } = useHands();
  useChanges(state.changed);
  if (state.events.length === 0) {
    return <Empty title="Nothing has happened yet.">What endpoints, their workers and pods do is told here.</Empty>;
  }
  return (
    <VirtualList
      className="nbgpu-Activity"
      label="What happened, newest first"
      items={state.events}
      keyOf={event => String(event.seq)}
      estimate={38}
      draw={event => <EventLine event={event} />}
      anchored
    />
  );
}
