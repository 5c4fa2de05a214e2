"""What one endpoint needs, at each of its places."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from nbgpu_backend.control.records import EndpointRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.supplies import HostSupply, supply_at
from nbgpu_backend.control.weights import Weights
from nbgpu_backend.domain.placement import LOCAL
from nbgpu_backend.domain.supplies import Need, Premises
from nbgpu_backend.engines.handler import requirements
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.hub.fetcher import FetchPlan


class Stock:
    """One Weights a place, made when it is first asked for.

    `arrived` and `failed` are awaited when something has come, or will not; `moved` is called between.
    """

    def __init__(
        self,
        record: EndpointRecord,
        services: Services,
        release: str,
        arrived: Callable[[Weights], Awaitable[None]],
        failed: Callable[[Weights, NbgpuError], Awaitable[None]],
        moved: Callable[[], None],
    ) -> None:
        self._record = record
        self._services = services
        self._release = release  # of the engine
        self._arrived = arrived
        self._failed = failed
        self._moved = moved
        self._by_place: dict[str, Weights] = {}

    def places(self) -> list[str]:
        """In the order in which they were asked for; those that are no longer known are left out."""
        services = self._services
        named = services.sites.order(
            self._record.spec.nbgpu.place.on, lambda place: services.rate(place).per_hour
        )
        return [name for name in named if services.sites.find(name) is not None]

    def at(self, place: str) -> Weights:
        """Raises NotFound for what is no place any more."""
        if place not in self._by_place:
            self._by_place[place] = self._made(place)
        return self._by_place[place]

    def premises(self, place: str) -> Premises | None:
        """What an engine finds there; None on this machine."""
        supply = self.at(place).supply
        return supply.premises if isinstance(supply, HostSupply) else None

    @property
    def shown(self) -> Weights | None:
        """What one waits for: of the first place that has all, else of the first one. None: there is no
        place left."""
        here = [self.at(place) for place in self.places()]
        return next((weights for weights in here if weights.here), here[0] if here else None)

    def start(self, plan: FetchPlan | None = None) -> None:
        """Ahead of the first worker, at the place where it would go."""
        if places := self.places():
            weights = self.at(places[0])
            if plan is not None:
                weights.planned(plan)
            weights.start()

    def _made(self, place: str) -> Weights:
        record, services = self._record, self._services
        site = services.sites.get(place)
        supply = supply_at(site, record.model, need(record, self._release), services)
        model = record.model if place == LOCAL else replace(record.model, fetched=False)
        weights: Weights
        weights = Weights(
            model,
            supply,
            lambda: self._arrived(weights),
            lambda error: self._failed(weights, error),
            self._moved,
        )
        return weights

    async def replace(self) -> None:
        """The endpoint has another model, or other places: what was on its way is no longer wanted."""
        await self.close()
        self._by_place.clear()

    async def close(self) -> None:
        """Stop; what has come stays."""
        for weights in self._by_place.values():
            await weights.close()


def need(record: EndpointRecord, release: str) -> Need:
    """What a worker of it needs on another host. Raises BadRequest (a handler's requirements)."""
    spec, model = record.spec, record.model
    engine, folder = spec.nbgpu.engine, Path(spec.nbgpu.cwd) if spec.nbgpu.cwd else None
    if engine.name == "command":
        return Need("command", release, folder=_program_folder(engine.options, folder))
    if model.source == "hub":
        repo = model.ref.removeprefix("hub:").split("@")[0]
        return Need(engine.name, release, "hub", repo=repo, commit=model.revision or "main")
    path = Path(model.path or "")
    if model.source == "handler":
        wanted = requirements.read(path.parent)
        return Need(
            "handler", release, "handler", folder=path.parent, name=path.name,
            commit=model.revision or "",
            requirements=tuple(wanted.lines), constraints=tuple(wanted.constraints),
        )  # fmt: skip
    return Need(engine.name, release, "directory", folder=path)


def _program_folder(options: list[str], folder: Path | None) -> Path | None:
    """The folder, if the command line names a file in it: then it goes along."""
    if folder is None:
        return None
    named = [word for word in options if not word.startswith(("-", "/"))]
    return folder if any((folder / word).is_file() for word in named) else None
