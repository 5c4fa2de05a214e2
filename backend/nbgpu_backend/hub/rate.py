"""A smoothed rate. Pure: time comes as an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Rate:
    """Bytes a second as an exponential average over about `window_s` seconds."""

    window_s: float = 8.0
    per_s: float = 0.0
    _done: int | None = None
    _at: float = 0.0

    def update(self, done: int, now: float) -> None:
        """`done` bytes are there at `now` (seconds). What is there at the first call is no rate."""
        if self._done is None:
            self._done, self._at = done, now
            return
        passed = now - self._at
        if passed <= 0:
            return
        measured = max(0, done - self._done) / passed
        weight = 1.0 if self.per_s == 0.0 else 1 - math.exp(-passed / self.window_s)
        self.per_s += weight * (measured - self.per_s)
        self._done, self._at = done, now

    def seconds_left(self, left: int) -> float | None:
        """None while nothing is known (or nothing moves)."""
        if left <= 0:
            return 0.0
        return left / self.per_s if self.per_s > 1 else None
