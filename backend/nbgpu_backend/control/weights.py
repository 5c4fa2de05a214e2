"""The weights of one endpoint: fetched in the background by a child process, once, resumable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nbgpu_backend.control.records import ModelRecord
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.hub.fetcher import Fetcher, FetchPlan, FetchProgress
from nbgpu_backend.hub.library import HubModel
from nbgpu_backend.schema.endpoints import Fetch


class Weights:
    """`arrived` and `failed` are awaited when the fetch has ended so; `model` is changed before.

    `moved` is called at each progress in between.
    """

    def __init__(
        self,
        model: ModelRecord,
        fetcher: Fetcher,
        arrived: Callable[[], Awaitable[None]],
        failed: Callable[[NbgpuError], Awaitable[None]],
        moved: Callable[[], None],
    ) -> None:
        self.model = model
        self.error: str | None = None
        self._fetcher = fetcher
        self._arrived = arrived
        self._failed = failed
        self._moved = moved
        self._plan: FetchPlan | None = None
        self._progress: FetchProgress | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def here(self) -> bool:
        return self.model.fetched

    async def replace(self, model: ModelRecord) -> None:
        """Another model: what was on its way is no longer wanted."""
        await self.close()
        self.model, self.error, self._plan, self._progress = model, None, None, None

    def planned(self, plan: FetchPlan) -> None:
        self._plan = plan

    def start(self) -> None:
        """Fetch, unless that is under way or done."""
        if self.here or (self._task is not None and not self._task.done()):
            return
        self.error = None
        self._task = asyncio.create_task(self._fetch())

    async def close(self) -> None:
        """Stop fetching; what is on the disk stays and is not fetched again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _fetch(self) -> None:
        try:
            plan = self._plan
            if plan is None:  # a restart came in between: the commit is recorded
                repo = self.model.ref.removeprefix("hub:").split("@")[0]
                plan = await self._fetcher.plan(HubModel(repo, self.model.revision or "main"))
            path = await self._fetcher.fetch(plan, self._note)
        except NbgpuError as error:
            self.error = str(error)
            await self._failed(error)
            return
        self.model.path, self.model.fetched = str(path), True
        await self._arrived()

    def _note(self, progress: FetchProgress) -> None:
        self._progress = progress
        self._moved()

    def view(self) -> Fetch:
        if self.here:
            return Fetch(state="done", bytes_done=self.model.bytes, bytes_total=self.model.bytes)
        progress = self._progress
        return Fetch(
            state="failed" if self.error else "running",
            bytes_done=progress.bytes_done if progress else 0,
            bytes_total=progress.bytes_total if progress else self.model.bytes,
            seconds_left=progress.seconds_left if progress else None,
            error=self.error,
        )

    def words(self) -> str:
        view = self.view()
        if not view.bytes_done:
            return "fetching the weights"
        left = f", {view.seconds_left:.0f} s left" if view.seconds_left else ""
        return f"fetching the weights: {view.bytes_done / 1e6:.0f} of {view.bytes_total / 1e6:.0f} MB{left}"
