"""Where the gateway's records go: the telemetry writer, the endpoint's count, its pulse and its tally."""

from __future__ import annotations

from collections.abc import Callable

from nbgpu_backend.control.endpoint import EndpointControl
from nbgpu_backend.errors import RateLimited
from nbgpu_backend.serving.target import Record
from nbgpu_backend.telemetry.pulse import Pulse
from nbgpu_backend.telemetry.recorder import Recorder
from nbgpu_backend.telemetry.tallies import Tallies


class RecordSink:
    """Implements serving.target.Sink."""

    def __init__(
        self,
        by_id: Callable[[str], EndpointControl | None],
        recorder: Recorder,
        pulse: Pulse,
        tallies: Tallies,
    ) -> None:
        self._by_id = by_id
        self._recorder = recorder
        self._pulse = pulse
        self._tallies = tallies

    def request(self, record: Record) -> None:
        if (control := self._by_id(record.endpoint_id)) is not None:
            control.requests_total += 1
            control.requests_answered += record.status < 400
            self._pulse.request(record.endpoint_id, record.status, record.total_s * 1000)
            self._tallies.request(
                record.endpoint_id, record.route, record.status, record.total_s,
                record.queue_s if record.worker_id is not None else None,
                record.first_byte_s, record.tokens_in, record.tokens_out,
            )  # fmt: skip
        self._recorder.request(
            {
                "id": record.id,
                "endpoint_id": record.endpoint_id,
                "endpoint": record.endpoint,
                "worker_id": record.worker_id,
                "arrived_us": record.arrived_us,
                "queue_us": _us(record.queue_s),
                "cold": int(record.cold),
                "start_us": _us(record.start_s),
                "phases": {name: _us(seconds) for name, seconds in record.phases.items()},
                "first_byte_us": None if record.first_byte_s is None else _us(record.first_byte_s),
                "total_us": _us(record.total_s),
                "tokens_in": record.tokens_in,
                "tokens_out": record.tokens_out,
                "gaps": record.gaps.sparse(),
                "status": record.status,
                "error": record.error,
                "route": record.route,
                "streamed": int(record.streamed),
                "retries": record.retries,
                "share_us": _us(record.share_s),
                "rate": f"{record.rate:f}",
                "origin": dict(record.origin),
                "tier": record.tier,
                "key": record.key,
                "trace": record.trace,
            }
        )

    def refused(self, endpoint_id: str, route: str) -> None:
        """A key's limit kept it out. It is counted, and leaves no record: a client that does not heed the
        limit would write as many as it likes."""
        if self._by_id(endpoint_id) is not None:
            self._tallies.refused(endpoint_id, route, RateLimited.status)


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
