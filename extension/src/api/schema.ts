// Written by scripts/schema.py from nbgpu_backend.schema: do not edit.

export interface BalancerUrls {
  base: string;
  health: string;
}

/** A difference that a converging deploy found. */
export interface Change {
  field: string;
  old: unknown;
  new: unknown;
}

/** The events after `since`, oldest first, and how things stand now. */
export interface Changes {
  /** of the last event: the next `since` */
  seq: number;
  /** events were left out: drop what is shown and show these */
  gap: boolean;
  events: Event[];
  summary: Summary;
}

/** Whom one would log in to, and the keys that they show; the target's is the last. */
export interface Contact {
  user: string;
  address: string;
  port: number;
  keys: ShownKey[];
  more: boolean;
}

export interface Endpoint {
  id: string;
  name: string;
  type: 'QUEUE' | 'LOAD_BALANCER';
  image: string | null;
  args: string | null;
  disk: number | null;
  env: Record<string, string>;
  registry: string | null;
  gpu: Record<string, unknown> | null;
  requestUrls: RequestUrls | BalancerUrls;
  workers: WorkerLimits;
  scaling: QueueDelay | RequestCount;
  dataCenterIds: string[];
  networkVolumes: string[];
  timeout: number;
  flashboot: 'OFF';
  createdAt: string;
  nbgpu: EndpointStatus;
}

export interface EndpointRow {
  id: string;
  name: string;
  model: string;
  state: string;
  reason: string;
  on: string;
  workers: WorkerRow[];
  workersMax: number;
  /** kept up, asked or not */
  workersMin: number;
  warmUntilUs: number | null;
  typicalColdStartS: number | null;
  queued: number;
  held: number;
  requestsTotal: number;
  /** decimal text, US dollars */
  ratePerHour: string;
  /** decimal text, US dollars */
  costSoFar: string;
  idleButBilling: boolean;
  /** UTC, microseconds since 1970 */
  reasonSinceUs: number;
  workersByState: Record<string, number>;
  /** ended in the last minute, refused ones too */
  requestsPerS: number;
  /** total time of answered requests, last 15 minutes */
  p50Ms: number | null;
  p95Ms: number | null;
  /** requests per 5 s of the last 5 minutes, oldest first */
  spark: number[];
  /** the notebook that made it */
  origin: string | null;
  baseUrl: string;
  idleTimeoutS: number;
  /** UTC, microseconds since 1970 */
  createdUs: number;
}

/** Our part of an endpoint. */
export interface EndpointStatus {
  model: ModelInfo;
  engine: EngineChoice;
  engineVersion: string | null;
  place: Place;
  policy: Policy;
  state: 'fetching' | 'asleep' | 'starting' | 'ready' | 'busy' | 'throttled' | 'draining' | 'unreachable' | 'failed' | 'stopped';
  reason: Reason;
  version: number;
  baseUrl: string;
  queued: number;
  held: number;
  workers: Worker[];
  lastFailure: Reason | null;
  /** decimal text, US dollars */
  ratePerHour: string;
  /** decimal text, US dollars */
  costSoFar: string;
  rateSource: string;
  requestsTotal: number;
  typicalColdStartS: number | null;
  warm: Warmth | null;
  origin: Origin;
  tags: Record<string, string>;
  /** UTC, microseconds since 1970 */
  createdUs: number;
  outcome: 'created' | 'attached' | 'changed' | null;
  changes: Change[];
}

export interface EngineChoice {
  name: 'vllm' | 'handler' | 'command';
  options: string[];
}

/** `kind` is `subject.what` (`worker.ready`); `text` says it in words for a person. */
export interface Event {
  seq: number;
  /** UTC, microseconds since 1970 */
  atUs: number;
  kind: string;
  endpointId: string | null;
  endpoint: string | null;
  workerId: string | null;
  text: string;
  values: Record<string, unknown>;
}

/** What must be there before a worker starts: weights, or the environment of a handler. */
export interface Fetch {
  state: 'done' | 'running' | 'failed';
  what: 'weights' | 'environment';
  text: string;
  bytesDone: number;
  bytesTotal: number;
  secondsLeft: number | null;
  error: string | null;
}

/** `advice` is what to do where it is not `good`. */
export interface Finding {
  what: string;
  good: boolean;
  text: string;
  advice: string;
}

/** Percent. */
export interface Gauge {
  util: number;
}

export interface GlobalNetworking {
  enabled: boolean;
}

export interface GpuGauge {
  util: number;
  memoryUtil: number;
}

