"""Fetch hub models in child processes, so that neither hashing nor sockets touch the event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.children import lines
from nbgpu_backend.clock import Clock, SystemClock
from nbgpu_backend.errors import UpstreamError
from nbgpu_backend.home import Home
from nbgpu_backend.hub.library import HubModel
from nbgpu_backend.hub.rate import Rate
from nbgpu_backend.hub.refusals import ERRORS


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What fetching means, before a byte is fetched. `path` exists once it has been."""

    model: HubModel
    commit: str
    path: Path
    bytes_total: int
    bytes_cached: int


@dataclass(frozen=True, slots=True)
class FetchProgress:
    bytes_done: int  # what was cached before counts
    bytes_total: int
    bytes_per_s: float  # smoothed over about 8 s
    seconds_left: float | None  # None while unknown


class Fetcher:
    """`plan` and `fetch` raise NotFound, BadRequest, Unavailable, DiskError or UpstreamError."""

    def __init__(self, home: Home, clock: Clock | None = None) -> None:
        self._cache = home.hub_cache
        self._clock = clock or SystemClock()

    async def plan(self, model: HubModel, token: str | None = None) -> FetchPlan:
        """Resolve the commit and the sizes. Downloads nothing."""
        async with aclosing(self._child(model, None, token, plan_only=True)) as lines:
            async for line in lines:
                if line["kind"] == "plan":
                    return FetchPlan(
                        model,
                        line["commit"],
                        Path(line["path"]),
                        line["bytesTotal"],
                        line["bytesCached"],
                    )
        raise UpstreamError(f"The look at {model.repo} ended without an answer.", "Try again.")

    async def fetch(
        self,
        plan: FetchPlan,
        on_progress: Callable[[FetchProgress], None] = lambda progress: None,
        token: str | None = None,
    ) -> Path:
        """Fetch the commit of the plan; returns the folder. Cancelling ends the child.

        What is fetched stays when it fails, is cancelled or killed, and is not fetched again.
        """
        rate = Rate()
        rate.update(plan.bytes_cached, self._clock.elapsed())
        async with aclosing(self._child(plan.model, plan.commit, token)) as lines:
            async for line in lines:
                if line["kind"] == "progress":
                    done, total = line["bytesDone"], line["bytesTotal"]
                    rate.update(done, self._clock.elapsed())
                    left = rate.seconds_left(total - done)
                    on_progress(FetchProgress(done, total, rate.per_s, left))
                elif line["kind"] == "done":
                    return Path(line["path"])
        raise UpstreamError(
            f"Fetching {plan.model.repo} ended without a result.",
            "Try again; what has been fetched is kept.",
        )

    async def _child(
        self, model: HubModel, commit: str | None, token: str | None, *, plan_only: bool = False
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The lines of one child; raises for an error line. Closing it ends the child."""
        request = {
            "repo": model.repo,
            "revision": model.revision,
            "commit": commit,
            "cache_dir": str(self._cache),
            "plan_only": plan_only,
            "token": token,
        }
        async with aclosing(lines("nbgpu_backend.hub.fetch", request)) as told:
            async for line in told:
                if line["kind"] == "error":
                    kind = ERRORS.get(line["code"], UpstreamError)
                    raise kind(line["what"], line["next"], code=line["code"], model=model.repo)
                yield line
