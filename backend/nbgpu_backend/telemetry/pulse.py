"""The figures of the last minutes, kept in memory, and the beats that tell who watches to look again.

Fed with every request that ends. A restarted backend reads the last minutes back once; nothing here
asks the database again. Beats are not stored: at most one in BEAT_S goes to each listener, the first
one at once, and where nothing moves there is none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

from sqlalchemy import select

from nbgpu_backend.clock import Clock
from nbgpu_backend.schema.events import Beat
from nbgpu_backend.store.database import Database
from nbgpu_backend.store.tables import requests

BEAT_S = 0.2
BUCKET_S = 5.0
BUCKETS = 60  # of a sparkline: 5 minutes
RATE_BUCKETS = 12  # a minute
LATENCY_S = 900.0
LATENCIES = 1000  # the newest ones stand for a busy quarter of an hour
RELOAD = 20_000  # requests that a restarted backend reads back

Kind = Literal["requests", "state"]
Listener = Callable[[Beat], None]
Ended = tuple[str, int, float, float]  # endpoint id, status, total in ms, seconds ago


class Vitals:
    """Of one endpoint. `clock` gives the seconds that `add` counts in."""

    __slots__ = ("_bucket", "_clock", "_counts", "_latencies", "_quantiles")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._bucket = 0  # the newest one's number since the clock began
        self._counts = [0] * BUCKETS  # bucket n at n % BUCKETS
        self._latencies: deque[tuple[float, float]] = deque(maxlen=LATENCIES)
        self._quantiles: tuple[float | None, float | None] | None = (None, None)

    def add(self, status: int, total_ms: float, ago_s: float = 0.0) -> None:
        """A request that ended `ago_s` seconds ago; those of a reload come in the order of time."""
        self._turn()
        at = self._clock.elapsed() - ago_s
        if self._bucket - (bucket := int(at // BUCKET_S)) < BUCKETS:
            self._counts[bucket % BUCKETS] += 1
        if status == 200:
            self._latencies.append((at, total_ms))
            self._quantiles = None

    def spark(self) -> list[int]:
        """Requests per BUCKET_S, oldest first; the last one is still being filled."""
        self._turn()
        first = (self._bucket + 1) % BUCKETS
        return self._counts[first:] + self._counts[:first]

    def per_second(self) -> float:
        return round(sum(self.spark()[-RATE_BUCKETS:]) / (RATE_BUCKETS * BUCKET_S), 3)

    def quantiles_ms(self) -> tuple[float | None, float | None]:
        """p50 and p95 of the answered requests' total times."""
        oldest = self._clock.elapsed() - LATENCY_S
        while self._latencies and self._latencies[0][0] < oldest:
            self._latencies.popleft()
            self._quantiles = None
        if self._quantiles is None:
            ordered = sorted(ms for _, ms in self._latencies)
            self._quantiles = (_quantile(ordered, 50), _quantile(ordered, 95))
        return self._quantiles

    def _turn(self) -> None:
        """Empty the buckets that time has reached since the last call."""
        now = int(self._clock.elapsed() // BUCKET_S)
        for bucket in range(max(self._bucket + 1, now - BUCKETS + 1), now + 1):
            self._counts[bucket % BUCKETS] = 0
        self._bucket = now


class Pulse:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._vitals: dict[str, Vitals] = {}
        self._listeners: list[Listener] = []
        self._moved: dict[Kind, set[str]] = {}
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def vitals(self, endpoint_id: str) -> Vitals:
        if (found := self._vitals.get(endpoint_id)) is None:
            found = self._vitals[endpoint_id] = Vitals(self._clock)
        return found

    def request(self, endpoint_id: str, status: int, total_ms: float) -> None:
        """A request has ended."""
        self.vitals(endpoint_id).add(status, total_ms)
        self.touch(endpoint_id, "requests")

    def load(self, ended: Iterable[Ended]) -> None:
        for endpoint_id, status, total_ms, ago_s in ended:
            self.vitals(endpoint_id).add(status, total_ms, ago_s)

    def forget(self, endpoint_id: str) -> None:
        self._vitals.pop(endpoint_id, None)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every beat; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def touch(self, endpoint_id: str, kind: Kind = "state") -> None:
        """Something that is shown of this endpoint has moved."""
        if not self._listeners:
            return
        self._moved.setdefault(kind, set()).add(endpoint_id)
        if self._timer is None:
            wait = self._not_before - self._clock.elapsed()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wait), self._beat)

    def _beat(self) -> None:
        self._timer = None
        self._not_before = self._clock.elapsed() + BEAT_S
        moved, self._moved = self._moved, {}
        for kind, ids in moved.items():
            beat = Beat(kind=kind, endpoint_ids=sorted(ids))
            for listener in list(self._listeners):
                listener(beat)


async def recent_requests(database: Database, now_us: int) -> list[Ended]:
    """The requests that count for the figures, in the order of their end."""
    ended = requests.c.arrived_us + requests.c.total_us
    query = (
        select(requests.c.endpoint_id, requests.c.status, requests.c.total_us, ended)
        .where(requests.c.arrived_us >= now_us - int(LATENCY_S * 1e6))
        .order_by(requests.c.arrived_us.desc())
        .limit(RELOAD)
    )
    rows = await database.read(lambda c: c.execute(query).all())
    found = [(e, s, us / 1000, max(0.0, (now_us - at) / 1e6)) for e, s, us, at in rows]
    return sorted(found, key=lambda row: -row[3])


def _quantile(ordered: list[float], percent: int) -> float | None:
    """The smallest value that `percent` of them do not exceed."""
    if not ordered:
        return None
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 3)
