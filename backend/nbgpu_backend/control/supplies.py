"""What must be on the disk before a worker starts, and how it comes there: one class a kind.

A supply brings; when to begin, and what becomes of the end, is for weights.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from nbgpu_backend.control.records import ModelRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.engines.handler.builder import Builder
from nbgpu_backend.hub.fetcher import Fetcher, FetchPlan, FetchProgress
from nbgpu_backend.hub.library import HubModel
from nbgpu_backend.schema.endpoints import Fetch

What = Literal["weights", "environment"]
Note = Callable[[Fetch], None]


class Supply(Protocol):
    what: What

    def here(self, model: ModelRecord) -> bool:
        """What is recorded as brought: is it there still? Looks at the disk, in far under 1 ms."""
        ...

    async def bring(self, model: ModelRecord, plan: FetchPlan | None, note: Note) -> str:
        """Returns `model.path` as it is then. Raises NbgpuError; cancelling stops it at once."""
        ...

    def doing(self, fetch: Fetch) -> str:
        """What is under way, in words."""
        ...

    def done(self, name: str, model: ModelRecord) -> str:
        """The sentence of the event that all is here, for the endpoint `name`."""
        ...


class HubWeights:
    """Weights of the hub. Those in a folder are always here."""

    what: What = "weights"

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def here(self, model: ModelRecord) -> bool:
        return True

    async def bring(self, model: ModelRecord, plan: FetchPlan | None, note: Note) -> str:
        if plan is None:  # a restart came in between: the commit is recorded
            repo = model.ref.removeprefix("hub:").split("@")[0]
            plan = await self._fetcher.plan(HubModel(repo, model.revision or "main"))

        def moved(progress: FetchProgress) -> None:
            note(
                Fetch(
                    state="running",
                    bytes_done=progress.bytes_done,
                    bytes_total=progress.bytes_total,
                    seconds_left=progress.seconds_left,
                )
            )

        return str(await self._fetcher.fetch(plan, moved))

    def doing(self, fetch: Fetch) -> str:
        if not fetch.bytes_done:
            return "fetching the weights"
        left = f", {fetch.seconds_left:.0f} s left" if fetch.seconds_left else ""
        return f"fetching the weights: {fetch.bytes_done / 1e6:.0f} of {fetch.bytes_total / 1e6:.0f} MB{left}"

    def done(self, name: str, model: ModelRecord) -> str:
        return f"The weights of {name} are here ({model.bytes / 1e6:.0f} MB)"


class HandlerEnvironment:
    """The environment of a handler, as the requirements beside it read when it is looked for."""

    what: What = "environment"

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def here(self, model: ModelRecord) -> bool:
        return model.path is not None and self._builder.ready(Path(model.path))

    async def bring(self, model: ModelRecord, plan: FetchPlan | None, note: Note) -> str:
        assert model.path is not None

        def moved(text: str) -> None:
            note(Fetch(state="running", what="environment", text=text))

        await self._builder.build(Path(model.path), moved)
        return model.path

    def doing(self, fetch: Fetch) -> str:
        return "installing the environment" + (f": {fetch.text}" if fetch.text else "")

    def done(self, name: str, model: ModelRecord) -> str:
        return f"The environment of {name} is installed"


def supply_of(model: ModelRecord, services: Services) -> Supply:
    if model.source == "handler":
        return HandlerEnvironment(services.builder)
    return HubWeights(services.fetcher)
