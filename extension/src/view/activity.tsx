import * as React from 'react';
import type { Event } from '../api/schema';
import { clock } from '../model/format';
import { isFailure } from '../model/telling';
import { useHands } from './context';
import { useChanges } from './hooks';
import { Empty } from './parts';
import { VirtualList } from './virtual';

const GOOD = /\.(ready|fetched|created)$/;

function tone(event: Event): string {
  return isFailure(event) ? ' nbgpu-mod-bad' : GOOD.test(event.kind) ? ' nbgpu-mod-good' : '';
}

function Line(props: { event: Event }): React.ReactElement {
  const { event } = props;
  return (
    <div className={`nbgpu-Event${tone(event)}`} title={event.text}>
      <time dateTime={new Date(event.atUs / 1000).toISOString()}>{clock(event.atUs)}</time>
      <span className="nbgpu-Event-text">{event.text}</span>
    </div>
  );
}

/** What happened, newest first. */
export function Activity(): React.ReactElement {
  const { state } = useHands();
  useChanges(state.changed);
  if (state.events.length === 0) {
    return <Empty title="Nothing has happened yet.">What endpoints and their workers do is told here.</Empty>;
  }
  return (
    <VirtualList
      className="nbgpu-Activity"
      label="What happened, newest first"
      items={state.events}
      keyOf={event => String(event.seq)}
      estimate={38}
      draw={event => <Line event={event} />}
      anchored
    />
  );
}
