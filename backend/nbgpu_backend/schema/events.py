"""`/nbgpu/v1/events`: what happened, with a growing `seq`, as server-sent events; between them beats."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nbgpu_backend.schema.common import Micros, Model


class Event(Model):
    """`kind` is `subject.what` (`worker.ready`); `text` says it in words for a person."""

    seq: int
    at_us: Micros
    kind: str
    endpoint_id: str | None
    endpoint: str | None
    worker_id: str | None
    text: str
    values: dict[str, Any] = {}


class EventList(Model):
    events: list[Event]


class Beat(Model):
    """Not stored, and without a `seq`: figures have moved. `requests` have ended, or a `state`, a queue or
    a progress differs from what was last shown."""

    kind: Literal["requests", "state"]
    endpoint_ids: list[str] = Field(description="also of pods; a host by its name")
