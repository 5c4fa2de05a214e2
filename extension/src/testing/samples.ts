/** Answers of the backend for tests: whole ones, of which a test names what it is about. */
import type { Changes, EndpointRow, Event, Key, NewKey, Summary, Why, WorkerRow } from '../api/schema';

export function row(name: string, more: Partial<EndpointRow> = {}): EndpointRow {
  return {
    id: `ep-${name}`,
    name,
    model: 'org/model',
    state: 'asleep',
    reason: 'no worker runs and nothing waits',
    on: 'local',
    workers: [],
    workersMax: 1,
    workersMin: 0,
    warmUntilUs: null,
    typicalColdStartS: null,
    queued: 0,
    held: 0,
    requestsTotal: 0,
    ratePerHour: '0',
    costSoFar: '0',
    idleButBilling: false,
    reasonSinceUs: 1_700_000_000_000_000,
    workersByState: {},
    requestsPerS: 0,
    p50Ms: null,
    p95Ms: null,
    spark: Array<number>(60).fill(0),
    origin: null,
    baseUrl: `http://127.0.0.1:1/v2/${name}/openai/v1`,
    idleTimeoutS: 60,
    createdUs: 1_700_000_000_000_000,
    ...more
  };
}

export function worker(id: string, more: Partial<WorkerRow> = {}): WorkerRow {
  return {
    id,
    pid: 1,
    port: 1,
    state: 'idle',
    tier: 'plain',
    reason: 'it waits for work',
    sinceUs: 1_700_000_000_000_000,
    held: 0,
    gpu: null,
    costSoFar: '0',
    ...more
  };
}

export function key(more: Partial<Key> = {}): Key {
  return {
    id: 'key-1f',
    endpoint: 'chat',
    endpointId: 'ep-chat',
    prefix: 'nbgpu_AbCdEf',
    label: '',
    perMinute: null,
    atOnce: null,
    createdUs: 1_700_000_000_000_000,
    usedUs: null,
    requests: 0,
    tokensIn: 0,
    tokensOut: 0,
    cost: '0',
    ...more
  };
}

export function newKey(more: Partial<NewKey> = {}): NewKey {
  return { ...key(), secret: 'nbgpu_AbCdEf-the-rest-of-it', baseUrl: 'http://127.0.0.1:1/v2/chat/openai/v1', ...more };
}

export function why(name: string, more: Partial<Why> = {}): Why {
  return {
    subject: 'endpoint',
    name,
    endpoint: name,
    state: 'asleep',
    reason: { code: 'asleep', text: 'no worker runs and nothing waits', sinceUs: 0, values: {} },
    seconds: 12,
    costSoFar: '0.41',
    typical: null,
    nextStep: '',
    history: [],
    phases: [],
    tail: [],
    facts: [],
    ...more
  };
}

export function summary(endpoints: EndpointRow[] = [], more: Partial<Summary> = {}): Summary {
  return { atUs: 0, perHour: '0', spentToday: '0', idleButBilling: [], endpoints, orphans: [], ...more };
}

export function event(seq: number, more: Partial<Event> = {}): Event {
  return {
    seq,
    atUs: 1_700_000_000_000_000 + seq * 1_000_000,
    kind: 'worker.ready',
    endpointId: 'ep-chat',
    endpoint: 'chat',
    workerId: null,
    text: `event ${seq}`,
    values: {},
    ...more
  };
}

export function changes(seq: number, events: Event[] = [], more: Partial<Changes> = {}): Changes {
  return { seq, gap: false, events, summary: summary(), ...more };
}
