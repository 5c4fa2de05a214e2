"""The places where things run: this machine, and the hosts that were added. Each has a provider, and a table of
its memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nbgpu_backend.clock import Clock
from nbgpu_backend.control.memory import MemoryKeeper
from nbgpu_backend.domain.names import did_you_mean
from nbgpu_backend.errors import NotFound
from nbgpu_backend.providers.base import InstanceHost, ParentHost, PodHost

LOCAL = "local"


@dataclass(slots=True)
class Site:
    """`pods` is what `host` has for pods."""

    name: str
    host: InstanceHost
    memory: MemoryKeeper

    @property
    def pods(self) -> PodHost:
        assert self.host.pods is not None  # every provider that there is can run pods
        return self.host.pods


class Sites:
    """`make(name)` gives the provider of a host."""

    def __init__(self, clock: Clock, make: Callable[[str], InstanceHost]) -> None:
        self._clock = clock
        self._make = make
        self._sites: dict[str, Site] = {}

    def set_local(self, host: InstanceHost, memory: MemoryKeeper) -> None:
        self._sites[LOCAL] = Site(LOCAL, host, memory)

    def add(self, name: str, parents: ParentHost | None = None) -> Site:
        """A host, which may be unreachable just now."""
        host = self._make(name)
        self._sites[name] = Site(name, host, MemoryKeeper(host, self._clock, parents))
        return self._sites[name]

    def remove(self, name: str) -> None:
        self._sites.pop(name, None)

    def all(self) -> list[Site]:
        return list(self._sites.values())

    def names(self) -> list[str]:
        return list(self._sites)

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
