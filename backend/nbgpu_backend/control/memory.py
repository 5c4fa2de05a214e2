"""The memory of one place: who holds it, who has to go so that one more fits, and who is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from nbgpu_backend.clock import Clock
from nbgpu_backend.domain.memory import Reservations, Verdict
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.providers.base import ParentSeen, WorkerHost

FLOOR = 512 << 20  # bytes that are left to everybody else
MEASURE_S = 10.0
PARENT = "parent-"  # the holder of a pre-imported parent is this and its key

Evict = Callable[[str], None]  # is given for what


class MemoryKeeper:
    """`evict` of a holder ends it; `wait` asks to be called once when something was freed."""

    def __init__(
        self,
        provider: WorkerHost,
        clock: Clock,
        floor: int = FLOOR,
    ) -> None:
        self.table = Reservations(floor)
        self.parents: list[ParentSeen] = []
        self._provider = provider
        self._clock = clock
        self._evict: dict[str, Evict] = {}
        self._names: dict[str, str] = {}  # holder -> the provider's name of its instance
        self._waiting: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, needed: int, whom: str) -> Verdict:
        """Whether so many bytes more fit now. Where something has to go first, it is told to go, and
        the verdict names it."""
        verdict = self.table.admit(needed=needed, available=self._provider.available_memory())
        for holder in verdict.evict:
            self._end(holder, f"its memory is needed by {whom}")
        return verdict

    def reserve(self, holder: str, name: str, needed: int, evict: Evict) -> None:
        self._names[holder], self._evict[holder] = name, evict
        self.table.reserve(holder, needed, now=self._clock.elapsed())

    def reserve_pod(self, holder: str, needed: int) -> None:
        """It is never evicted, and its agent tells what it holds."""
        self.table.reserve(holder, needed, kind="pod", now=self._clock.elapsed())

    def parked(self, holder: str, on: bool) -> None:
        self.table.parked(holder, on, self._clock.elapsed())

    def release(self, holder: str) -> None:
        self._names.pop(holder, None)
        self._evict.pop(holder, None)
        self.table.release(holder)
        waiting, self._waiting = self._waiting, []
        for tell in waiting:
            tell()

    def wait(self, tell: Callable[[], None]) -> None:
        if tell not in self._waiting:
            self._waiting.append(tell)

    def parent_used(self, key: str, needed: int, *, busy: bool) -> None:
        """A worker is being forked from it; it may have to start first."""
        holder, now = PARENT + key, self._clock.elapsed()
        if holder not in self.table.table:
            self.table.reserve(holder, needed, kind="parent", now=now)
        self.table.used(holder, now, busy=busy)

    def has_parent(self, key: str) -> bool:
        return PARENT + key in self.table.table

    def spare(self, needed: int) -> bool:
        """Is so much free without anybody's going?"""
        verdict = self.table.admit(needed=needed, available=self._provider.available_memory())
        return verdict.fits and not verdict.evict

    def room(self) -> bool:
        """Is there enough left to keep what is idle?"""
        return self._provider.available_memory() >= self.table.floor

    async def measure(self) -> None:
        """What each holds now; who goes where others have taken what was free."""
        with contextlib.suppress(NbgpuError):
            held = await self._provider.memory(list(self._names.values()))
            for holder, name in self._names.items():
                if size := held.get(name):
                    self.table.measured(holder, size)
            self._see(await self._provider.parents())
        for holder in self.table.relieve(self._provider.available_memory()):
            self._end(holder, "this machine's memory runs short")

    def _see(self, parents: Sequence[ParentSeen]) -> None:
        self.parents = list(parents)
        seen = {PARENT + parent.key: parent for parent in parents}
        for holder, parent in seen.items():
            if holder not in self.table.table:
                used = self._clock.elapsed() - parent.idle_s
                self.table.reserve(holder, parent.pss, kind="parent", now=used)
            self.table.measured(holder, parent.pss)
            if parent.ready:
                self.table.taken(holder)
        for holding in list(self.table.table.values()):
            if holding.kind == "parent" and not holding.busy and holding.holder not in seen:
                self.release(holding.holder)

    def _end(self, holder: str, why: str) -> None:
        if (evict := self._evict.get(holder)) is not None:
            evict(why)
        elif holder.startswith(PARENT):
            task = asyncio.create_task(self._stop_parent(holder))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _stop_parent(self, holder: str) -> None:
        with contextlib.suppress(NbgpuError):
            await self._provider.stop_parent(holder.removeprefix(PARENT))
        self.release(holder)
