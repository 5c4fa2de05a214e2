"""`/nbgpu/v1/jobs`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from nbgpu_backend.control.core import Core
from nbgpu_backend.control.jobs import JobsView
from nbgpu_backend.errors import Conflict
from nbgpu_backend.schema.jobs import JobDetail, JobList


def routes(core: Core) -> APIRouter:
    router = APIRouter(prefix="/nbgpu/v1/jobs", tags=["jobs"])
    jobs = JobsView(core.endpoints, core.services)

    @router.get("")
    async def list_jobs(
        endpoint: str | None = None,
        state: Annotated[list[str] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> JobList:
        """Newest first."""
        return await jobs.latest(endpoint, state or [], limit)

    @router.get("/{job}")
    async def show_job(job: str) -> JobDetail:
        return await jobs.show(job)

    @router.post("/{job}/cancel")
    async def cancel_job(job: str) -> JobDetail:
        """Final at once; its worker is told to stop. One that has an end already keeps it."""
        row = await jobs.find(job)
        control = jobs.control(row)
        if control is None:
            raise Conflict(f"The endpoint of the job {job} was deleted.", "Its jobs ended with it.")
        await control.board.cancel(job)
        return await jobs.show(job)

    return router
