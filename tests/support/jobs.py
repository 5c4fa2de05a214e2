"""The job routes of the stand-in backend: jobs are kept in memory and run by a function of the test."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from nbgpu_backend.schema.jobs import JobDetail, JobList, JobRow, Moment

if TYPE_CHECKING:
    from tests.support.api import Api

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


@dataclass(eq=False)
class Job:
    id: str
    endpoint: str
    body: dict[str, Any]
    created_us: int
    state: str = "IN_QUEUE"
    begun_us: int | None = None
    finished_us: int | None = None
    output: Any = None
    error: str | None = None
    chunks: list[Any] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def low(self) -> bool:
        return bool(self.body.get("policy", {}).get("lowPriority"))

    def wire(self) -> dict[str, Any]:
        found = {
            "id": self.id,
            "status": self.state,
            "delayTime": 5,
            "executionTime": 20,
            "workerId": "w1",
        }
        if self.output is not None:
            found["output"] = self.output
        if self.error is not None:
            found["error"] = self.error
        return found


class Jobs:
    """`handler` runs each job's input; what it raises fails the job, what it yields is streamed.

    `accepted` are the inputs in the order in which they came; `slots` run at once; `hold()` keeps jobs from
    running until `let_go()`; from `limit` jobs on, /run answers 429; with `asleep`, low-priority jobs wait
    until one of normal priority has come; `lose` accepted jobs are not told of: the connection breaks.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self.handler: Callable[[Any], Any] = lambda given: given
        self.known: dict[str, Job] = {}
        self.accepted: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.slots = 8
        self.limit = 10_000
        self.busy = 0  # how often 429 was answered
        self.most = 0  # jobs without an end at one time
        self.asleep = False
        self.lose = 0
        self.refusal: tuple[int, str] | None = None
        self.cost = "0.0001"
        self._held = False
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self, add: Any) -> None:
        add("POST", "/v2/{e}/run", self.run)
        add("GET", "/v2/{e}/status/{id}", self.status)
        add("GET", "/v2/{e}/status-sync/{id}", self.status)
        add("GET", "/v2/{e}/stream/{id}", self.stream)
        add("POST", "/v2/{e}/cancel/{id}", self.cancel)
        add("POST", "/v2/{e}/retry/{id}", self.retry)
        add("POST", "/v2/{e}/purge-queue", self.purge)
        add("GET", "/v2/{e}/health", self.health)
        add("GET", "/nbgpu/v1/jobs", self.latest)
        add("GET", "/nbgpu/v1/jobs/{id}", self.detail)
        add("POST", "/nbgpu/v1/jobs/{id}/cancel", self.cancel_any)

    # from the test's thread

    def hold(self) -> None:
        self._held = True

    def let_go(self) -> None:
        def go() -> None:
            self._held = False
            self._turn()

        self._api.loop.call_soon_threadsafe(go)

    def forget(self, job_id: str) -> None:
        del self.known[job_id]

    def states(self) -> list[str]:
        return [job.state for job in list(self.known.values())]

    # running

    def _live(self) -> list[Job]:
        return [job for job in self.known.values() if job.state not in FINAL]

    def _turn(self) -> None:
        """Give free slots to jobs that wait: normal priority first, then in order."""
        waiting = [job for job in self._live() if job.state == "IN_QUEUE"]
        if self._held or (self.asleep and all(job.low for job in waiting)):
            return
        self.asleep = False
        running = sum(job.state == "IN_PROGRESS" for job in self._live())
        for job in sorted(waiting, key=lambda j: j.low)[: max(0, self.slots - running)]:
            job.state, job.begun_us = "IN_PROGRESS", _now_us()
            task = asyncio.get_running_loop().create_task(self._run(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job) -> None:
        state, output, error = "COMPLETED", None, None
        try:
            output = await asyncio.to_thread(self.handler, job.body["input"])
            if inspect.isgenerator(output):
                pieces = []
                for piece in output:
                    pieces.append(piece)
                    job.chunks.append(piece)
                    job.changed.set()
                output = pieces
        except Exception as trouble:
            state, output = "FAILED", None
            error = json.dumps({"error_type": str(type(trouble)), "error_message": str(trouble),
                                "error_traceback": "Traceback …"})  # fmt: skip
        if job.state == "IN_PROGRESS":
            self._end(job, state, output, error)
        self._turn()

    def _end(self, job: Job, state: str, output: Any = None, error: str | None = None) -> None:
        from tests.support.api import request_row

        job.state, job.output, job.error, job.finished_us = state, output, error, _now_us()
        job.changed.set()
        status = {"COMPLETED": 200, "CANCELLED": 499}.get(state, 500)
        self._api.requests.append(
            {**request_row(0), "id": job.id, "endpoint": job.endpoint, "route": "/run", "status": status,
             "queue_ms": 5.0, "total_ms": 2005.0, "arrived_us": job.created_us, "cost": self.cost}
        )  # fmt: skip

    # RunPod's routes

    async def run(self, request: web.Request) -> web.StreamResponse:
        if self.refusal is not None:
            return failed(*self.refusal)
        if len(self._live()) >= self.limit:
            self.busy += 1
            answer = failed(429, "The queue is full.")
            answer.headers["Retry-After"] = "0"
            return answer
        body = await request.json()
        job = Job(f"{uuid.uuid4()}-u1", request.match_info["e"], body, _now_us())
        self.known[job.id] = job
        self.accepted.append(body["input"])
        self.bodies.append(body)
        self.most = max(self.most, len(self._live()))
        self._turn()
        if self.lose:
            self.lose -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"id": job.id, "status": "IN_QUEUE"})

    def _job(self, request: web.Request) -> Job | None:
        return self.known.get(request.match_info["id"])

    async def status(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job is None:
            return failed(404, "There is no such job.", "job_not_found")
        wait_s = float(request.query.get("wait", "0")) / 1000 if "sync" in request.path else 0.0
        end = time.monotonic() + wait_s
        while job.state not in FINAL and (left := end - time.monotonic()) > 0:
            job.changed.clear()
            try:
                await asyncio.wait_for(job.changed.wait(), left)
            except TimeoutError:
                break
        return web.json_response(job.wire())

    async def stream(self, request: web.Request) -> web.Response:
        job = self._job(request)
        assert job is not None
        while not job.chunks and job.state not in FINAL:
            job.changed.clear()
            await job.changed.wait()
        if job.state == "CANCELLED":
            over = {"status": "FAILED", "error": "The job was cancelled.", "stream": []}
            return web.json_response({**over, "code": "job_cancelled"})
        chunks, job.chunks = job.chunks, []
        state = "IN_PROGRESS" if chunks else job.state
        body = {
            "status": state,
            "stream": [{"output": chunk} for chunk in chunks],
            "error": job.error,
        }
        return web.json_response(body)

    async def cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job is None:
            return failed(404, "There is no such job.", "job_not_found")
        if job.state not in FINAL:
            self._end(job, "CANCELLED")
        return web.json_response({"id": job.id, "status": job.state})

    async def retry(self, request: web.Request) -> web.Response:
        job = self._job(request)
        assert job is not None
        job.state, job.error, job.finished_us = "IN_QUEUE", None, None
        self._turn()
        return web.json_response({"id": job.id, "status": job.state})

    async def purge(self, request: web.Request) -> web.Response:
        waiting = [job for job in self._live() if job.state == "IN_QUEUE"]
        for job in waiting:
            self._end(job, "CANCELLED")
        return web.json_response({"removed": len(waiting), "status": "completed"})

    async def health(self, request: web.Request) -> web.Response:
        states = [job.state for job in self._live() if job.endpoint == request.match_info["e"]]
        counts = {"inQueue": states.count("IN_QUEUE"), "inProgress": states.count("IN_PROGRESS")}
        return web.json_response({"jobs": counts, "workers": {}})

    # ours

    def _row(self, job: Job) -> JobRow:
        return JobRow(
            id=job.id, endpoint=job.endpoint, endpoint_id="ep" + job.endpoint, state=job.state,
            created_us=job.created_us, finished_us=job.finished_us, delay_ms=5,
            execution_ms=20 if job.begun_us else 0, worker_id="w1" if job.begun_us else None,
            retried=0, low_priority=job.low, error=job.error,
        )  # fmt: skip

    async def latest(self, request: web.Request) -> web.Response:
        name, states = request.query.get("endpoint"), request.query.getall("state", [])
        rows = [
            self._row(job) for job in reversed(self.known.values())
            if name in (None, job.endpoint) and (not states or job.state in states)
        ]  # fmt: skip
        found = JobList(jobs=rows[: int(request.query.get("limit", "100"))])
        return web.json_response(found.wire())

    async def detail(self, request: web.Request) -> web.Response:
        from tests.support.api import problem

        job = self._job(request)
        if job is None:
            name = request.match_info["id"]
            return problem(404, "job_not_found", f"There is no job {name}.", "See nbgpu ls jobs.")
        timeline = [Moment(at_us=job.created_us, what="IN_QUEUE", text="submitted")]
        if job.begun_us:
            timeline.append(Moment(at_us=job.begun_us, what="IN_PROGRESS", text="given to w1"))
        if job.finished_us:
            said = job.error or "done"
            timeline.append(Moment(at_us=job.finished_us, what=job.state, text=said))
        found = JobDetail(
            job=self._row(job), timeline=timeline, input=job.body["input"], output=job.output,
            webhook=job.body.get("webhook"), webhook_state=None, log=["INFO <line>"],
        )  # fmt: skip
        return web.json_response(found.wire())

    async def cancel_any(self, request: web.Request) -> web.Response:
        await self.cancel(request)
        return await self.detail(request)


def failed(status: int, error: str, code: str = "refused") -> web.Response:
    body = {"status": "FAILED", "error": error, "code": code}
    return web.json_response(body, status=status)


def _now_us() -> int:
    return time.time_ns() // 1000
