"""Where the gateway's records go: the telemetry writer, the endpoint's count, and its pulse."""

from __future__ import annotations

from collections.abc import Callable

from nbgpu_backend.control.endpoint import EndpointControl
from nbgpu_backend.serving.target import Record
from nbgpu_backend.telemetry.pulse import Pulse
from nbgpu_backend.telemetry.recorder import Recorder


class RecordSink:
    """Implements serving.target.Sink."""

    def __init__(
        self,
        by_id: Callable[[str], EndpointControl | None],
        recorder: Recorder,
        pulse: Pulse,
    ) -> None:
        self._by_id = by_id
        self._recorder = recorder
        self._pulse = pulse

    def request(self, record: Record) -> None:
        if (control := self._by_id(record.endpoint_id)) is not None:
            control.requests_total += 1
            control.requests_answered += record.status < 400
            self._pulse.request(record.endpoint_id, record.status, record.total_s * 1000)
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
            }
        )


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
