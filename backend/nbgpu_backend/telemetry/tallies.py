"""What Prometheus is told of requests and cold starts, counted as they end.

Plain numbers by endpoint: a request costs them about a microsecond, where the metrics of Prometheus's
library take ten. Its words and types come at a scrape (`control.exposition`). They start at nothing with
each backend, as Prometheus expects of counters.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

# upper bounds in seconds, inclusive
DURATION_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
QUEUE_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
COLD_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)

FAMILIES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/run": "job",
    "/runsync": "job",
    "/retry": "job",
}
OTHER = "other"


def family(route: str) -> str:
    """One of a few words: a client may ask for any route."""
    return FAMILIES.get(route, OTHER)


def status_class(status: int) -> str:
    """`2xx`; what ended without a status is a fault of ours."""
    return f"{status // 100}xx" if 100 <= status < 600 else "5xx"


class Spread:
    """How values are spread over `bounds`; one more count is for what lies above the last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Route:
    """Of one family of routes. All requests have a duration, those that got a worker a time in the queue."""

    __slots__ = ("by_class", "duration", "first_byte", "queue")

    def __init__(self) -> None:
        self.by_class: Counter[str] = Counter()
        self.duration = Spread(DURATION_S)
        self.queue = Spread(QUEUE_S)
        self.first_byte = Spread(DURATION_S)


class Tally:
    """Of one endpoint."""

    __slots__ = ("cold", "routes", "tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.cold: dict[str, Spread] = {}  # by tier
        self.tokens_in = self.tokens_out = 0

    def route(self, name: str) -> Route:
        if (found := self.routes.get(name)) is None:
            found = self.routes[name] = Route()
        return found


class Tallies:
    """By the ids of endpoints; callers name only those that there are."""

    def __init__(self) -> None:
        self._by_id: dict[str, Tally] = {}

    def of(self, endpoint_id: str) -> Tally:
        if (found := self._by_id.get(endpoint_id)) is None:
            found = self._by_id[endpoint_id] = Tally()
        return found

    def request(
        self,
        endpoint_id: str,
        route: str,
        status: int,
        total_s: float,
        queue_s: float | None,
        first_byte_s: float | None,
        tokens_in: int | None,
        tokens_out: int | None,
    ) -> None:
        tally = self.of(endpoint_id)
        found = tally.route(FAMILIES.get(route, OTHER))
        found.by_class[status_class(status)] += 1
        found.duration.add(total_s)
        if queue_s is not None:
            found.queue.add(queue_s)
        if first_byte_s is not None:
            found.first_byte.add(first_byte_s)
        tally.tokens_in += tokens_in or 0
        tally.tokens_out += tokens_out or 0

    def refused(self, endpoint_id: str, route: str, status: int) -> None:
        """A request that was not admitted: it has no times."""
        self.of(endpoint_id).route(family(route)).by_class[status_class(status)] += 1

    def cold_start(self, endpoint_id: str, tier: str, seconds: float) -> None:
        cold = self.of(endpoint_id).cold
        if (found := cold.get(tier)) is None:
            found = cold[tier] = Spread(COLD_S)
        found.add(seconds)

    def forget(self, endpoint_id: str) -> None:
        self._by_id.pop(endpoint_id, None)