export interface Host {
  name: string;
  user: string;
  address: string;
  port: number;
  fingerprint: string | null;
  state: 'stopped' | 'connecting' | 'connected' | 'unreachable' | 'refused';
  sinceUs: number | null;
  /** why it is not connected */
  sentence: string;
  nextStep: string;
  facts: HostFacts | null;
  /** names of those that are there */
  pods: string[];
  /** names of those that have workers there, or can have them there only */
  endpoints: string[];
  /** of each worker or pod there */
  ratePerHour: string;
  /** that rate was set */
  priced: boolean;
  /** of a check */
  findings: Finding[];
}

/** As it was last heard. */
export interface HostFacts {
  hostname: string;
  python: string;
  cpus: number;
  memory: number;
  memoryAvailable: number;
  diskFree: number;
  gpus: string[];
  clockOffsetMs: number;
}

/** `generation` grows by one with each process of it. */
export interface Kernel {
  state: 'none' | 'starting' | 'idle' | 'busy' | 'dead';
  generation: number;
  /** another one after each start of its pod */
  instance: string | null;
  /** in the pod's own numbering */
  pid: number | null;
  startedUs: number | null;
  connection: KernelConnection | null;
}

/** As a Jupyter connection file, over `ipc`: `ip` is an absolute path, and the socket of `shell_port` 1 */
export interface KernelConnection {
  transport: 'ipc';
  ip: string;
  key: string;
  signatureScheme: string;
  shellPort: number;
  iopubPort: number;
  stdinPort: number;
  controlPort: number;
  hbPort: number;
}

/** A key without its secret, and what came with it. */
export interface Key {
  id: string;
  endpoint: string;
  endpointId: string;
  /** how it begins */
  prefix: string;
  label: string;
  /** requests and jobs a minute */
  perMinute: number | null;
  /** requests and jobs in progress */
  atOnce: number | null;
  /** UTC, microseconds since 1970 */
  createdUs: number;
  usedUs: number | null;
  requests: number;
  tokensIn: number;
  tokensOut: number;
  /** decimal text, US dollars */
  cost: string;
}

export interface KeyList {
  keys: Key[];
}

export interface ModelInfo {
  ref: string;
  source: 'hub' | 'directory' | 'library' | 'handler' | 'none';
  revision: string | null;
  path: string | null;
  bytes: number;
  fetch: Fetch;
}

export interface Mounts {
  persistent: PersistentMount | null;
  network: NetworkMount[];
}

export interface NetworkMount {
  volumeId: string;
  path: string;
}

/** The one answer that has the secret. */
export interface NewKey {
  id: string;
  endpoint: string;
  endpointId: string;
  /** how it begins */
  prefix: string;
  label: string;
  /** requests and jobs a minute */
  perMinute: number | null;
  /** requests and jobs in progress */
  atOnce: number | null;
  /** UTC, microseconds since 1970 */
  createdUs: number;
  usedUs: number | null;
  requests: number;
  tokensIn: number;
  tokensOut: number;
  /** decimal text, US dollars */
  cost: string;
  secret: string;
  baseUrl: string;
}

/** Where something was asked for: kept with every resource and request. */
export interface Origin {
  notebook: string | null;
  session: string | null;
  scope: string | null;
}

/** An instance of this installation without a row: shown, billed, ended after a grace. */
export interface Orphan {
  name: string;
  pid: number | null;
}

/** A disk of the pod's own: it stays through stop and failure, and goes with the pod. */
export interface PersistentMount {
  /** GB; not enforced on this machine */
  size: number;
  path: string;
}

export interface Phase {
  name: string;
  seconds: number;
}

export interface Place {
  on: string;
  cpu: number | null;
  gpu: string[];
}

export interface Pod {
  id: string;
  name: string;
  status: 'PROVISIONING' | 'STARTING' | 'RUNNING' | 'EXITED' | 'ERROR' | 'TERMINATED';
  actions: ('start' | 'stop' | 'restart' | 'terminate')[];
  image: string | null;
  args: string | null;
  disk: number | null;
  env: Record<string, string>;
  ports: string[];
  registry: null;
  mounts: Mounts;
  gpu: PodGpu | null;
  cpu: PodCpu | null;
  cloud: 'SECURE';
  dataCenterId: string | null;
  cudaVersion: string | null;
  ssh: PodSsh;
  template: null;
  /** US dollars an hour, 0 while it does not run */
  cost: number;
  locked: boolean;
  globalNetworking: GlobalNetworking;
  runtime: PodRuntime | null;
  createdAt: string;
  startedAt: string | null;
  nbgpu: PodState;
}

export interface PodCpu {
  id: string;
  vcpuCount: number;
  /** GB */
  memory: number;
}

export interface PodGpu {
  id: string;
  count: number;
}

/** When a pod ends by itself, whether somebody thinks of it or not. null: never by this. */
export interface PodLimits {
  /** without a cell, a terminal, traffic, or use of processor or GPU */
  idleStopS: number | null;
  untilUs: number | null;
  /** since it was last started */
  maxCost: string | null;
  /** null: what is free, less a floor */
  memoryBytes: number | null;
  processes: number;
  /** for `before_stop` and the kernel */
  graceS: number;
}

