"""Jobs across endpoints, as a person looks at them."""

from __future__ import annotations

import json
from typing import Any

from nbgpu_backend.control.endpoint import EndpointControl
from nbgpu_backend.control.endpoints import Endpoints
from nbgpu_backend.control.services import Services
from nbgpu_backend.domain.jobs import FINAL_STATES, IN_PROGRESS, IN_QUEUE, finite
from nbgpu_backend.errors import NbgpuError, NotFound
from nbgpu_backend.schema.jobs import JobDetail, JobList, JobRow, Moment
from nbgpu_backend.store.jobs import NULLS, Row

SHOWN = 100_000  # bytes of an input or output that are shown whole
LOG_LINES = 2000  # of the worker's log, searched for those of one job
ENDS = {"COMPLETED": "done", "CANCELLED": "cancelled"}
WORDS = {
    "requeue": "back in the queue",
    "returned": "back in the queue, it had not begun",
    "retry": "retried by hand",
    NULLS: "null stands for NaN or Infinity, which JSON does not know",
}


class JobsView:
    def __init__(self, endpoints: Endpoints, services: Services) -> None:
        self._endpoints = endpoints
        self._services = services

    async def latest(self, endpoint: str | None, states: list[str], limit: int) -> JobList:
        """Newest first. Raises NotFound for an unknown endpoint."""
        wanted = [self._endpoints.get(endpoint).id] if endpoint else None
        rows = await self._services.jobs.latest(wanted, states, limit)
        return JobList(jobs=[self._row(row) for row in rows])

    async def find(self, job_id: str) -> Row:
        """Raises NotFound."""
        row = await self._services.jobs.get(job_id)
        if row is None:
            raise NotFound(
                f"There is no job {job_id}.",
                "See what there is with: nbgpu ls jobs. Results are kept for a day.",
                code="job_not_found",
            )
        return row

    async def show(self, job_id: str) -> JobDetail:
        row, store = await self.find(job_id), self._services.jobs
        body = row["body"] if row["body"] is not None else await store.read_file(job_id, "in")
        output = row["output"]
        if row["output_file"]:
            output = await store.read_file(job_id, "out")
        given = _shown(body)
        shortened = [
            n for n, text in (("input", body), ("output", output)) if len(text or b"") > SHOWN
        ]
        return JobDetail(
            job=self._row(row),
            timeline=self._timeline(row),
            input=given.get("input") if isinstance(given, dict) else given,
            output=_shown(output),
            shortened=shortened,
            webhook=row["webhook"],
            webhook_state=row["webhook_state"],
            log=await self._log(row),
        )  # fmt: skip

    def control(self, row: Row) -> EndpointControl | None:
        return self._endpoints.by_id(row["endpoint_id"])

    def _row(self, row: Row) -> JobRow:
        control, now = self.control(row), self._services.clock.now()
        begun, ended = row["assigned_us"], row["finished_us"]
        return JobRow(
            id=row["id"],
            endpoint=control.name if control else "(deleted)",
            endpoint_id=row["endpoint_id"],
            state=row["state"],
            created_us=row["created_us"],
            finished_us=ended,
            delay_ms=((begun or ended or now) - row["queued_us"]) // 1000,
            execution_ms=((ended or now) - begun) // 1000 if begun else 0,
            worker_id=row["worker_id"],
            retried=row["retried"],
            low_priority=bool(row["low"]),
            error=row["error"],
        )

    def _timeline(self, row: Row) -> list[Moment]:
        moments = [Moment(at_us=row["created_us"], what=IN_QUEUE, text="submitted")]
        for line in row["history"].splitlines():
            at_us, what, why = json.loads(line)
            text = WORDS.get(what, what) + (f": {why}" if why else "")
            state = IN_PROGRESS if what == NULLS else IN_QUEUE
            moments.append(Moment(at_us=at_us, what=state, text=text))
        if row["assigned_us"]:
            text = f"given to {row['worker_id']}"
            moments.append(Moment(at_us=row["assigned_us"], what=IN_PROGRESS, text=text))
        if row["state"] in FINAL_STATES:
            text = row["error"] or ENDS.get(row["state"], row["state"])
            moments.append(Moment(at_us=row["finished_us"], what=row["state"], text=text))
        return sorted(moments, key=lambda moment: moment.at_us)

    async def _log(self, row: Row) -> list[str]:
        """The lines that carry the job's id, as the SDK's logger writes them."""
        control = self.control(row)
        worker = control.workers.get(row["worker_id"]) if control else None
        if worker is None:
            return []
        try:
            lines = await worker.site.host.logs(worker.record.name, LOG_LINES)
        except NbgpuError:
            lines = list(worker.exit.tail) if worker.exit else []
        return [text for line in lines if (text := _of_job(line, row["id"]))]


def _of_job(line: str, job_id: str) -> str:
    if job_id not in line:
        return ""
    try:
        parsed: Any = json.loads(line)
    except ValueError:
        return line
    if not isinstance(parsed, dict) or parsed.get("requestId") != job_id:
        return ""
    return f"{parsed.get('level', 'INFO')} {parsed.get('message', '')}"


def _shown(text: bytes | None) -> Any:
    if text is None:
        return None
    if len(text) > SHOWN:
        return text[:1000].decode("utf-8", "replace") + " …"
    return finite(json.loads(text))[0]
