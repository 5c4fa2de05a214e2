"""What `/metrics` says. `snapshot` looks at the event loop's objects, some endpoints a turn; `render` puts
that into Prometheus's words in a thread, where a long text delays nobody.

Endpoints are the only names among the labels, and only those that there are; no key is one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbgpu_backend.control.core import Core
from nbgpu_backend.domain.jobs import IN_PROGRESS, IN_QUEUE
from nbgpu_backend.domain.states import WORKER_STATES
from nbgpu_backend.telemetry.tallies import Spread, Tally

if TYPE_CHECKING:
    from prometheus_client.core import Metric

STEP = 20  # endpoints in one turn of the event loop


@dataclass(frozen=True, slots=True)
class EndpointSeen:
    """Dollars as floats, since that is what the format has."""

    name: str
    tally: Tally
    queued: int
    held: int
    workers: Counter[str]
    rate: float
    cost: float
    jobs: dict[str, int]


@dataclass(frozen=True, slots=True)
class Seen:
    endpoints: list[EndpointSeen]
    lag_s: float


async def snapshot(core: Core) -> Seen:
    services, found = core.services, []
    for number, control in enumerate(core.endpoints.all()):
        if number and number % STEP == 0:
            await asyncio.sleep(0)
        if core.endpoints.by_id(control.id) is not control:
            continue  # it was deleted in the meantime
        queue = control.queue.core
        found.append(
            EndpointSeen(
                name=control.name,
                tally=services.tallies.of(control.id).copy(),
                queued=queue.waiting,
                held=queue.in_progress(),
                workers=Counter(control.worker_states()),
                rate=float(services.ledger.rate_now(control.id)),
                cost=float(services.ledger.cost(control.id, services.clock.now())),
                jobs=control.board.health(),
            )
        )
    return Seen(found, core.lag_ms / 1000)


def render(seen: Seen, accept: str) -> tuple[bytes, str]:
    """The text and its content type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    class Collected(Collector):
        def collect(self) -> Iterable[Metric]:
            return families(seen)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def families(seen: Seen) -> Iterator[Metric]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily("nbgpu_" + name, text, labels=labels)

    def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily("nbgpu_" + name, text, labels=labels)

    def histogram(name: str, text: str, *labels: str) -> HistogramMetricFamily:
        return HistogramMetricFamily("nbgpu_" + name, text, labels=labels)

    by_route = ("endpoint", "route")
    requests = counter("requests", "Requests and jobs that ended or were refused.", *by_route, "status")  # fmt: skip
    duration = histogram("request_duration_seconds", "From arrival to end.", *by_route)
    queue = histogram("request_queue_seconds", "Until there was a worker.", *by_route)
    first = histogram("request_first_byte_seconds", "From arrival to the first byte.", *by_route)
    cold = histogram("cold_start_seconds", "From launch, or from waking, to ready.", "endpoint", "tier")  # fmt: skip
    tokens_in = counter("tokens_in", "Tokens of prompts.", "endpoint")
    tokens_out = counter("tokens_out", "Tokens of answers.", "endpoint")
    queued = gauge("queue_length", "Requests and jobs that wait for a worker.", "endpoint")
    held = gauge("requests_held", "Requests and jobs that workers have.", "endpoint")
    workers = gauge("workers", "Workers by state.", "endpoint", "state")
    rate = gauge("rate_dollars_per_hour", "What its workers cost an hour now.", "endpoint")
    cost = counter("cost_dollars", "What it has cost, by the ledger.", "endpoint")
    jobs = gauge("jobs", "Jobs without an end, by state.", "endpoint", "state")
    ended = counter("jobs_ended", "Jobs that ended well or failed, since it was made.", "endpoint", "state")  # fmt: skip
    retried = counter("jobs_retried", "Jobs that were tried again, since it was made.", "endpoint")
    lag = gauge("event_loop_lag_seconds", "The backend's event loop: its worst lag in the last minute.")  # fmt: skip
    for e in seen.endpoints:
        for name, route in sorted(e.tally.routes.items()):
            for status, count in sorted(route.by_class.items()):
                requests.add_metric([e.name, name, status], count)
            _add(duration, [e.name, name], route.duration)
            _add(queue, [e.name, name], route.queue)
            _add(first, [e.name, name], route.first_byte)
        for tier, spread in sorted(e.tally.cold.items()):
            _add(cold, [e.name, tier], spread)
        tokens_in.add_metric([e.name], e.tally.tokens_in)
        tokens_out.add_metric([e.name], e.tally.tokens_out)
        queued.add_metric([e.name], e.queued)
        held.add_metric([e.name], e.held)
        for state in WORKER_STATES:
            if state != "stopped":
                workers.add_metric([e.name, state], e.workers[state])
        rate.add_metric([e.name], e.rate)
        cost.add_metric([e.name], e.cost)
        jobs.add_metric([e.name, IN_QUEUE], e.jobs["inQueue"])
        jobs.add_metric([e.name, IN_PROGRESS], e.jobs["inProgress"])
        for state in ("completed", "failed"):
            ended.add_metric([e.name, state.upper()], e.jobs[state])
        retried.add_metric([e.name], e.jobs["retried"])
    lag.add_metric([], seen.lag_s)
    yield from (requests, duration, queue, first, cold, tokens_in, tokens_out, queued, held)
    yield from (workers, rate, cost, jobs, ended, retried, lag)


def _add(family: object, labels: list[str], spread: Spread) -> None:
    """Buckets are cumulated, as the format has them."""
    from prometheus_client.core import HistogramMetricFamily

    assert isinstance(family, HistogramMetricFamily)
    total, buckets = 0, []
    for bound, count in zip((*spread.bounds, float("inf")), spread.counts, strict=True):
        total += count
        buckets.append((str(float(bound)) if bound != float("inf") else "+Inf", float(total)))
    family.add_metric(labels, buckets=buckets, sum_value=spread.total)
