"""What an endpoint's records say happened when: workers by state, requests waiting and held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from tests.support.backend import BackendProcess

READY = ("idle", "running")
BILLED = ("starting", "idle", "running", "draining", "unhealthy")


@dataclass(frozen=True)
class Timeline:
    """Instants in seconds. `states` maps a worker to its (at, state) in order."""

    records: list[dict[str, Any]]
    states: dict[str, list[tuple[float, str]]]
    slots: int

    @classmethod
    def of(cls, backend: BackendProcess, name: str, requests: int, *, slots: int) -> Self:
        records = backend.records(name, requests)
        table = backend.get(f"/nbgpu/v1/metrics/workers?endpoint={name}")["columns"]
        states: dict[str, list[tuple[float, str]]] = {}
        rows = zip(table["worker_id"], table["at_us"], table["state"], strict=True)
        for worker, at_us, state in rows:
            states.setdefault(worker, []).append((at_us / 1e6, state))
        return cls(records, states, slots)

    def most_up(self) -> int:
        return max(self._count(READY, at) for at in self._instants())

    def most_billed(self) -> int:
        return max(self._count(BILLED, at) for at in self._instants())

    def waits_beside_room(self, *, longer_than_s: float) -> list[tuple[float, list[str]]]:
        """When a request waited though a ready worker had a free slot: (instant, those workers)."""
        found = []
        instants = list(self._instants())
        for begin, end in pairwise(instants):
            middle = (begin + end) / 2
            if end - begin <= longer_than_s or not any(
                self._waits(r, middle) for r in self.records
            ):
                continue
            free = [
                worker for worker in self.states
                if self._state(worker, middle) in READY and self._held(worker, middle) < self.slots
            ]  # fmt: skip
            if free:
                found.append((middle, free))
        return found

    def _instants(self) -> Iterator[float]:
        flips = [at for states in self.states.values() for at, _ in states]
        bounds = [at for r in self.records for at in _bounds(r)]
        yield from sorted({*flips, *bounds})

    def _count(self, states: tuple[str, ...], at: float) -> int:
        return sum(self._state(worker, at) in states for worker in self.states)

    def _state(self, worker: str, at: float) -> str:
        return next((s for when, s in reversed(self.states[worker]) if when <= at), "")

    def _held(self, worker: str, at: float) -> int:
        return sum(
            r["worker_id"] == worker and _bounds(r)[1] <= at < _bounds(r)[2] for r in self.records
        )

    def _waits(self, record: dict[str, Any], at: float) -> bool:
        return _bounds(record)[0] <= at < _bounds(record)[1]


def _bounds(record: dict[str, Any]) -> tuple[float, float, float]:
    """Arrived, assigned, done."""
    arrived = record["arrived_us"] / 1e6
    return arrived, arrived + record["queue_ms"] / 1e3, arrived + record["total_ms"] / 1e3
