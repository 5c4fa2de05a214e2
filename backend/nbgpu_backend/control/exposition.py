"""What `/metrics` says: the tallies, and how things stand, in Prometheus's words.

The format's library takes some 10 µs a sample, and an endpoint may have hundreds. So the text is made piece
by piece, one family of one endpoint at a time, and the event loop has its turn in between; a thread would
hold it up more, by the interpreter's lock. Endpoints are the only names among the labels, and only those
that there are; no key is one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING

from nbgpu_backend.control.core import Core
from nbgpu_backend.control.endpoint import EndpointControl
from nbgpu_backend.domain.jobs import IN_PROGRESS, IN_QUEUE
from nbgpu_backend.domain.states import WORKER_STATES
from nbgpu_backend.telemetry.tallies import Route, Spread

if TYPE_CHECKING:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )

TURN_S = 0.0005  # the longest stretch of work before the event loop has its turn
OPENMETRICS = "application/openmetrics-text"
EOF = b"# EOF\n"  # of OpenMetrics, once, at the end


async def exposition(core: Core, accept: str) -> tuple[bytes, str]:
    """The text and its content type: Prometheus's own format, or OpenMetrics where that is accepted."""
    await asyncio.to_thread(import_module, "prometheus_client.core")
    text, clock = Text(accept), core.services.clock
    began = clock.elapsed()
    for family in backend_families(core):
        text.add(family)
    for control in core.endpoints.all():
        if core.endpoints.by_id(control.id) is not control:
            continue  # it was deleted in the meantime
        for family in list(endpoint_families(core, control)):
            text.add(family)
            if clock.elapsed() - began >= TURN_S:
                await asyncio.sleep(0)
                began = clock.elapsed()
    return text.whole(), text.content_type


class Text:
    """Families that come in parts are put together: each is there once, with its help and type first."""

    def __init__(self, accept: str) -> None:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder
        from prometheus_client.registry import Collector

        class One(Collector):
            family: Metric

            def collect(self) -> Iterable[Metric]:
                return [self.family]

        self._one = One()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._one)
        # the versions that every scraper knows, whatever others are offered
        encode, self.content_type = choose_encoder(OPENMETRICS if OPENMETRICS in accept else "")
        self._encode: Callable[[CollectorRegistry], bytes] = encode
        self._parts: dict[str, list[bytes]] = {}
        self._end = b""

    def add(self, family: Metric) -> None:
        self._one.family = family
        part = self._encode(self._registry)
        if part.endswith(EOF):
            part, self._end = part.removesuffix(EOF), EOF
        parts = self._parts.setdefault(family.name, [])
        while parts and part.startswith(b"# "):
            part = part.partition(b"\n")[2]
        parts.append(part)

    def whole(self) -> bytes:
        return b"".join(part for parts in self._parts.values() for part in parts) + self._end


def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily("nbgpu_" + name, text, labels=labels)


def counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily("nbgpu_" + name, text, labels=labels)


def histogram(name: str, text: str, *labels: str) -> HistogramMetricFamily:
    from prometheus_client.core import HistogramMetricFamily

    return HistogramMetricFamily("nbgpu_" + name, text, labels=labels)


def backend_families(core: Core) -> Iterator[Metric]:
    lag = gauge("event_loop_lag_seconds", "The backend's event loop: its worst lag in the last minute.")  # fmt: skip
    lag.add_metric([], core.lag_ms / 1000)
    yield lag


def endpoint_families(core: Core, control: EndpointControl) -> Iterator[Metric]:
    """Dollars are floats here, since that is what the format has."""
    services, name = core.services, control.name
    tally, queue, jobs = services.tallies.of(control.id), control.queue.core, control.board.health()
    yield from _request_families(name, tally.routes)
    cold = histogram("cold_start_seconds", "From launch, or from waking, to ready.", "endpoint", "tier")  # fmt: skip
    for tier, spread in tally.cold.items():
        _add(cold, [name, tier], spread)
    yield cold
    for made, value in (
        (counter("tokens_in", "Tokens of prompts.", "endpoint"), tally.tokens_in),
        (counter("tokens_out", "Tokens of answers.", "endpoint"), tally.tokens_out),
        (counter("cost_dollars", "What it has cost, by the ledger.", "endpoint"),
         float(services.ledger.cost(control.id, services.clock.now()))),
        (counter("jobs_retried", "Jobs that were tried again, since it was made.", "endpoint"),
         jobs["retried"]),
    ):  # fmt: skip
        made.add_metric([name], value)
        yield made
    for shown, now in (
        (gauge("queue_length", "Requests and jobs that wait for a worker.", "endpoint"), queue.waiting),
        (gauge("requests_held", "Requests and jobs that workers have.", "endpoint"),
         queue.in_progress()),
        (gauge("rate_dollars_per_hour", "What its workers cost an hour now.", "endpoint"),
         float(services.ledger.rate_now(control.id))),
    ):  # fmt: skip
        shown.add_metric([name], now)
        yield shown
    states = Counter(control.worker_states())
    workers = gauge("workers", "Workers by state.", "endpoint", "state")
    for state in WORKER_STATES:
        if state != "stopped":
            workers.add_metric([name, state], states[state])
    yield workers
    live = gauge("jobs", "Jobs without an end, by state.", "endpoint", "state")
    live.add_metric([name, IN_QUEUE], jobs["inQueue"])
    live.add_metric([name, IN_PROGRESS], jobs["inProgress"])
    yield live
    ended = counter("jobs_ended", "Jobs that ended well or failed, since it was made.", "endpoint", "state")  # fmt: skip
    for state in ("completed", "failed"):
        ended.add_metric([name, state.upper()], jobs[state])
    yield ended


def _request_families(name: str, routes: dict[str, Route]) -> Iterator[Metric]:
    labels = ("endpoint", "route")
    count = counter("requests", "Requests and jobs that ended or were refused.", *labels, "status")
    duration = histogram("request_duration_seconds", "From arrival to end.", *labels)
    queue = histogram("request_queue_seconds", "Until there was a worker.", *labels)
    first = histogram("request_first_byte_seconds", "From arrival to the first byte.", *labels)
    for family, route in routes.items():
        for status, number in route.by_class.items():
            count.add_metric([name, family, status], number)
        _add(duration, [name, family], route.duration)
        _add(queue, [name, family], route.queue)
        _add(first, [name, family], route.first_byte)
    yield from (count, duration, queue, first)


def _add(family: HistogramMetricFamily, labels: list[str], spread: Spread) -> None:
    """Buckets are cumulated, as the format has them."""
    total, buckets = 0, []
    for bound, count in zip((*spread.bounds, None), spread.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound is None else str(float(bound)), float(total)))
    family.add_metric(labels, buckets=buckets, sum_value=spread.total)
