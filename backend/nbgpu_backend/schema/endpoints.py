"""`/v2/serverless`: endpoints and their workers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nbgpu_backend.schema.common import Dollars, Micros, Model, Origin, Reason, Request
from nbgpu_backend.schema.secrets import secret_name

EndpointState = Literal[
    "fetching", "asleep", "starting", "ready", "busy", "throttled", "draining", "unreachable", "failed",
    "stopped",
]  # fmt: skip
WorkerState = Literal[
    "initializing",
    "starting",
    "idle",
    "running",
    "parked",
    "draining",
    "throttled",
    "unreachable",
    "unhealthy",
    "stopped",
]
EndpointType = Literal["QUEUE", "LOAD_BALANCER"]
# of a load balancer, where a request to create it says nothing else
BALANCER_TIMEOUT_MS, BALANCER_HOLD_S, BALANCER_REQUESTS = 330_000, 120.0, 4
NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class WorkerLimits(Request):
    min: int = Field(0, ge=0, le=64)
    max: int = Field(1, ge=0, le=64)
    idle_timeout: int = Field(60, ge=1, le=86400, description="seconds")


class QueueDelay(Request):
    type: Literal["QUEUE_DELAY"] = "QUEUE_DELAY"
    queue_delay: float = Field(4.0, ge=0.5, description="seconds")


class RequestCount(Request):
    type: Literal["REQUEST_COUNT"] = "REQUEST_COUNT"
    request_count: int = Field(ge=1)


Scaling = Annotated[QueueDelay | RequestCount, Field(discriminator="type")]


Tier = Literal["preimported", "parked"]


class Policy(Request):
    """Limits of one request, in seconds, and of the queue, in requests; how a worker may start."""

    hold_s: float = Field(
        600, gt=0, description="longest wait for a worker; of a load balancer 120 unless set"
    )
    affinity_s: float = Field(
        300, gt=0, description="longest wait for the one worker that a request is bound to"
    )
    first_byte_s: float = Field(120, gt=0, description="of a stream, from the worker")
    unhealthy_s: float = Field(
        60,
        gt=0,
        description="without a good answer of /health, or of a load balancer's health path",
    )
    start_s: float = Field(600, gt=0, description="longest start of a worker")
    heartbeat_s: float = Field(
        10, gt=0, description="first comment of a held stream, and the pause between"
    )
    queue_max: int = Field(1000, ge=1, description="requests that may wait")
    jobs_max: int = Field(100_000, ge=1, description="jobs that may have no end yet")
    results_kept_s: float = Field(86_400, gt=0, description="how long a job's result is kept")
    tiers: list[Tier] = Field(
        ["preimported", "parked"],
        description="ways to start sooner than plainly: forked from a parent that has imported the "
        "engine, or woken where an idle engine was stopped and kept",
    )
    park_s: float | None = Field(
        None,
        ge=0,
        le=604_800,
        description="how long an idle engine is kept parked; null: 600 for vllm, 0 (never) for others",
    )


class EngineChoice(Request):
    name: Literal["vllm", "handler", "command"] = "vllm"
    options: list[str] = []


class Place(Request):
    on: str = "local"
    cpu: int | None = Field(None, ge=1)
    gpu: list[str] = []


class EndpointExtras(Request):
    """Our part of a create request."""

    model: str | None = Field(None, description="for the engine handler: the path of its file")
    engine: EngineChoice = EngineChoice()
    place: Place = Place()
    policy: Policy = Policy()
    origin: Origin = Origin()
    tags: dict[str, str] = {}
    cwd: str | None = Field(
        None, description="against which a relative path of a model or handler is read"
    )
    converge: bool = Field(False, description="attach to, or change, the endpoint of this name")
    take: bool = Field(
        False, description="with converge: change it even if another notebook made it"
    )


class CreateEndpoint(Request):
    name: str
    type: EndpointType = "QUEUE"
    scaling: Scaling = Field(
        QueueDelay(), description="of a load balancer by requests, 4 a worker unless set"
    )
    workers: WorkerLimits = WorkerLimits()
    env: dict[str, str] = {}
    timeout: int = Field(
        600_000,
        ge=5_000,
        le=604_800_000,
        description="ms, of one request's execution; of a load balancer 330000 unless set",
    )
    nbgpu: EndpointExtras

    @model_validator(mode="after")
    def balancers_have_their_own_defaults(self) -> CreateEndpoint:
        if self.type == "LOAD_BALANCER":
            if "scaling" not in self.model_fields_set:
                self.scaling = RequestCount(type="REQUEST_COUNT", request_count=BALANCER_REQUESTS)
            if "timeout" not in self.model_fields_set:
                self.timeout = BALANCER_TIMEOUT_MS
            if "hold_s" not in self.nbgpu.policy.model_fields_set:
                self.nbgpu.policy = self.nbgpu.policy.model_copy(update={"hold_s": BALANCER_HOLD_S})
        return self

    @field_validator("env")
    @classmethod
    def no_secrets(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if secret_name(name):
                raise ValueError(
                    f"{name} looks like a secret: its value would be stored readable. "
                    "Set it in the environment of the backend instead"
                )
        return env


class UpdateExtras(Request):
    engine: EngineChoice | None = None
    place: Place | None = None
    policy: Policy | None = None
    tags: dict[str, str] | None = None


class UpdateEndpoint(Request):
    """PATCH: what is left out stays as it is."""

    scaling: Scaling | None = None
    workers: WorkerLimits | None = None
    env: dict[str, str] | None = None
    timeout: int | None = Field(None, ge=5_000, le=604_800_000)
    nbgpu: UpdateExtras = UpdateExtras()


class EndpointAction(Request):
    action: Literal["start", "stop"]


class Warm(Request):
    """`seconds` 0 ends it."""

    seconds: int = Field(1800, ge=0, le=604_800, description="keep workers up for so long")
    workers: int = Field(1, ge=1, le=64)


class Warmth(Model):
    """Workers are kept up until then, asked or not."""

    until_us: Micros
    workers: int


class SkippedPlace(Model):
    """What came first in the order of choice and was not taken."""

    what: str
    code: Literal["unknown", "taken", "failed", "spread", "away", "coming", "trouble", "memory"]
    text: str


class Fetch(Model):
    """What must be there before a worker starts: weights, or the environment of a handler.

    An environment has no bytes to count: `text` says what is done just now.
    """

    state: Literal["done", "running", "failed"]
    what: Literal["weights", "environment"] = "weights"
    text: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    seconds_left: float | None = None
    error: str | None = None


class ModelInfo(Model):
    ref: str
    source: Literal["hub", "directory", "library", "handler", "none"]
    revision: str | None = None
    path: str | None = None
    bytes: int = 0
    fetch: Fetch


class Phase(Model):
    name: str
    seconds: float


class WorkerExtras(Model):
    state: WorkerState
    pid: int | None
    port: int | None
    tier: str
    fell_back: str = Field("", description="why a sooner tier did not serve")
    generation: int
    place: str
    gpu: str | None = None
    skipped: list[SkippedPlace] = Field([], description="GPUs that came first, and why not")
    memory_bytes: int | None = Field(None, description="held when last measured (PSS)")
    reason: Reason
    held: int = Field(description="requests in progress")
    phases: list[Phase]
    ready_seconds: float | None
    rate_per_hour: Dollars
    cost_so_far: Dollars
    tail: list[str] = Field([], description="last log lines of one that failed")


class Worker(Model):
    id: str
    status: Literal["RUNNING", "IDLE", "INITIALIZING", "THROTTLED", "UNHEALTHY"]
    is_stale: bool
    version: int | None
    gpu_count: int
    image: str | None
    uptime_seconds: int | None
    gpu_type_id: str | None
    data_center_id: str | None
    started_at: str | None
    nbgpu: WorkerExtras


class WorkerSummary(Model):
    running: int = 0
    idle: int = 0
    initializing: int = 0
    throttled: int = 0
    unhealthy: int = 0
    total: int = 0


class WorkerList(Model):
    workers: list[Worker]
    summary: WorkerSummary
    endpoint_version: int | None


class RequestUrls(Model):
    run: str
    run_sync: str
    status: str
    stream: str
    cancel: str
    retry: str
    purge_queue: str
    health: str


class BalancerUrls(Model):
    base: str
    health: str


class Change(Model):
    """A difference that a converging deploy found."""

    field: str
    old: Any
    new: Any


class EndpointStatus(Model):
    """Our part of an endpoint."""

    model: ModelInfo
    engine: EngineChoice
    engine_version: str | None
    place: Place
    policy: Policy
    state: EndpointState
    reason: Reason
    version: int
    base_url: str
    queued: int
    held: int
    workers: list[Worker]
    last_failure: Reason | None
    rate_per_hour: Dollars
    cost_so_far: Dollars
    rate_source: str
    requests_total: int
    typical_cold_start_s: float | None
    warm: Warmth | None = None
    origin: Origin
    tags: dict[str, str]
    created_us: Micros
    outcome: Literal["created", "attached", "changed"] | None = None
    changes: list[Change] = []


class Endpoint(Model):
    id: str
    name: str
    type: EndpointType
    image: str | None
    args: str | None
    disk: int | None
    env: dict[str, str]
    registry: str | None
    gpu: dict[str, Any] | None
    request_urls: RequestUrls | BalancerUrls
    workers: WorkerLimits
    scaling: Scaling
    data_center_ids: list[str]
    network_volumes: list[str]
    timeout: int
    flashboot: Literal["OFF"]
    created_at: str
    nbgpu: EndpointStatus


class EndpointList(Model):
    endpoints: list[Endpoint]
