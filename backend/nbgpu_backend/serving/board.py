"""The jobs of one endpoint, from their submission to their end.

A job is stored before it is acknowledged, its assignment before the worker gets it, and its end before
the worker's post is answered. In memory are only the jobs that have no end yet. Which worker has which of
them is the concern of assignments.py, when they time out that of deadlines.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from nbgpu_backend.clock import Clock
from nbgpu_backend.domain.dispatch import Ticket
from nbgpu_backend.domain.jobs import (
    CANCELLED,
    COMPLETED,
    FAILED,
    FINAL_STATES,
    IN_PROGRESS,
    IN_QUEUE,
    RETRIABLE,
    TIMED_OUT,
    Submission,
    Verdict,
)
from nbgpu_backend.errors import Conflict, DiskError, NotFound, QueueFull
from nbgpu_backend.serving.assignments import DISK_PAUSE_S, Assignments, PushRunner
from nbgpu_backend.serving.deadlines import Deadlines
from nbgpu_backend.serving.job import (
    Job,
    JobView,
    final_view,
    live_view,
    new_id,
    settled_view,
    with_id,
)
from nbgpu_backend.serving.pull import PullWorker
from nbgpu_backend.serving.queue import EndpointQueue
from nbgpu_backend.serving.target import Holders, Record, Sink
from nbgpu_backend.store.jobs import INLINE, NULLS, JobStore, Row, count_row, note

log = logging.getLogger(__name__)

MAX_TRIES = 3  # workers that may die with a job before it fails
KEEP_BODIES = 64 << 20  # bytes of inputs kept in memory; others are read when they are taken
STREAM_BYTES = 1 << 20  # of one answer of /stream
LOW_PRIORITY = 1
UNKNOWN = -1  # the last chunk of a job that an earlier backend had
STATUS = {COMPLETED: 200, FAILED: 500, CANCELLED: 499, TIMED_OUT: 504}


@dataclass(frozen=True, slots=True)
class JobLimits:
    execution_s: float  # where the job names none
    jobs_max: int
    kept_s: float


class JobBoard:
    def __init__(
        self,
        endpoint_id: str,
        name: str,
        queue: EndpointQueue,
        store: JobStore,
        clock: Clock,
        limits: Callable[[], JobLimits],
    ) -> None:
        self.endpoint_id = endpoint_id
        self.name = name
        self.live: dict[str, Job] = {}
        self.counts = count_row(endpoint_id)
        self.runner: PushRunner | None = None
        self.sink: Sink | None = None
        self.holders: Holders | None = None
        self.tell: Callable[[str], None] = lambda job_id: None  # its webhook is due
        self.queue = queue
        self.store = store
        self.clock = clock
        self.limits = limits
        self.assignments = Assignments(self)
        self.deadlines = Deadlines(clock, self.live, self._is_due, self.assignments.look)
        self._storing = 0
        self._kept = 0  # bytes of bodies in memory
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        queue.take_jobs = self.assignments.assign

    @property
    def workers(self) -> dict[str, PullWorker]:
        return self.assignments.workers

    def gone(self, worker_id: str, why: str) -> None:
        """As `Assignments.gone`."""
        self.assignments.gone(worker_id, why)

    # --- coming in --------------------------------------------------------------------------------

    async def submit(
        self, submission: Submission, raw: bytes, client: str, *, sync: bool = False,
        key: str | None = None,
    ) -> Job:  # fmt: skip
        """Stored when it returns. `raw` is the submission as it came. Raises QueueFull, DiskError."""
        limits, now_us = self.limits(), self.clock.now()
        if len(self.live) + self._storing >= limits.jobs_max:
            raise QueueFull(
                f"{len(self.live)} jobs of '{self.name}' have no end yet, which is its limit.",
                "Try again in a few seconds, or raise its workers.",
            )
        job_id = new_id(now_us, sync=sync)
        body = with_id(job_id, submission.rest, raw)
        self._storing += 1
        try:
            inline = len(body) <= INLINE and not submission.sealed
            if not inline:
                await self.store.write_file(job_id, "in", body)
            await self.store.put(
                "insert", id=job_id, endpoint_id=self.endpoint_id, state=IN_QUEUE, client=client,
                low=int(submission.low), body=body if inline else None, webhook=submission.webhook,
                webhook_state=None, execution_ms=submission.execution_ms, ttl_ms=submission.ttl_ms,
                created_us=now_us, queued_us=now_us, tries=0, retried=0, output_file=0,
                chunks_read=0, history="", api_key=key,
            )  # fmt: skip
        except DiskError:
            self.store.path(job_id, "in").unlink(missing_ok=True)
            raise
        finally:
            self._storing -= 1
        arrived = self.clock.elapsed()
        job = Job(
            id=job_id,
            ticket=_ticket(job_id, client, arrived, submission.low),
            created_us=now_us,
            queued_us=now_us,
            expires=arrived + submission.ttl_ms / 1000,
            execution_s=_seconds(submission.execution_ms, limits),
            webhook=submission.webhook,
            key=key,
        )
        if inline and self._kept + len(body) <= KEEP_BODIES:
            job.body = body
            self._kept += len(body)
        self._admit(job)
        if self._closed:
            self.later(self.cancel(job.id))
        return job

    def _admit(self, job: Job) -> None:
        self._enter(job)
        self.queue.enqueue(job.ticket)

    def _enter(self, job: Job) -> None:
        self.live[job.id] = job
        if job.key is not None and self.holders is not None:
            self.holders.hold(job.key)
        self.deadlines.watch(job)

    def restore(self, row: Row, *, pulls: bool) -> None:
        """A job that an earlier backend had. What was pushed to a worker ended with that backend."""
        now, now_us = self.clock.elapsed(), self.clock.now()
        arrived = now - (now_us - row["queued_us"]) / 1e6
        job = Job(
            id=row["id"],
            ticket=_ticket(row["id"], row["client"], arrived, bool(row["low"])),
            created_us=row["created_us"],
            queued_us=row["queued_us"],
            expires=arrived + row["ttl_ms"] / 1000,
            execution_s=_seconds(row["execution_ms"], self.limits()),
            webhook=row["webhook"],
            key=row["api_key"],
            retried=row["retried"],
            chunks_read=row["chunks_read"],
            last_chunk=UNKNOWN if pulls and row["state"] == IN_PROGRESS else 0,
        )
        job.ticket.tries = row["tries"]
        if row["state"] != IN_PROGRESS:
            self._admit(job)
            return
        if not pulls:
            self._enter(job)
            self.queue.core.restore(job.ticket, row["worker_id"])
            self.put_back(job, "the backend ended", counted=True)
            return
        job.state, job.worker, job.assigned_us = IN_PROGRESS, row["worker_id"], row["assigned_us"]
        job.started = now - (now_us - row["assigned_us"]) / 1e6
        self._enter(job)
        self.queue.core.restore(job.ticket, row["worker_id"])

    async def retry(self, job_id: str) -> JobView:
        """A failed or timed-out job once more, with its id and input. Raises NotFound, Conflict."""
        row = await self._row(job_id)
        if row is None or row["state"] not in RETRIABLE:
            state = row["state"] if row else self.live[job_id].state
            raise Conflict(
                f"The job {job_id} is {state}; only FAILED and TIMED_OUT jobs can be retried.",
                "Submit it again with /run.",
            )
        now_us = self.clock.now()
        self.store.put("forget_chunks", key=job_id)
        self.store.put("count", **count_row(self.endpoint_id, retried=1))
        await self.store.put("again", key=job_id, at=now_us, note=note(now_us, "retry"))
        self.store.path(job_id, "out").unlink(missing_ok=True)
        self.counts["retried"] += 1
        if job_id not in self.live:  # two who retry at once
            self.restore(
                {**row, "state": IN_QUEUE, "queued_us": now_us, "tries": 0, "chunks_read": 0},
                pulls=True,
            )
        return live_view(self.live[job_id], now_us)

    # --- from a worker ----------------------------------------------------------------------------

    async def done(self, worker_id: str, job_id: str, verdict: Verdict) -> None:
        """What the worker posted. Repeated, late or strange posts are ignored. Raises DiskError."""
        job, worker = self.live.get(job_id), self.workers.get(worker_id)
        if worker is not None:
            worker.seen = self.clock.elapsed()
        if job is None or job.worker != worker_id or job.ticket.worker != worker_id:
            ticket = self.assignments.held(worker_id, job_id)
            if worker is not None and ticket is not None and verdict.state != IN_PROGRESS:
                self.assignments.release(worker, ticket)  # it is done with a job that was cancelled
            return
        if verdict.state == IN_PROGRESS:
            if job.settling is None:
                job.progress = verdict.output.encode() if verdict.output is not None else None
                job.changed()
            return
        await self.end(job, verdict)
        if worker is not None:
            self.assignments.release(worker, job.ticket)
            if verdict.stop_worker:
                worker.end("refresh", "its handler asked for a fresh worker", None)

    async def chunk(
        self, worker_id: str, job_id: str, output: str, n: int | None = None, *, nulls: int = 0
    ) -> None:
        """What a generator yielded. `n` grows with each post of this worker. Raises DiskError."""
        job = self.live.get(job_id)
        if job is None or job.worker != worker_id or job.settling is not None:
            return
        if n is None:
            if job.last_chunk == UNKNOWN:
                known = await self.store.last_chunk(job_id)
                job.last_chunk = max(job.last_chunk, known)
            n = job.last_chunk + 1
        if n <= job.last_chunk:
            return
        before, job.last_chunk = job.last_chunk, n
        try:
            await self.store.put("chunk", job_id=job_id, n=n, body=output.encode())
        except DiskError:  # it is told again, and must not pass for a repeat then
            if job.last_chunk == n:
                job.last_chunk = before
            raise
        if nulls and not job.nulls:
            job.nulls = True
            self.store.put("note", key=job_id, note=self._nulls(job_id, "in what it streams"))
        job.changed()

    def _nulls(self, job_id: str, where: str) -> str:
        """Tells the log of it; returns the line for the job's history."""
        log.warning("%s: NaN or Infinity of %s is null: %s", self.name, job_id, where)
        return note(self.clock.now(), NULLS, where)

    # --- ends -------------------------------------------------------------------------------------

    def end(self, job: Job, verdict: Verdict) -> asyncio.Future[None]:
        """As `settle`."""
        output = verdict.output.encode() if verdict.output is not None else None
        return self.settle(job, verdict.state, output, verdict.error, nulls=verdict.nulls)

    def settle(
        self, job: Job, state: str, output: bytes | None = None, error: str | None = None, *,
        nulls: int = 0,
    ) -> asyncio.Future[None]:  # fmt: skip
        """Store its end; done when that is on the disk. Raises DiskError: it then has no end yet.

        Who stops waiting does not stop the storing: the end may be on the disk already.
        """
        if job.settling is None:
            job.settling = asyncio.create_task(self._settle(job, state, output, error, nulls))
        return asyncio.shield(job.settling)

    async def _settle(
        self, job: Job, state: str, output: bytes | None, error: str | None, nulls: int
    ) -> None:
        now_us, queued = self.clock.now(), job.ticket.worker is None
        if queued:
            self.queue.finish(job.ticket)
        try:
            as_file = output is not None and len(output) > INLINE
            if as_file:
                assert output is not None
                await self.store.write_file(job.id, "out", output)
            self.store.put("count", **count_row(self.endpoint_id, state))
            await self.store.put(
                "finish", key=job.id, to=state, at=now_us, worker=job.worker,
                drop=now_us + round(self.limits().kept_s * 1e6), file=int(as_file),
                result=None if as_file else output, why=error,
                webhook_to="pending" if job.webhook else None,
                note=self._nulls(job.id, f"{nulls} in its output") if nulls else "",
            )  # fmt: skip
        except DiskError:
            job.settling = None
            if queued:
                self.queue.readmit(job.ticket)
            raise
        job.state, job.final = state, settled_view(job, state, output, error, now_us)
        del self.live[job.id]
        if job.key is not None and self.holders is not None:
            self.holders.let_go(job.key)
        if job.body is not None:
            self._kept -= len(job.body)
        for name in ("completed", "failed"):
            self.counts[name] += count_row("", state)[name]
        self._record(job, state, error, now_us)
        if queued:
            self.queue.release(job.ticket)
        else:
            self.queue.finish(job.ticket)  # the slot stays held until the worker lets go
        job.changed()
        if job.webhook:
            self.tell(job.id)

    async def cancel(self, job_id: str) -> JobView:
        """Final at once; its worker is told to stop. Raises NotFound, DiskError."""
        job = self.live.get(job_id)
        if job is None:
            return await self.view(job_id)
        await self._stop(job, CANCELLED)
        return await self.view(job_id)

    async def _stop(self, job: Job, state: str, error: str | None = None) -> None:
        await self.settle(job, state, error=error)
        self.assignments.stop(job)

    async def purge(self) -> int:
        """Cancel all that no worker has; returns how many."""
        queued = [j for j in self.live.values() if j.state == IN_QUEUE and j.settling is None]
        await asyncio.gather(*(self.settle(job, CANCELLED) for job in queued))
        return len(queued)

    async def cancel_all(self) -> None:
        """Its endpoint goes."""
        self._closed = True
        await asyncio.gather(*(self.cancel(job_id) for job_id in list(self.live)))

    async def fail_queued(self, why: str) -> None:
        """No worker will come for those that wait."""
        queued = [j for j in self.live.values() if j.state == IN_QUEUE and j.settling is None]
        await asyncio.gather(*(self.settle(job, FAILED, error=why) for job in queued))

    def again_or_fail(self, job: Job, why: str) -> None:
        """Its worker died with it."""
        if job.ticket.tries >= MAX_TRIES:
            text = f"{job.ticket.tries} workers died with it. The last: {why}"
            self.later(self._fail(job, text))
        else:
            self.put_back(job, why, counted=True)

    async def _fail(self, job: Job, error: str) -> None:
        await self.patiently(lambda: self.settle(job, FAILED, error=error))
        self.queue.release(job.ticket)

    async def patiently(self, work: Callable[[], Any]) -> None:
        """Until the disk takes it."""
        while True:
            try:
                await work()
                return
            except DiskError as error:
                log.error("%s: %s", self.name, error)
                await asyncio.sleep(DISK_PAUSE_S)

    def put_back(self, job: Job, why: str, *, counted: bool) -> None:
        """Into the queue again, at its old place."""
        now_us = self.clock.now()
        job.state, job.worker, job.assigned_us, job.started = IN_QUEUE, None, None, None
        job.progress = None
        if counted:
            job.retried += 1
            job.last_chunk = job.chunks_read = 0
            self.counts["retried"] += 1
            self.store.put("forget_chunks", key=job.id)
            self.store.put("read_chunks", key=job.id, upto=0)
            self.store.put("count", **count_row(self.endpoint_id, retried=1))
        self.store.put(
            "requeue", key=job.id, counted=int(counted), tried=job.ticket.tries,
            note=note(now_us, "requeue" if counted else "returned", why),
        )  # fmt: skip
        self.queue.give_back(job.ticket)

    # --- time -------------------------------------------------------------------------------------

    def _is_due(self, job: Job, now: float) -> None:
        self.later(self._time_out(job, now))

    async def _time_out(self, job: Job, now: float) -> None:
        if job.started is None:
            error = f"No worker took it within {now - job.ticket.arrived:.0f} s, its time to live."
        elif now >= job.expires:
            error = "It was not done within its time to live."
        else:
            error = f"It was not done within {job.execution_s:g} s, its execution time-out."
        try:
            await self._stop(job, TIMED_OUT, error)
        except DiskError:
            await asyncio.sleep(DISK_PAUSE_S)
            self.deadlines.watch(job)

    # --- looking ----------------------------------------------------------------------------------

    async def _row(self, job_id: str) -> Row | None:
        """None: it is live. Raises NotFound."""
        if job_id in self.live:
            return None
        row = await self.store.get(job_id)
        now_us = self.clock.now()
        over = row is not None and row["drop_us"] is not None and row["drop_us"] <= now_us
        if row is None or row["endpoint_id"] != self.endpoint_id or over:
            raise NotFound(
                f"'{self.name}' has no job {job_id}.",
                "See what there is with: nbgpu ls jobs. Results are kept for a day.",
                code="job_not_found",
            )
        if row["state"] not in FINAL_STATES:  # it comes to life in this very turn
            raise NotFound(f"The job {job_id} is not here yet.", "Ask again.", code="job_not_found")
        return row

    async def view(self, job_id: str, wait_s: float = 0.0) -> JobView:
        """As it is now, or at its end if that comes within `wait_s`. Raises NotFound."""
        job = self.live.get(job_id)
        if job is not None and wait_s > 0:
            end = self.clock.elapsed() + wait_s
            while job.id in self.live and (left := end - self.clock.elapsed()) > 0:
                await job.change(left)
        if job is not None and job.final is not None:
            return job.final
        if job is not None:
            return live_view(job, self.clock.now())
        row = await self._row(job_id)
        if row is None:  # it was retried in between
            return live_view(self.live[job_id], self.clock.now())
        output = row["output"]
        if row["output_file"]:
            output = await self.store.read_file(job_id, "out")
        return final_view(row, output)

    async def stream(self, job_id: str, wait_s: float) -> tuple[JobView, list[bytes]]:
        """What was streamed and not handed out yet; waits for some, or for the end. Raises NotFound."""
        end = self.clock.elapsed() + wait_s
        while True:
            job = self.live.get(job_id)
            if job is not None:
                read, last, changes = job.chunks_read, job.last_chunk, job.changes
            else:
                row = await self._row(job_id)
                if row is None:
                    continue
                read, last = row["chunks_read"], -1
            chunks = await self.store.chunks(job_id, read, STREAM_BYTES) if last != read else []
            if chunks:
                upto = chunks[-1][0]
                if job is not None:
                    job.chunks_read = upto
                with contextlib.suppress(DiskError):  # better twice than not at all
                    await self.store.put("read_chunks", key=job_id, upto=upto)
                # what is left is for the next call: only the last one says that it is over
                view = JobView(job_id, IN_PROGRESS, job.worker if job else None)
                return view, [body for _, body in chunks]
            if job is None:
                return await self.view(job_id), []
            left = end - self.clock.elapsed()
            if left <= 0:
                return live_view(job, self.clock.now()), []
            if job.id in self.live and job.changes == changes:
                await job.change(left)

    def health(self) -> dict[str, int]:
        queued = self.queue.core.waiting_durable
        return {
            "completed": self.counts["completed"],
            "failed": self.counts["failed"],
            "inProgress": len(self.live) - queued,
            "inQueue": queued,
            "retried": self.counts["retried"],
        }

    def _record(self, job: Job, state: str, error: str | None, now_us: int) -> None:
        """One record for the metrics, as of any request."""
        if self.sink is None:
            return
        worker = self.workers.get(job.worker or "") or self.queue.push_worker(job.worker or "")
        begun = job.assigned_us or now_us
        record = Record(
            id=job.id, endpoint_id=self.endpoint_id, endpoint=self.name, route="/run", streamed=False,
            arrived_us=job.queued_us, worker_id=job.worker, queue_s=(begun - job.queued_us) / 1e6,
            total_s=(now_us - job.queued_us) / 1e6, status=STATUS[state], error=error,
            retries=job.retried, origin={} if job.key else dict(parse_qsl(job.ticket.client)), key=job.key,
        )  # fmt: skip
        if worker is not None:
            record.rate = worker.rate
            record.cold = worker.ready > job.ticket.arrived
            if record.cold:
                record.start_s = max(0.0, worker.ready - max(job.ticket.arrived, worker.launched))
                record.phases = worker.phases
            record.share_s = job.share_s
            if (
                isinstance(worker, PullWorker)
                and (mark := worker.marks.get(job.ticket)) is not None
            ):
                record.share_s = worker.share(self.clock.elapsed(), mark)
        if job.assigned_us and state == COMPLETED:
            record.first_byte_s = record.total_s
        self.sink.request(record)

    # --- the end of this backend --------------------------------------------------------------------

    def close(self) -> None:
        self._closed = True
        self.deadlines.close()
        for task in list(self._tasks):
            task.cancel()

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a job of %s: %s", self.name, error, exc_info=error)


def _ticket(job_id: str, client: str, arrived: float, low: bool) -> Ticket:
    priority = LOW_PRIORITY if low else 0
    return Ticket(job_id, client, arrived, arrived, priority, low, durable=True)


def _seconds(execution_ms: int | None, limits: JobLimits) -> float:
    return execution_ms / 1000 if execution_ms is not None else limits.execution_s
