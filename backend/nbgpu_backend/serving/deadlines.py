"""When jobs time out, and when it is time to look again: one timer of the event loop for a whole board."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping
from itertools import count

from nbgpu_backend.clock import Clock
from nbgpu_backend.serving.job import Job

SLACK = 64  # entries of jobs that are due at another time, before they are swept out


class Deadlines:
    """`on_due(job, now)` is called for each live job that has no end at its time, `look(now)` after that."""

    def __init__(
        self,
        clock: Clock,
        live: Mapping[str, Job],
        on_due: Callable[[Job, float], None],
        look: Callable[[float], None],
    ) -> None:
        self._clock = clock
        self._live = live
        self._on_due = on_due
        self._look = look
        self._due: list[tuple[float, int, Job]] = []
        self._sequence = count()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, job: Job) -> None:
        """Its `due()` is another one now."""
        heapq.heappush(self._due, (job.due(), next(self._sequence), job))
        if len(self._due) > 2 * len(self._live) + SLACK:
            self._due = [(j.due(), next(self._sequence), j) for j in self._live.values()]
            heapq.heapify(self._due)
        self.arm(self._due[0][0])

    def arm(self, when: float) -> None:
        """Look at this instant of `elapsed`, or sooner."""
        now = self._clock.elapsed()
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, when - now)
        if self._timer is not None and not self._timer.cancelled():
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock.elapsed()
        while self._due and self._due[0][0] <= now:
            _, _, job = heapq.heappop(self._due)
            if job.id not in self._live or job.settling is not None:
                continue
            if (due := job.due()) > now:
                heapq.heappush(self._due, (due, next(self._sequence), job))
            else:
                self._on_due(job, now)
        self._look(now)
        if self._due:
            self.arm(self._due[0][0])

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
