"""`/nbgpu/v1/changes`: what a live view needs after it heard that something changed."""

from __future__ import annotations

from pydantic import Field

from nbgpu_backend.schema.common import Model
from nbgpu_backend.schema.events import Event
from nbgpu_backend.schema.summary import Summary


class Changes(Model):
    """The events after `since`, oldest first, and how things stand now."""

    seq: int = Field(description="of the last event: the next `since`")
    gap: bool = Field(description="events were left out: drop what is shown and show these")
    events: list[Event]
    summary: Summary
