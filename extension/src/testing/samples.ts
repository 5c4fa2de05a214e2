/** Answers of the backend for tests: whole ones, of which a test names what it is about. */
import type {
  Changes, Contact, EndpointRow, Event, Host, Key, NewKey, Pod, PodRow, PodState, Summary, Why, WorkerRow
} from '../api/schema';

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
    place: 'local',
    ratePerHour: '0',
    costSoFar: '0',
    ...more
  };
}

export function pod(name: string, more: Partial<PodRow> = {}): PodRow {
  return {
    id: `pod-${name}`,
    name,
    state: 'idle',
    status: 'RUNNING',
    reason: 'ready, and nobody uses it',
    reasonSinceUs: 0,
    on: 'local',
    gpu: null,
    cpu: 2,
    isolation: 'bubblewrap',
    kernel: 'idle',
    kernelspec: `nbgpu-${name}`,
    use: { memoryBytes: 0, memoryLimit: 0, cpu: 0, processes: 0, terminals: 0 },
    ratePerHour: '0',
    costSoFar: '0',
    idleButBilling: false,
    activeUs: null,
    stopsAtUs: null,
    stopsWhy: '',
    volumeName: null,
    origin: null,
    createdUs: 0,
    startedUs: 0,
    ...more
  };
}

/** One that does not run. */
export function stopped(name: string, more: Partial<PodRow> = {}): PodRow {
  return pod(name, {
    state: 'stopped', status: 'EXITED', reason: 'stopped by you', kernel: 'none', kernelspec: null, isolation: null, ...more
  });
}

export function podInFull(name: string, state: Partial<PodState> = {}, more: Partial<Pod> = {}): Pod {
  return {
    id: `pod-${name}`,
    name,
    status: 'RUNNING',
    actions: ['stop', 'restart', 'terminate'],
    image: null,
    args: null,
    disk: null,
    env: {},
    ports: [],
    registry: null,
    mounts: { persistent: null, network: [] },
    gpu: null,
    cpu: { id: 'cpu', vcpuCount: 2, memory: 8 },
    cloud: 'SECURE',
    dataCenterId: 'local',
    cudaVersion: null,
    ssh: { proxy: null, direct: null },
    template: null,
    cost: 0,
    locked: false,
    globalNetworking: { enabled: false },
    runtime: null,
    createdAt: '2026-01-01T00:00:00Z',
    startedAt: null,
    nbgpu: {
      state: 'idle',
      reason: { code: 'ready', text: 'ready, and nobody uses it', sinceUs: 0, values: {} },
      place: { on: 'local', cpu: 2, gpu: [] },
      isolation: 'bubblewrap',
      isolationText: 'a private home and process tree',
      network: 'host',
      limits: { idleStopS: 1800, untilUs: null, maxCost: null, memoryBytes: null, processes: 1024, graceS: 10 },
      requirements: [],
      secrets: [],
      beforeStop: null,
      volumeId: `vol-${name}`,
      volumeName: null,
      workspace: '/somewhere',
      preparation: { state: 'done', text: '', beganUs: null, error: null },
      kernel: null,
      kernelspec: `nbgpu-${name}`,
      run: null,
      activeUs: null,
      stopsAtUs: null,
      stopsWhy: '',
      use: { memoryBytes: 0, memoryLimit: 0, cpu: 0, processes: 0, terminals: 0 },
      skipped: [],
      ratePerHour: '0',
      rateSource: '',
      costSoFar: '0',
      origin: { notebook: null, session: null, scope: null },
      tags: {},
      version: 1,
      createdUs: 0,
      startedUs: 0,
      tail: [],
      outcome: null,
      changes: [],
      ...state
    },
    ...more
  };
}

export function host(name: string, more: Partial<Host> = {}): Host {
  return {
    name,
    user: 'ada',
    address: `${name}.example.org`,
    port: 22,
    fingerprint: 'SHA256:abc',
    state: 'connected',
    sinceUs: 1_700_000_000_000_000,
    sentence: '',
    nextStep: '',
    facts: {
      hostname: name,
      python: '3.11.2',
      cpus: 32,
      memory: 64_000_000_000,
      memoryAvailable: 58_000_000_000,
      diskFree: 812_000_000_000,
      gpus: ['H100', 'H100'],
      clockOffsetMs: 0
    },
    pods: [],
    endpoints: [],
    ratePerHour: '0',
    priced: false,
    findings: [],
    ...more
  };
}

/** Of a host behind a jump host; `accepted`: so many keys were. */
export function contact(accepted: number, hops: readonly string[] = ['lab1.example.org']): Contact {
  const keys = hops.slice(0, accepted + 1).map(where => ({ where, kind: 'ssh-ed25519', fingerprint: `SHA256:${where}` }));
  return { user: 'ada', address: hops[hops.length - 1] ?? '', port: 22, keys, more: keys.length < hops.length };
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
  return { atUs: 0, perHour: '0', spentToday: '0', idleButBilling: [], endpoints, pods: [], hosts: [], place: 'local', orphans: [], ...more };
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
