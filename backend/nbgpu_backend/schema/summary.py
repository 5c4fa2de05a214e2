"""`/nbgpu/v1/summary`, `health`, `settings` and `explain`: the answers that are ours alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nbgpu_backend.schema.common import Dollars, Micros, Model, Reason, Request
from nbgpu_backend.schema.endpoints import Phase
from nbgpu_backend.schema.hosts import Host
from nbgpu_backend.schema.pods import PodRow


class WorkerRow(Model):
    id: str
    pid: int | None
    port: int | None
    state: str
    tier: str
    reason: str = Field("", description="why it is in this state, in words")
    since_us: Micros = Field(0, description="in this state")
    held: int = 0
    gpu: str | None = None
    place: str = "local"
    rate_per_hour: Dollars = "0"
    cost_so_far: Dollars = "0"


class EndpointRow(Model):
    id: str
    name: str
    model: str
    state: str
    reason: str
    on: str
    workers: list[WorkerRow]
    workers_max: int
    workers_min: int = Field(0, description="kept up, asked or not")
    warm_until_us: Micros | None = None
    typical_cold_start_s: float | None = None
    queued: int
    held: int
    requests_total: int
    rate_per_hour: Dollars
    cost_so_far: Dollars
    idle_but_billing: bool
    reason_since_us: Micros
    workers_by_state: dict[str, int]
    requests_per_s: float = Field(description="ended in the last minute, refused ones too")
    p50_ms: float | None = Field(description="total time of answered requests, last 15 minutes")
    p95_ms: float | None
    spark: list[int] = Field(description="requests per 5 s of the last 5 minutes, oldest first")
    origin: str | None = Field(description="the notebook that made it")
    base_url: str
    idle_timeout_s: int
    created_us: Micros


class Orphan(Model):
    """An instance of this installation without a row: shown, billed, ended after a grace."""

    name: str
    pid: int | None


class Summary(Model):
    at_us: Micros
    per_hour: Dollars
    spent_today: Dollars
    idle_but_billing: list[str] = Field(description="names of endpoints and pods")
    endpoints: list[EndpointRow]
    pods: list[PodRow] = []
    hosts: list[Host] = []
    place: str = Field("local", description="where pods go that name no place")
    orphans: list[Orphan] = []


class Health(Model):
    """Also what `backend.json` is checked against."""

    status: Literal["ok"]
    pid: int
    version: str
    api_version: int
    installation: str
    started_us: Micros
    loop_lag_ms: float = Field(description="the event loop's worst lag in the last minute")


class Why(Model):
    """What a person asks: why is it in this state, since when, at what cost, and what can I do?

    The subject is an endpoint, a worker, or a request that is held or was recorded.
    """

    subject: Literal["endpoint", "pod", "worker", "request"] = "endpoint"
    name: str
    endpoint: str = ""
    state: str
    reason: Reason
    seconds: float = Field(description="in this state")
    cost_so_far: Dollars
    typical: str | None
    next_step: str
    history: list[str] = Field(description="what happened before, newest first, in words")
    phases: list[Phase] = []
    tail: list[str] = []
    facts: list[str] = Field([], description="what it waits for, in parts: workers, memory, GPUs")


class ParentRow(Model):
    """A process that has imported an engine, from which workers are forked."""

    key: str
    pid: int
    ready: bool
    ready_seconds: float | None
    idle_seconds: float
    memory_bytes: int


class HoldingRow(Model):
    """One line of the memory table."""

    holder: str
    kind: Literal["worker", "pod", "parent", "parked"]
    bytes_reserved: int
    bytes_held: int | None


class Memory(Model):
    """Who holds what of this machine's memory, and what a new worker could have."""

    available: int
    floor: int
    holdings: list[HoldingRow]
    parents: list[ParentRow]


class Settings(Model):
    """What the backend is set to. `rates` maps a place to dollars an hour (decimal text)."""

    rates: dict[str, str]
    rate_sources: dict[str, str]
    lease_pod_s: float = Field(
        900, description="a pod that nobody uses outlives the backend by so long"
    )
    place: str = Field("local", description="where pods go that name no place")


class SettingsChange(Request):
    rates: dict[str, str] = {}
    lease_pod_s: float | None = Field(None, ge=1, le=604_800)
    place: str | None = None
    source: str = "set by hand"


class LogLines(Model):
    """The last lines of the newest worker, also of one that has ended."""

    worker: str | None
    lines: list[str]


class Stopped(Model):
    """Names of what ran."""

    stopped: list[str]


class ShutdownRequest(Request):
    all: bool = False
