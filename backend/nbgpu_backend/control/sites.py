"""The places where things run: this machine, and the hosts that were added. Each has a provider, a table of
its memory, and one of its GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from nbgpu_backend.clock import Clock
from nbgpu_backend.control.gpus import GpuKeeper
from nbgpu_backend.control.memory import MemoryKeeper
from nbgpu_backend.domain.names import did_you_mean
from nbgpu_backend.domain.placement import ANY, LOCAL
from nbgpu_backend.errors import NotFound
from nbgpu_backend.providers.base import Gpu, PodHost, WorkerHost


@dataclass(slots=True)
class Site:
    """`pods` is what `host` has for pods. `away` says why it is not heard just now; "" while it is."""

    name: str
    host: WorkerHost
    memory: MemoryKeeper
    gpus: GpuKeeper
    away: str = ""
    on_change: Callable[[Site], None] = lambda site: None

    async def look(self) -> str:
        """`away`, as it is now."""
        before, self.away = self.away, await self.host.away()
        if bool(before) != bool(self.away):
            self.on_change(self)
        return self.away

    @property
    def pods(self) -> PodHost:
        assert self.host.pods is not None  # every provider that there is can run pods
        return self.host.pods


class Sites:
    """`make(name)` gives the provider of a host."""

    def __init__(self, clock: Clock, make: Callable[[str], WorkerHost]) -> None:
        self._clock = clock
        self._make = make
        self._sites: dict[str, Site] = {}
        self.on_change: Callable[[Site], None] = lambda site: None  # it is heard, or no longer

    def set_local(self, host: WorkerHost, memory: MemoryKeeper) -> None:
        self._sites[LOCAL] = Site(LOCAL, host, memory, self._gpus(host))

    def add(self, name: str) -> Site:
        """A host, which may be unreachable just now."""
        host = self._make(name)
        memory = MemoryKeeper(host, self._clock)
        site = Site(
            name, host, memory, self._gpus(host), on_change=lambda site: self.on_change(site)
        )
        self._sites[name] = site
        return site

    def _gpus(self, host: WorkerHost) -> GpuKeeper:
        async def look() -> Sequence[Gpu]:
            return await host.pods.gpus() if host.pods is not None else ()

        return GpuKeeper(look, self._clock.elapsed)

    def remove(self, name: str) -> None:
        self._sites.pop(name, None)

    def all(self) -> list[Site]:
        return list(self._sites.values())

    def names(self) -> list[str]:
        return list(self._sites)

    def order(self, on: str, per_hour: Callable[[str], Decimal]) -> list[str]:
        """The places that `--on` names, separated by commas; `any` stands for all, the cheapest first."""
        names: list[str] = []
        for name in (part.strip() for part in on.split(",")):
            rest = sorted(self._sites, key=lambda n: (per_hour(n), n != LOCAL, n))
            names += rest if name.lower() == ANY else [name]
        return list(dict.fromkeys(name for name in names if name))

    def find(self, name: str) -> Site | None:
        return self._sites.get(name)

    def get(self, name: str) -> Site:
        """Raises NotFound."""
        if (found := self._sites.get(name)) is not None:
            return found
        raise NotFound(
            f"There is no place '{name}'.",
            did_you_mean(name, self._sites)
            or f"This machine is --on local; a server of yours: nbgpu host add {name} user@address",
            code="no_place",
        )
