import * as React from 'react';

export interface VirtualProps<T> {
  items: readonly T[];
  keyOf: (item: T) => string;
  draw: (item: T, index: number) => React.ReactNode;
  /** the height of a row that was not measured yet, in px */
  estimate: number;
  label: string;
  className?: string;
  /** the key of a row to bring into view, and what to call when it is */
  reveal?: string | null;
  onRevealed?: () => void;
  /** rows come in at the top: what is read stays where it is */
  anchored?: boolean;
}

/** Drawn above and below what is seen. */
const SPARE = 4;
/** Before the box was measured, and where nothing can be. */
const FALLBACK_PX = 400;
/** However high the box is. */
export const MOST_ROWS = 40;

/** The first row whose end lies below `at`. */
function find(offsets: readonly number[], at: number): number {
  let low = 0;
  let high = Math.max(0, offsets.length - 2);
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((offsets[middle + 1] ?? 0) > at) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

interface Place {
  key: string;
  /** px from the row's top to the box's */
  delta: number;
}

/** Heights of rows by key, kept up to date as rows open and close. */
function useHeights(): [Map<string, number>, (key: string, node: HTMLElement | null) => void] {
  const heights = React.useRef(new Map<string, number>()).current;
  const nodes = React.useRef(new Map<string, HTMLElement>()).current;
  const [, draw] = React.useReducer((count: number) => count + 1, 0);
  const watcher = React.useRef<ResizeObserver | null>(null);
  if (watcher.current === null) {
    watcher.current = new ResizeObserver(entries => {
      let differs = false;
      for (const { target } of entries) {
        const node = target as HTMLElement;
        const key = node.dataset.key ?? '';
        if (node.offsetHeight > 0 && heights.get(key) !== node.offsetHeight) {
          heights.set(key, node.offsetHeight);
          differs = true;
        }
      }
      if (differs) {
        draw();
      }
    });
  }
  React.useEffect(() => () => watcher.current?.disconnect(), []);
  const measure = React.useCallback(
    (key: string, node: HTMLElement | null) => {
      const before = nodes.get(key);
      if (before && before !== node) {
        watcher.current?.unobserve(before);
        nodes.delete(key);
      }
      if (node && before !== node) {
        nodes.set(key, node);
        watcher.current?.observe(node);
      }
    },
    [nodes]
  );
  return [heights, measure];
}

function Row(props: {
  id: string;
  top: number;
  index: number;
  count: number;
  measure: (key: string, node: HTMLElement | null) => void;
  children: React.ReactNode;
}): React.ReactElement {
  const { id, measure } = props;
  const ref = React.useCallback((node: HTMLElement | null) => measure(id, node), [id, measure]);
  return (
    <li
      ref={ref}
      className="nbgpu-Virtual-row"
      data-key={id}
      style={{ top: props.top }}
      aria-setsize={props.count}
      aria-posinset={props.index + 1}
    >
      {props.children}
    </li>
  );
}

/** A long list of which only what is seen is in the document. Arrow keys go from row to row. */
export function VirtualList<T>(props: VirtualProps<T>): React.ReactElement {
  const { items, keyOf, estimate, reveal, onRevealed, anchored } = props;
  const box = React.useRef<HTMLDivElement>(null);
  const [top, setTop] = React.useState(0);
  const [height, setHeight] = React.useState(FALLBACK_PX);
  const [heights, measure] = useHeights();
  const place = React.useRef<Place | null>(null);
  const wanted = React.useRef<string | null>(null);

  const offsets = [0];
  for (const item of items) {
    offsets.push((offsets[offsets.length - 1] ?? 0) + (heights.get(keyOf(item)) ?? estimate));
  }
  const total = offsets[items.length] ?? 0;
  const from = Math.max(0, find(offsets, top) - SPARE);
  const to = Math.min(items.length, find(offsets, top + height) + 1 + SPARE, from + MOST_ROWS);

  React.useLayoutEffect(() => {
    const node = box.current;
    if (!node) {
      return;
    }
    const look = (): void => setHeight(node.clientHeight || FALLBACK_PX);
    const watcher = new ResizeObserver(look);
    watcher.observe(node);
    look();
    return () => watcher.disconnect();
  }, []);

  const scroll = React.useCallback((to: number) => {
    if (box.current) {
      box.current.scrollTop = to;
      setTop(box.current.scrollTop);
    }
  }, []);

  // Stay with the row at the top when others come in above it.
  React.useLayoutEffect(() => {
    const { current } = place;
    if (anchored && current && top > 0) {
      const index = items.findIndex(item => keyOf(item) === current.key);
      const target = (offsets[index] ?? 0) + current.delta;
      if (index >= 0 && Math.abs(target - top) > 1) {
        scroll(target);
      }
    }
    // eslint-disable-next-line react-hooks/exhaustive-deps -- only when the items are others
  }, [items]);
  React.useLayoutEffect(() => {
    const index = find(offsets, top);
    const item = items[index];
    place.current = item === undefined ? null : { key: keyOf(item), delta: top - (offsets[index] ?? 0) };
  });

  React.useEffect(() => {
    const index = reveal === null || reveal === undefined ? -1 : items.findIndex(item => keyOf(item) === reveal);
    if (index >= 0) {
      const [start, end] = [offsets[index] ?? 0, offsets[index + 1] ?? 0];
      if (start < top || end > top + height) {
        scroll(start);
      }
      onRevealed?.();
    }
    // eslint-disable-next-line react-hooks/exhaustive-deps -- where it lies is read once
  }, [reveal, items]);

  const focus = (key: string): boolean => {
    const rows = [...(box.current?.querySelectorAll<HTMLElement>('li[data-key]') ?? [])];
    const head = rows.find(row => row.dataset.key === key)?.querySelector<HTMLElement>('[data-head]');
    head?.focus();
    return head !== null && head !== undefined;
  };
  React.useEffect(() => {
    if (wanted.current !== null && focus(wanted.current)) {
      wanted.current = null;
    }
  });

  const onKeyDown = (event: React.KeyboardEvent): void => {
    const target = event.target as HTMLElement;
    const key = target.closest<HTMLElement>('[data-key]')?.dataset.key;
    if (!('head' in target.dataset) || key === undefined) {
      return;
    }
    const here = items.findIndex(item => keyOf(item) === key);
    const next = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: items.length - 1 }[event.key];
    const item = next === undefined ? undefined : items[next];
    if (next === undefined || item === undefined) {
      return;
    }
    event.preventDefault();
    wanted.current = keyOf(item);
    const [start, end] = [offsets[next] ?? 0, offsets[next + 1] ?? 0];
    if (start < top) {
      scroll(start);
    } else if (end > top + height) {
      scroll(end - height);
    }
    if (focus(keyOf(item))) {
      wanted.current = null;
    }
  };

  return (
    // A box that can scroll must be reachable by keyboard even where its rows hold nothing to focus.
    <div
      ref={box}
      className={`nbgpu-Virtual ${props.className ?? ''}`}
      role="group"
      aria-label={props.label}
      tabIndex={total > height ? 0 : undefined}
      onScroll={event => setTop(event.currentTarget.scrollTop)}
      onKeyDown={onKeyDown}
    >
      <ul className="nbgpu-Virtual-rows" aria-label={props.label} style={{ height: total }}>
        {items.slice(from, to).map((item, offset) => (
          <Row
            key={keyOf(item)}
            id={keyOf(item)}
            top={offsets[from + offset] ?? 0}
            index={from + offset}
            count={items.length}
            measure={measure}
          >
            {props.draw(item, from + offset)}
          </Row>
        ))}
      </ul>
    </div>
  );
}
