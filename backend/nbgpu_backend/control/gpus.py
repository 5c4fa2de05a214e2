"""The GPUs of one place: which there are, and which pod or worker has which."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence

from nbgpu_backend.domain import gpus as rules
from nbgpu_backend.domain.placement import Offer
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.providers.base import Gpu

OLD_S = 30.0  # after that the next one who asks has them looked at again

Look = Callable[[], Awaitable[Sequence[Gpu]]]


class GpuKeeper:
    """`look` asks the place. A holder is the id of a pod or of a worker."""

    def __init__(self, look: Look, elapsed: Callable[[], float]) -> None:
        self.cards: tuple[Gpu, ...] = ()  # as last seen
        self.known = False  # they have been seen
        self._look = look
        self._elapsed = elapsed
        self._seen_at = 0.0
        self._held: dict[str, frozenset[int]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> Sequence[Gpu]:
        """Those that are there now. Raises what asking a place raises."""
        self.cards = tuple(await self._look())
        self.known, self._seen_at = True, self._elapsed()
        return self.cards

    def look_soon(self, then: Callable[[], None] = lambda: None) -> None:
        """In the background, where they were not looked at lately; `then` is called when they are first known."""
        if self.known and self._elapsed() - self._seen_at < OLD_S:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._in_background(then))

    def offers(self) -> list[Offer]:
        return rules.offers(self._listed(), self.taken())

    def taken(self) -> Collection[int]:
        return frozenset().union(*self._held.values())

    def has(self, name: str) -> bool:
        return any(card.name == name for card in self.cards)

    def take(self, holder: str, name: str, count: int) -> tuple[Gpu, ...]:
        """Free ones of this type, which were offered in this very moment."""
        self.hold(holder, rules.pick(self._listed(), self.taken(), name, count))
        return self.of(holder)

    def hold(self, holder: str, indices: Collection[int]) -> None:
        """What it was given by a backend before this one."""
        self._held[holder] = frozenset(indices)

    def holds(self, holder: str) -> bool:
        return bool(self._held.get(holder))

    def of(self, holder: str) -> tuple[Gpu, ...]:
        mine = self._held.get(holder, ())
        return tuple(card for card in self.cards if card.index in mine)

    def release(self, holder: str) -> None:
        self._held.pop(holder, None)

    def _listed(self) -> list[tuple[int, str]]:
        return [(card.index, card.name) for card in self.cards]

    async def _in_background(self, then: Callable[[], None]) -> None:
        first = not self.known
        with contextlib.suppress(NbgpuError, OSError):
            await self.look()
            if first:
                then()
