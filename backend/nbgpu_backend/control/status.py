"""The state of an endpoint in words: since when, why, how long it usually takes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from nbgpu_backend.clock import Clock
from nbgpu_backend.control.weights import Weights
from nbgpu_backend.control.worker import WorkerControl
from nbgpu_backend.domain.states import endpoint_state
from nbgpu_backend.schema.common import Reason

if TYPE_CHECKING:
    from nbgpu_backend.control.endpoint import EndpointControl

TYPICAL = 20  # cold starts that "typically" looks at
WORDS = {
    "stopped": "stopped by you; requests are refused",
    "asleep": "no worker runs and nothing is billed; the next request starts one",
    "ready": "a worker is ready and idle",
    "busy": "answering requests",
    "starting": "starting a worker",
    "draining": "its worker is ending",
    "unreachable": "its worker's host is not heard",
}


class Status:
    """Follows one endpoint. `note` is called whenever something changed, so that `since` is exact."""

    def __init__(self, control: EndpointControl, clock: Clock) -> None:
        self._control = control
        self._clock = clock
        self._shown = ""
        self._since_us = clock.now()

    def state(self) -> str:
        control = self._control
        return endpoint_state(
            stopped=control.record.stopped,
            failed=control.record.failure is not None or self._lacking() is not None,
            fetching=(shown := control.stock.shown) is not None and not shown.here,
            throttled=control.throttled is not None,
            workers=control.worker_states(),
        )

    def _lacking(self) -> Weights | None:
        """What does not come."""
        shown = self._control.stock.shown
        return shown if shown is not None and shown.error is not None else None

    def note(self) -> str:
        """The state; when it changes, the instant is kept."""
        if (state := self.state()) != self._shown:
            self._shown, self._since_us = state, self._clock.now()
        return state

    def reason(self) -> Reason:
        state, control = self.note(), self._control
        if control.record.failure is not None and state == "failed":
            return Reason(**control.record.failure)
        if (lacking := self._lacking()) is not None and state == "failed":
            return lacking.reason(self._since_us)
        if state == "throttled" and control.throttled is not None:
            return control.throttled
        starting = self.starting()
        if state == "starting" and starting is not None:
            typical = self.typical_cold_start_s(self.tier_of(starting))
            usual = f", usually {typical:.0f} s" if typical else ""
            text = f"starting a worker: {starting.timer.current} ({starting.age():.0f} s{usual})"
            return Reason(code="starting", text=text, since_us=starting.reason.since_us)
        text, shown = WORDS.get(state, state), control.stock.shown
        if state == "fetching" and shown is not None:
            text = shown.words()
        if state == "asleep" and control.parked_workers():
            text = "an engine is parked and nothing is billed; the next request wakes it"
        return Reason(code=state, text=text, since_us=self._since_us)

    def progress(self, cost: str) -> dict[str, Any]:
        """What a waiting request waits for."""
        reason, starting = self.reason(), self.starting()
        waited = max(0, self._clock.now() - reason.since_us) / 1e6
        waking = self._shown == "asleep"  # the request came in this very turn
        return {
            "state": "starting" if waking else self._shown,
            "text": WORDS["starting"] if waking else reason.text,
            "phase": starting.timer.current if starting else None,
            "elapsed_s": 0.0 if waking else round(starting.age() if starting else waited, 1),
            "typical_s": self.typical_cold_start_s(self.tier_of(starting) if starting else None),
            "cost": cost,
        }

    def starting(self) -> WorkerControl | None:
        workers: Sequence[WorkerControl] = self._control.live_workers()
        return next((w for w in workers if w.state in ("initializing", "starting")), None)

    @staticmethod
    def tier_of(worker: WorkerControl) -> str:
        return "parked" if worker.reason.code == "resumed" else worker.record.tier

    def typical_cold_start_s(self, tier: str | None = None) -> float | None:
        """The median of the last ones, of this tier where there were such."""
        recent = self._control.cold_starts
        if same := [start for start in recent if start[0] == tier]:
            recent = same
        seconds = [seconds for _, seconds in recent[-TYPICAL:]]
        return round(median(seconds), 2 if median(seconds) < 1 else 1) if seconds else None
