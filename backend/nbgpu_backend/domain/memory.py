"""Does one more worker fit? Bytes in, a verdict with its sums out."""

from __future__ import annotations

from dataclasses import dataclass, field

GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Fit:
    """`ever`: it would fit if all that runs here of ours had ended."""

    fits: bool
    ever: bool
    needed: int
    available: int
    text: str


@dataclass(slots=True)
class Reservations:
    """What each worker may take. One that is not ready yet has not taken it: it is set aside."""

    _bytes: dict[str, int] = field(default_factory=dict)
    _pending: set[str] = field(default_factory=set)

    def reserve(self, worker: str, needed: int) -> None:
        self._bytes[worker] = needed
        self._pending.add(worker)

    def taken(self, worker: str) -> None:
        """It is ready: what it takes is missing from what the machine has available."""
        self._pending.discard(worker)

    def release(self, worker: str) -> None:
        self._bytes.pop(worker, None)
        self._pending.discard(worker)

    def fit(self, *, needed: int, available: int) -> Fit:
        """`available`: what the machine could give a new process now."""
        pending = sum(self._bytes[worker] for worker in self._pending)
        free = max(0, available - pending)
        text = f"it needs {needed / GB:.1f} GB (weights, KV cache and engine) and {free / GB:.1f} GB are available"
        ever = needed <= free + sum(self._bytes.values())
        return Fit(needed <= free, ever, needed, free, text)