/** A pod in the summary. */
export interface PodRow {
  id: string;
  name: string;
  state: string;
  status: 'PROVISIONING' | 'STARTING' | 'RUNNING' | 'EXITED' | 'ERROR' | 'TERMINATED';
  reason: string;
  /** UTC, microseconds since 1970 */
  reasonSinceUs: number;
  on: string;
  gpu: string | null;
  cpu: number | null;
  isolation: string | null;
  kernel: 'none' | 'starting' | 'idle' | 'busy' | 'dead';
  kernelspec: string | null;
  use: PodUse;
  /** decimal text, US dollars */
  ratePerHour: string;
  /** decimal text, US dollars */
  costSoFar: string;
  idleButBilling: boolean;
  activeUs: number | null;
  stopsAtUs: number | null;
  stopsWhy: string;
  volumeName: string | null;
  origin: string | null;
  /** UTC, microseconds since 1970 */
  createdUs: number;
  startedUs: number | null;
}

export interface PodRuntime {
  /** seconds */
  uptime: number;
  gpus: GpuGauge[];
  cpu: Gauge;
  memory: Gauge;
  ports: RuntimePort[];
}

export interface PodSsh {
  proxy: null;
  direct: null;
}

/** All of ours about a pod. */
export interface PodState {
  /** preparing, starting, idle, busy, stopping, stopped, failed, unreachable */
  state: string;
  reason: Reason;
  place: Place;
  isolation: 'bubblewrap' | 'container' | 'process' | null;
  /** what separates it from the rest, in words */
  isolationText: string;
  network: 'host' | 'none';
  limits: PodLimits;
  requirements: string[];
  secrets: string[];
  beforeStop: string | null;
  volumeId: string;
  /** of a network volume */
  volumeName: string | null;
  /** the folder of this machine that is /workspace */
  workspace: string;
  preparation: Preparation;
  kernel: Kernel | null;
  /** its name in Jupyter's kernel picker, while it runs */
  kernelspec: string | null;
  /** the last one */
  run: Run | null;
  /** the last sign of use */
  activeUs: number | null;
  /** the nearest instant at which it ends by itself */
  stopsAtUs: number | null;
  stopsWhy: string;
  use: PodUse;
  skipped: SkippedPlace[];
  /** decimal text, US dollars */
  ratePerHour: string;
  rateSource: string;
  /** decimal text, US dollars */
  costSoFar: string;
  origin: Origin;
  tags: Record<string, string>;
  version: number;
  /** UTC, microseconds since 1970 */
  createdUs: number;
  startedUs: number | null;
  /** of its log, where it failed */
  tail: string[];
  outcome: 'created' | 'attached' | 'changed' | null;
  changes: Change[];
}

/** What it uses now; bytes, and processor time as a share of one core. */
export interface PodUse {
  memoryBytes: number;
  memoryLimit: number;
  cpu: number;
  processes: number;
  terminals: number;
}

/** Limits of one request, in seconds, and of the queue, in requests; how a worker may start. */
export interface Policy {
  /** longest wait for a worker; of a load balancer 120 unless set */
  holdS: number;
  /** longest wait for the one worker that a request is bound to */
  affinityS: number;
  /** of a stream, from the worker */
  firstByteS: number;
  /** without a good answer of /health, or of a load balancer's health path */
  unhealthyS: number;
  /** longest start of a worker */
  startS: number;
  /** first comment of a held stream, and the pause between */
  heartbeatS: number;
  /** requests that may wait */
  queueMax: number;
  /** jobs that may have no end yet */
  jobsMax: number;
  /** how long a job's result is kept */
  resultsKeptS: number;
  /** ways to start sooner than plainly: forked from a parent that has imported the engine, or woken where an idle engine was stopped and kept */
  tiers: ('preimported' | 'parked')[];
  /** how long an idle engine is kept parked; null: 600 for vllm, 0 (never) for others */
  parkS: number | null;
}

/** The pod's environment being made. `text` says what is done just now. */
export interface Preparation {
  state: 'none' | 'running' | 'done' | 'failed';
  text: string;
  beganUs: number | null;
  error: string | null;
}

/** RFC 9457, as REST v2 sends it, with our code and next step. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  errors: string[];
  nbgpu: Record<string, unknown>;
}

export interface QueueDelay {
  type: 'QUEUE_DELAY';
  /** seconds */
  queueDelay: number;
}

/** Why something is in the state that it is in. */
export interface Reason {
  code: string;
  text: string;
  /** UTC, microseconds since 1970 */
  sinceUs: number;
  values: Record<string, unknown>;
}

export interface RequestCount {
  type: 'REQUEST_COUNT';
  requestCount: number;
}

