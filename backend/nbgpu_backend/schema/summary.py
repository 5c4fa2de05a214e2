"""`/nbgpu/v1/summary`, `health`, `settings` and `explain`: the answers that are ours alone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nbgpu_backend.schema.common import Dollars, Micros, Model, Reason, Request
from nbgpu_backend.schema.endpoints import Phase


class WorkerRow(Model):
    id: str
    pid: int | None
    port: int | None
    state: str
    tier: str


class EndpointRow(Model):
    id: str
    name: str
    model: str
    state: str
    reason: str
    on: str
    workers: list[WorkerRow]
    workers_max: int
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
    idle_but_billing: list[str] = Field(description="names of endpoints")
    endpoints: list[EndpointRow]
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
    """What a person asks: why is it in this state, since when, at what cost, and what can I do?"""

    name: str
    state: str
    reason: Reason
    seconds: float = Field(description="in this state")
    cost_so_far: Dollars
    typical: str | None
    next_step: str
    history: list[str] = Field(description="what happened before, newest first, in words")
    phases: list[Phase] = []
    tail: list[str] = []


class Settings(Model):
    """What the backend is set to. `rates` maps a place to dollars an hour (decimal text)."""

    rates: dict[str, str]
    rate_sources: dict[str, str]


class SettingsChange(Request):
    rates: dict[str, str] = {}
    source: str = "set by hand"


class LogLines(Model):
    """The last lines of the newest worker, also of one that has ended."""

    worker: str | None
    lines: list[str]


class ShutdownRequest(Request):
    all: bool = False
