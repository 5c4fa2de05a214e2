"""A start, timed by phase: the engine's own log lines end its phases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nbgpu_backend.engines.base import PhaseMarker


class PhaseTimer:
    """Seconds since the launch come in as `elapsed`; `done` lists (phase, seconds) in order."""

    def __init__(self, markers: Sequence[PhaseMarker]) -> None:
        self._markers = list(markers)
        self.done: list[tuple[str, float]] = []
        self._since = 0.0

    @property
    def current(self) -> str:
        """What it is in now: the next marker's phase, or `api` when only the server is missing."""
        return self._markers[0].phase if self._markers else "api"

    def see(self, lines: Iterable[str], elapsed: float) -> bool:
        """Look for the end of phases in log lines; True if one ended."""
        ended = False
        text = list(lines)
        for i, marker in enumerate(self._markers):
            if any(marker.pattern.search(line) for line in text):
                # a marker that was skipped ended no later than this one
                self._end(marker.phase, elapsed)
                self._markers = self._markers[i + 1 :]
                return self.see(text, elapsed) or True
        return ended

    def end(self, phase: str, elapsed: float) -> None:
        """A phase that no log line tells of has ended."""
        self._end(phase, elapsed)

    def ready(self, elapsed: float) -> None:
        self._end("api", elapsed)
        self._markers = []

    def _end(self, phase: str, elapsed: float) -> None:
        self.done.append((phase, round(elapsed - self._since, 3)))
        self._since = elapsed
