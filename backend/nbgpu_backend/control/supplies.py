"""What must be there before a worker starts, and how it comes there: one class a kind.

A supply brings; when to begin, and what becomes of the end, is for weights.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from nbgpu_backend.control.records import ModelRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.sites import Site
from nbgpu_backend.domain.supplies import Need, Premises, Supplying
from nbgpu_backend.engines.handler.builder import Builder
from nbgpu_backend.hub.fetcher import Fetcher, FetchPlan, FetchProgress
from nbgpu_backend.hub.library import HubModel
from nbgpu_backend.providers.ssh.errors import AWAY
from nbgpu_backend.schema.endpoints import Fetch

What = Literal["weights", "environment"]
AGAIN_S = 2.0  # between tries, while a host is not heard
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

    def failed(self, name: str) -> str:
        """Of the event that it does not come; the error's sentence follows after a colon."""
        ...

    def lacking(self, name: str) -> str:
        """To a request that waited for it; the error's sentence follows after a colon."""
        ...

    def failure(self, error: str) -> tuple[str, str]:
        """(code, text) of the state that follows."""
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

    def failed(self, name: str) -> str:
        return f"The weights of {name} could not be fetched"

    def lacking(self, name: str) -> str:
        return f"'{name}' has no weights"

    def failure(self, error: str) -> tuple[str, str]:
        return "weights", f"the weights could not be fetched: {error}".rstrip(".")


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

    def failed(self, name: str) -> str:
        return f"The environment of {name} could not be installed"

    def lacking(self, name: str) -> str:
        return f"'{name}' has no environment to run in"

    def failure(self, error: str) -> tuple[str, str]:
        return "environment", error.rstrip(".")


class HostSupply:
    """All that a worker needs on another host: its engine, and its weights or its code."""

    what: What

    def __init__(self, site: Site, need: Need) -> None:
        assert site.host.supplies is not None
        self._site = site
        self._need = need
        self._there = site.host.supplies
        self.what = "environment" if need.source in ("handler", "command") else "weights"

    @property
    def premises(self) -> Premises | None:
        return self._there.here(self._need)

    def here(self, model: ModelRecord) -> bool:
        return self.premises is not None

    async def bring(self, model: ModelRecord, plan: FetchPlan | None, note: Note) -> str:
        """Goes on for as long as the host is not heard."""

        def moved(now: Supplying) -> None:
            note(
                Fetch(
                    state="running",
                    what=self.what,
                    text=now.text,
                    bytes_done=now.bytes_done,
                    bytes_total=now.bytes_total,
                )
            )

        while True:
            try:
                premises = await self._there.bring(self._need, moved)
                break
            except AWAY as error:
                moved(Supplying(str(error.what).rstrip(".")))
                await asyncio.sleep(AGAIN_S)
        await self._site.memory.measure()  # a worker is about to be placed by it
        return premises.model or ""

    def doing(self, fetch: Fetch) -> str:
        text = fetch.text or "looking for what it needs"
        if fetch.bytes_total:
            text += f": {fetch.bytes_done / 1e6:.0f} of {fetch.bytes_total / 1e6:.0f} MB"
        return f"{text} (on {self._site.name})"

    def done(self, name: str, model: ModelRecord) -> str:
        return f"What {name} needs is on {self._site.name}"

    def failed(self, name: str) -> str:
        return f"What {name} needs could not be brought to {self._site.name}"

    def lacking(self, name: str) -> str:
        return f"'{name}' lacks on {self._site.name} what it needs"

    def failure(self, error: str) -> tuple[str, str]:
        return self.what, f"on {self._site.name}: {error}".rstrip(".")


def supply_at(site: Site, model: ModelRecord, need: Need, services: Services) -> Supply:
    """Of this endpoint at that place."""
    if site.host.supplies is not None:
        return HostSupply(site, need)
    if model.source == "handler":
        return HandlerEnvironment(services.builder)
    return HubWeights(services.fetcher)