export interface RequestUrls {
  run: string;
  runSync: string;
  status: string;
  stream: string;
  cancel: string;
  retry: string;
  purgeQueue: string;
  health: string;
}

/** One cell that the kernel was given, by whomever. `n` is the number of its first output. */
export interface Run {
  id: string;
  n: number;
  label: string;
  state: 'queued' | 'running' | 'ok' | 'error' | 'interrupted' | 'aborted' | 'died';
  /** UTC, microseconds since 1970 */
  askedUs: number;
  beganUs: number | null;
  endedUs: number | null;
  by: 'run' | 'notebook';
}

export interface RuntimePort {
  private: number;
  public: number | null;
  type: string;
  ip: string | null;
}

/** What the backend is set to. `rates` maps a place to dollars an hour (decimal text). */
export interface Settings {
  rates: Record<string, string>;
  rateSources: Record<string, string>;
  /** a pod that nobody uses outlives the backend by so long */
  leasePodS: number;
  /** where pods go that name no place */
  place: string;
}

/** `fingerprint` as ssh-keygen prints it. */
export interface ShownKey {
  where: string;
  kind: string;
  fingerprint: string;
}

/** What came first in the order of choice and was not taken. */
export interface SkippedPlace {
  what: string;
  code: 'unknown' | 'taken' | 'failed' | 'spread' | 'away' | 'coming' | 'trouble' | 'memory';
  text: string;
}

export interface Summary {
  /** UTC, microseconds since 1970 */
  atUs: number;
  /** decimal text, US dollars */
  perHour: string;
  /** decimal text, US dollars */
  spentToday: string;
  /** names of endpoints and pods */
  idleButBilling: string[];
  endpoints: EndpointRow[];
  pods: PodRow[];
  hosts: Host[];
  /** where pods go that name no place */
  place: string;
  orphans: Orphan[];
}

export interface Volume {
  id: string;
  name: string;
  size: number;
  dataCenter: string;
  type: 'STANDARD' | 'HIGH_PERFORMANCE';
  nbgpu: VolumeExtras;
}

export interface VolumeExtras {
  path: string;
  /** names of those that use it */
  pods: string[];
  /** UTC, microseconds since 1970 */
  createdUs: number;
  bytesUsed: number | null;
}

export interface VolumeList {
  networkVolumes: Volume[];
}

/** Workers are kept up until then, asked or not. */
export interface Warmth {
  /** UTC, microseconds since 1970 */
  untilUs: number;
  workers: number;
}

/** What a person asks: why is it in this state, since when, at what cost, and what can I do? */
export interface Why {
  subject: 'endpoint' | 'pod' | 'worker' | 'request';
  name: string;
  endpoint: string;
  state: string;
  reason: Reason;
  /** in this state */
  seconds: number;
  /** decimal text, US dollars */
  costSoFar: string;
  typical: string | null;
  nextStep: string;
  /** what happened before, newest first, in words */
  history: string[];
  phases: Phase[];
  tail: string[];
  /** what it waits for, in parts: workers, memory, GPUs */
  facts: string[];
}

export interface Worker {
  id: string;
  status: 'RUNNING' | 'IDLE' | 'INITIALIZING' | 'THROTTLED' | 'UNHEALTHY';
  isStale: boolean;
  version: number | null;
  gpuCount: number;
  image: string | null;
  uptimeSeconds: number | null;
  gpuTypeId: string | null;
  dataCenterId: string | null;
  startedAt: string | null;
  nbgpu: WorkerExtras;
}

export interface WorkerExtras {
  state: 'initializing' | 'starting' | 'idle' | 'running' | 'parked' | 'draining' | 'throttled' | 'unreachable' | 'unhealthy' | 'stopped';
  pid: number | null;
  port: number | null;
  tier: string;
  /** why a sooner tier did not serve */
  fellBack: string;
  generation: number;
  place: string;
  gpu: string | null;
  /** GPUs that came first, and why not */
  skipped: SkippedPlace[];
  /** held when last measured (PSS) */
  memoryBytes: number | null;
  reason: Reason;
  /** requests in progress */
  held: number;
  phases: Phase[];
  readySeconds: number | null;
  /** decimal text, US dollars */
  ratePerHour: string;
  /** decimal text, US dollars */
  costSoFar: string;
  /** last log lines of one that failed */
  tail: string[];
}

export interface WorkerLimits {
  min: number;
  max: number;
  /** seconds */
  idleTimeout: number;
}

export interface WorkerRow {
  id: string;
  pid: number | null;
  port: number | null;
  state: string;
  tier: string;
  /** why it is in this state, in words */
  reason: string;
  /** in this state */
  sinceUs: number;
  held: number;
  gpu: string | null;
  place: string;
  /** decimal text, US dollars */
  ratePerHour: string;
  /** decimal text, US dollars */
  costSoFar: string;
}
