"""What one endpoint needs at one place, weights or an environment: brought in the background, once, and
gone on with after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nbgpu_backend.control.records import ModelRecord
from nbgpu_backend.control.supplies import Supply
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.hub.fetcher import FetchPlan
from nbgpu_backend.schema.common import Reason
from nbgpu_backend.schema.endpoints import Fetch


class Weights:
    """`arrived` and `failed` are awaited when it has ended so; `model` is changed before.

    `moved` is called at each progress in between.
    """

    def __init__(
        self,
        model: ModelRecord,
        supply: Supply,
        arrived: Callable[[], Awaitable[None]],
        failed: Callable[[NbgpuError], Awaitable[None]],
        moved: Callable[[], None],
    ) -> None:
        self.model = model
        self.error: str | None = None
        self.supply = supply
        self._arrived = arrived
        self._failed = failed
        self._moved = moved
        self._plan: FetchPlan | None = None
        self._last: Fetch | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def here(self) -> bool:
        return self.model.fetched

    def look(self) -> bool:
        """`here` as the disk says now: before a worker starts, for an environment may be deleted,
        and other requirements ask for another one."""
        if self.model.fetched and not self.supply.here(self.model):
            self.model.fetched = False
        return self.model.fetched

    def planned(self, plan: FetchPlan) -> None:
        self._plan = plan

    def start(self) -> None:
        """Bring it, unless that is under way or done."""
        if (self._task is not None and not self._task.done()) or self.look():
            return
        self.error = self._last = None
        self._task = asyncio.create_task(self._bring())

    async def close(self) -> None:
        """Stop; what is on the disk stays and is not fetched again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _bring(self) -> None:
        try:
            path = await self.supply.bring(self.model, self._plan, self._note)
        except NbgpuError as error:
            self.error = str(error)
            await self._failed(error)
            return
        self.model.path, self.model.fetched = path, True
        await self._arrived()

    def _note(self, fetch: Fetch) -> None:
        self._last = fetch
        self._moved()

    def view(self) -> Fetch:
        what, size = self.supply.what, self.model.bytes if self.supply.what == "weights" else 0
        if self.here:
            return Fetch(state="done", what=what, bytes_done=size, bytes_total=size)
        last = self._last or Fetch(state="running", what=what, bytes_total=size)
        state = "failed" if self.error else "running"
        return last.model_copy(update={"state": state, "error": self.error})

    # --- in words ---------------------------------------------------------------------------------

    def words(self) -> str:
        """What is under way."""
        return self.supply.doing(self.view())

    def reason(self, since_us: int) -> Reason:
        """Of its failure."""
        code, text = self.supply.failure(self.error or "")
        return Reason(code=code, text=text, since_us=since_us)

    def arrived_words(self, name: str) -> str:
        """Of the event that all is here, for the endpoint `name`."""
        return self.supply.done(name, self.model)
