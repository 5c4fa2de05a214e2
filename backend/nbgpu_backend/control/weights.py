"""What one endpoint needs on the disk, weights or an environment: brought in the background by a
child process, once, and gone on with after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nbgpu_backend.control.records import ModelRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.supplies import supply_of
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
        services: Services,
        arrived: Callable[[], Awaitable[None]],
        failed: Callable[[NbgpuError], Awaitable[None]],
        moved: Callable[[], None],
    ) -> None:
        self.model = model
        self.error: str | None = None
        self._services = services
        self._supply = supply_of(model, services)
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
        if self.model.fetched and not self._supply.here(self.model):
            self.model.fetched = False
        return self.model.fetched

    async def replace(self, model: ModelRecord) -> None:
        """Another model: what was on its way is no longer wanted."""
        await self.close()
        self.model, self.error, self._plan, self._last = model, None, None, None
        self._supply = supply_of(model, self._services)

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
            path = await self._supply.bring(self.model, self._plan, self._note)
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
        what, size = self._supply.what, self.model.bytes if self._supply.what == "weights" else 0
        if self.here:
            return Fetch(state="done", what=what, bytes_done=size, bytes_total=size)
        last = self._last or Fetch(state="running", what=what, bytes_total=size)
        state = "failed" if self.error else "running"
        return last.model_copy(update={"state": state, "error": self.error})

    # --- in words ---------------------------------------------------------------------------------

    def words(self) -> str:
        """What is under way."""
        return self._supply.doing(self.view())

    def reason(self, since_us: int) -> Reason:
        """Of its failure."""
        if self._supply.what == "environment":
            return Reason(
                code="environment", text=(self.error or "").rstrip("."), since_us=since_us
            )
        text = f"the weights could not be fetched: {self.error}"
        return Reason(code="weights", text=text.rstrip("."), since_us=since_us)

    def arrived_words(self, name: str) -> str:
        """Of the event that all is here, for the endpoint `name`."""
        return self._supply.done(name, self.model)

    def failed_words(self, name: str) -> str:
        """Of the event that it does not come; the error's sentence follows after a colon."""
        if self._supply.what == "environment":
            return f"The environment of {name} could not be installed"
        return f"The weights of {name} could not be fetched"

    def lacking_words(self, name: str) -> str:
        """To a request that waited for it; the error's sentence follows after a colon."""
        if self._supply.what == "environment":
            return f"'{name}' has no environment to run in"
        return f"'{name}' has no weights"
