"""One table of who holds the memory of a machine, and what has to go so that one more fits. Pure.

Bytes in, a verdict with its sums out. What a holder has not taken yet is set aside; what it has taken is
missing from what the machine has available. A floor is kept for everybody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

GB = 1_000_000_000
Kind = Literal["worker", "pod", "parent", "parked"]
EVICTION = ("parked", "parent")  # in this order, and the longest unused first among equals


@dataclass(slots=True)
class Holding:
    """`held` is what it was last measured to hold (PSS); None until then. `taken`: it is ready, and
    takes no more. `busy`: a parent that is forking, or is waited for."""

    holder: str
    kind: Kind
    reserved: int
    used_at: float  # last
    held: int | None = None
    taken: bool = False
    busy: bool = False

    @property
    def size(self) -> int:
        return self.reserved if self.held is None else self.held

    @property
    def pending(self) -> int:
        return 0 if self.taken else max(0, self.reserved - (self.held or 0))


@dataclass(frozen=True, slots=True)
class Verdict:
    """`evict`: holders that have to end first. `ever`: it would fit if all of ours had ended."""

    fits: bool
    ever: bool
    needed: int
    available: int
    text: str
    evict: tuple[str, ...] = ()


@dataclass(slots=True)
class Reservations:
    floor: int = 0
    table: dict[str, Holding] = field(default_factory=dict)

    def reserve(self, holder: str, needed: int, *, kind: Kind = "worker", now: float = 0.0) -> None:
        self.table[holder] = Holding(holder, kind, needed, now)

    def taken(self, holder: str) -> None:
        """It is ready: what it takes is missing from what the machine has available."""
        if found := self.table.get(holder):
            found.taken = True

    def measured(self, holder: str, held: int) -> None:
        if found := self.table.get(holder):
            found.held = held

    def parked(self, holder: str, on: bool, now: float) -> None:
        if found := self.table.get(holder):
            found.kind = "parked" if on else "worker"
            found.used_at = now

    def used(self, holder: str, now: float, *, busy: bool = False) -> None:
        if found := self.table.get(holder):
            found.used_at, found.busy = now, busy

    def release(self, holder: str) -> None:
        self.table.pop(holder, None)

    def admit(self, *, needed: int, available: int) -> Verdict:
        """`available`: what the machine could give a new process now."""
        free = max(0, available - self.floor - sum(h.pending for h in self.table.values()))
        ours = sum(h.size for h in self.table.values() if h.taken or h.held)
        text = f"it needs {needed / GB:.1f} GB and {free / GB:.1f} GB are available"
        if parts := self._sums():
            text += f" ({parts})"
        ever = needed <= free + ours + sum(h.pending for h in self.table.values())
        evict = self.evict(needed - free)
        return Verdict(evict is not None, ever, needed, free, text, evict or ())

    def evict(self, lacking: int) -> tuple[str, ...] | None:
        """The shortest row of holders, in the order of eviction, that frees so many bytes; None if all
        of them do not."""
        chosen: list[str] = []
        for holding in self._evictable():
            if lacking <= 0:
                break
            chosen.append(holding.holder)
            lacking -= holding.size
        return tuple(chosen) if lacking <= 0 else None

    def relieve(self, available: int) -> tuple[str, ...]:
        """Who goes because others have taken what was free: as many as bring it above the floor again."""
        if available >= self.floor:
            return ()
        found = self.evict(self.floor - available)
        return tuple(h.holder for h in self._evictable()) if found is None else found

    def _evictable(self) -> Sequence[Holding]:
        idle = [h for h in self.table.values() if h.kind in EVICTION and not h.busy]
        return sorted(idle, key=lambda h: (EVICTION.index(h.kind), h.used_at, h.holder))

    def _sums(self) -> str:
        """Who holds what, as in: 2 workers 3.1 GB, 1 parked 1.0 GB."""
        parts = []
        for kind, word in (
            ("worker", "workers"),
            ("pod", "pods"),
            ("parked", "parked"),
            ("parent", "pre-imported"),
        ):
            sizes = [h.size for h in self.table.values() if h.kind == kind]
            if sizes:
                word = word if len(sizes) > 1 or not word.endswith("s") else word[:-1]
                parts.append(f"{len(sizes)} {word} {sum(sizes) / GB:.1f} GB")
        return ", ".join(parts)
