import type { EndpointRow } from '../api/schema';

export const SORTS = ['cost', 'name', 'state'] as const;
export type Sort = (typeof SORTS)[number];

/** What wants attention comes first. */
const STATES = ['failed', 'busy', 'throttled', 'starting', 'fetching', 'ready', 'draining', 'unreachable', 'asleep', 'stopped'];

function rank(state: string): number {
  const found = STATES.indexOf(state);
  return found < 0 ? STATES.length : found;
}

function compare(sort: Sort, a: EndpointRow, b: EndpointRow): number {
  switch (sort) {
    case 'cost':
      return Number(b.costSoFar) - Number(a.costSoFar);
    case 'state':
      return rank(a.state) - rank(b.state);
    case 'name':
      return 0;
  }
}

/** The rows to show: those whose name, model, state or place holds every word of `search`, in order. */
export function arrange(rows: readonly EndpointRow[], search: string, sort: Sort): EndpointRow[] {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return rows
    .filter(row => {
      const text = `${row.name} ${row.model} ${row.state} ${row.on}`.toLowerCase();
      return words.every(word => text.includes(word));
    })
    .sort((a, b) => compare(sort, a, b) || a.name.localeCompare(b.name, 'en', { numeric: true }));
}
