"""`/nbgpu/v1/jobs`: jobs of any endpoint, with what happened to them."""

from __future__ import annotations

from typing import Any

from nbgpu_backend.schema.common import Micros, Model


class Moment(Model):
    """A line of a job's timeline."""

    at_us: Micros
    what: str
    text: str


class JobRow(Model):
    id: str
    endpoint: str
    endpoint_id: str
    state: str
    created_us: Micros
    finished_us: Micros | None
    delay_ms: int
    execution_ms: int
    worker_id: str | None
    retried: int
    low_priority: bool
    error: str | None


class JobList(Model):
    jobs: list[JobRow]


class JobDetail(Model):
    job: JobRow
    timeline: list[Moment]
    input: Any = None
    output: Any = None
    shortened: list[str] = []  # which of input and output are too long to be shown whole
    webhook: str | None
    webhook_state: str | None
    log: list[str]  # what its worker wrote while it worked on it
