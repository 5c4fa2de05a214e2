"""Which worker has which job of an endpoint: what is given to it, what it says, what is taken back.

An assignment is stored before its worker gets the job. A worker holds a job's slot until it is known to
have let go of it, which may be after the job's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from nbgpu_backend.domain.dispatch import ASSIGNED, Ticket
from nbgpu_backend.domain.jobs import FAILED, IN_PROGRESS, Verdict
from nbgpu_backend.errors import DiskError, WorkerDied
from nbgpu_backend.serving.job import Job
from nbgpu_backend.serving.pull import KILL_S, PullWorker
from nbgpu_backend.serving.worker import PushWorker

if TYPE_CHECKING:
    from nbgpu_backend.serving.board import JobBoard

log = logging.getLogger(__name__)

DISK_PAUSE_S = 1.0  # between tries to write to a full disk


class PushRunner(Protocol):
    """Runs a job on a worker that is pushed to."""

    async def run(
        self, worker: PushWorker, body: bytes, emit: Callable[[str], Awaitable[None]]
    ) -> Verdict:
        """Raises WorkerDied once no process of the worker is left."""
        ...


class Assignments:
    """`workers` are those that fetch their jobs; those that are pushed to are the queue's."""

    def __init__(self, board: JobBoard) -> None:
        self.workers: dict[str, PullWorker] = {}
        self._board = board
        self._live, self._queue = board.live, board.queue
        self._store, self._clock = board.store, board.clock

    # --- what is given to workers -----------------------------------------------------------------

    def assign(self, tickets: list[Ticket]) -> None:
        """The queue has matched these; each is stored as assigned, then goes to its worker."""
        now_us = self._clock.now()
        groups: dict[str, list[Job]] = {}
        for ticket in tickets:
            job = self._live[ticket.id]
            assert ticket.worker is not None
            job.worker, job.assigned_us, job.state = ticket.worker, now_us, IN_PROGRESS
            stored = self._store.put("assign", key=job.id, worker=ticket.worker, at=now_us)
            groups.setdefault(ticket.worker, []).append(job)
        for worker_id, group in groups.items():  # one turn, one future
            worker = self.workers.get(worker_id)
            if worker is not None:
                poll, worker.poll = worker.poll, None
                assert poll is not None
                worker.giving.add(poll)
                self._board.later(self._give(worker, poll, group, stored))
            else:
                for job in group:
                    self._board.later(self._push(job, stored))

    async def _ready(self, jobs: Iterable[Job], stored: asyncio.Future[None]) -> dict[str, bytes]:
        """The bodies, once the assignments are stored. Raises DiskError."""
        bodies = {}
        for job in jobs:
            bodies[job.id] = job.body if job.body is not None else await self._store.body(job.id)
        await stored
        missing = [job_id for job_id, body in bodies.items() if body is None]
        for job_id in missing:
            if (lost := self._live.get(job_id)) is not None:
                await self._board.settle(lost, FAILED, error="Its input is no longer on the disk.")
        return {job_id: body for job_id, body in bodies.items() if body is not None}

    async def _give(
        self, worker: PullWorker, poll: int, jobs: list[Job], stored: asyncio.Future[None]
    ) -> None:
        try:
            bodies = await self._ready(jobs, stored)
        except DiskError as error:
            log.error("jobs of %s cannot be assigned: %s", self._board.name, error)
            await asyncio.sleep(DISK_PAUSE_S)
            worker.giving.discard(poll)
            worker.wire.give(poll, ())
            for job in jobs:
                await self._take_back(job, worker.id, "not stored")
            return
        now = self._clock.elapsed()
        given = []
        for job in jobs:
            if self._deliver(job, worker, now) and job.id in bodies:
                worker.given[job.id] = now
                given.append((job.id, bodies[job.id]))
        worker.giving.discard(poll)
        worker.wire.give(poll, given)

    def _deliver(self, job: Job, worker: PullWorker | PushWorker, now: float) -> bool:
        """False where it was cancelled or its worker died in between."""
        ticket = job.ticket
        if ticket.state == ASSIGNED and ticket.worker == worker.id and self._queue.core.deliver(ticket):  # fmt: skip
            job.started = now
            if isinstance(worker, PullWorker):
                worker.marks[ticket] = worker.take(now)
            self._board.deadlines.watch(job)
            return True
        if ticket.worker == worker.id:
            self._queue.release(ticket)
        return False

    async def _push(self, job: Job, stored: asyncio.Future[None]) -> None:
        assert job.worker is not None and self._board.runner is not None
        worker_id = job.worker
        try:
            bodies = await self._ready([job], stored)
        except DiskError:
            await asyncio.sleep(DISK_PAUSE_S)
            await self._take_back(job, worker_id, "not stored")
            return
        worker = self._queue.push_worker(worker_id)
        if worker is None:  # it died in between
            await self._take_back(job, worker_id, "its worker died")
        elif self._deliver(job, worker, self._clock.elapsed()) and job.id in bodies:
            await self._run(job, worker, bodies[job.id])

    async def _run(self, job: Job, worker: PushWorker, body: bytes) -> None:
        assert self._board.runner is not None
        job.run, mark = asyncio.current_task(), worker.take(self._clock.elapsed())
        try:
            verdict = await self._board.runner.run(
                worker, body, lambda text: self._board.chunk(worker.id, job.id, text)
            )
        except WorkerDied as error:
            verdict = None
            why = error.what
        except asyncio.CancelledError:  # it has an end already, or this backend goes
            self._queue.release(job.ticket)
            raise
        finally:
            job.run = None
            job.share_s += worker.leave(self._clock.elapsed(), mark)
        if verdict is None and job.settling is None:
            self._board.again_or_fail(job, why)
            return
        if verdict is not None:
            await self._board.patiently(lambda: self._board.end(job, verdict))
        self._queue.release(job.ticket)

    # --- what they say ----------------------------------------------------------------------------

    def want(self, worker: PullWorker, poll: int, slots: int, busy: bool | None) -> None:
        """A poll came. `busy` False: it works on nothing."""
        worker.seen = self._clock.elapsed()
        worker.wanted, worker.slots = slots, max(1, worker.held + slots)
        if busy is False:
            self.idle(worker)
        if worker.leaving or worker.dropping:
            return
        worker.poll = poll
        self._queue.poll(worker.id, slots, worker.ready)

    def idle(self, worker: PullWorker) -> None:
        """It works on nothing: what it was told to drop is gone."""
        worker.seen = self._clock.elapsed()
        for ticket in list(worker.dropping):
            self.release(worker, ticket)

    def unwant(self, worker: PullWorker, poll: int) -> None:
        if worker.poll == poll:
            worker.poll = None
            self._queue.withdraw(worker.id)

    def returned(self, worker: PullWorker, ids: Iterable[str]) -> None:
        """Jobs that found no poll: they never ran."""
        for job_id in ids:
            job = self._live.get(job_id)
            if job is not None and job.worker == worker.id and job.settling is None:
                self._unmark(worker, job.ticket)
                job.ticket.tries -= 1
                self._board.put_back(job, "the worker had hung up", counted=False)
            elif (ticket := self.held(worker.id, job_id)) is not None:
                self.release(worker, ticket)

    def ping(self, worker: PullWorker, ids: Iterable[str]) -> None:
        """It says which jobs it works on."""
        now = worker.seen = self._clock.elapsed()
        named = frozenset(ids)
        for ticket in [t for t in worker.dropping if t.id not in named]:
            self.release(worker, ticket)
        for job_id in worker.unlisted(named, now):
            job = self._live.get(job_id)
            if job is not None and job.settling is None:
                self._unmark(worker, job.ticket)
                self._board.again_or_fail(job, "its worker does not know of it")

    def delivered(self, worker_id: str) -> dict[str, float]:
        """Jobs that were sent to it, and when."""
        jobs = (self._live.get(t.id) for t in self._queue.core.held.get(worker_id, ()))
        return {job.id: job.started for job in jobs if job is not None and job.started is not None}

    def held_by(self, worker: PullWorker, ids: Iterable[str], delivered: dict[str, float]) -> None:
        """A relay that was found again said what its handler has. Of what had been `delivered` at that
        moment the rest never reached it; what was sent since is another matter."""
        known = frozenset(ids)
        now = self._clock.elapsed()
        held = {t.id: t for t in self._queue.core.held.get(worker.id, ())}
        for job_id, ticket in held.items():
            job = self._live.get(job_id)
            if job is None and job_id not in known:
                self.release(worker, ticket)
            elif job_id in known:
                worker.given.setdefault(job_id, now)
                if ticket not in worker.marks:
                    worker.marks[ticket] = worker.take(now)
            elif (
                job is not None
                and job.settling is None
                and job.started == delivered.get(job_id, -1)
            ):
                self._unmark(worker, ticket)
                ticket.tries -= 1
                self._board.put_back(job, "it had not reached its worker", counted=False)
        for job_id in known - held.keys():  # final here, and perhaps at work there
            ghost = Ticket(job_id, "", now, now, durable=True)
            self._queue.core.restore(ghost, worker.id)
            self._queue.core.finish(ghost)
            worker.marks[ghost] = worker.take(now)
            worker.stop(ghost, now)
            self._board.deadlines.arm(now + 1)

    # --- what is taken back -----------------------------------------------------------------------

    def stop(self, job: Job) -> None:
        """It has its end already: whoever works on it is told."""
        worker = self.workers.get(job.worker or "")
        if job.run is not None:
            job.run.cancel()
        elif worker is not None and job.started is not None and job.ticket.worker == worker.id:
            worker.stop(job.ticket, self._clock.elapsed())
            self._board.deadlines.arm(self._clock.elapsed() + 1)

    def look(self, now: float) -> None:
        """End the workers that do not let go of jobs which they were told to drop."""
        for worker in list(self.workers.values()):
            if not worker.dropping:
                continue
            limits = {t: worker.given.get(t.id, now) + self._execution(t) for t in worker.dropping}
            if worker.overdue(now, limits):
                ids = ", ".join(t.id for t in worker.dropping)
                text = f"it did not stop {ids}, which has an end already"
                worker.end("job_stopped", text, KILL_S)
            else:
                worker.stop_again()
                self._board.deadlines.arm(now + 1)

    def _execution(self, ticket: Ticket) -> float:
        job = self._live.get(ticket.id)
        return job.execution_s if job else self._board.limits().execution_s

    def gone(self, worker_id: str, why: str) -> None:
        """Its process is dead and what it had posted is stored: its jobs go to others."""
        worker = self.workers.pop(worker_id, None)
        for ticket in list(self._queue.core.held.get(worker_id, ())):
            job = self._live.get(ticket.id)
            if worker is not None:
                self._unmark(worker, ticket)
            if job is None or job.ticket is not ticket:
                self._queue.release(ticket)
            elif job.settling is not None:
                self._board.later(self._release_after(job))
            elif job.started is None:
                self._board.put_back(job, why, counted=False)
            else:
                self._board.again_or_fail(job, why)

    async def _release_after(self, job: Job) -> None:
        """Its end was being stored when its worker died."""
        assert job.settling is not None
        with contextlib.suppress(DiskError):
            await asyncio.shield(job.settling)
        if job.id in self._live:
            self._board.again_or_fail(job, "its worker died")
        else:
            self._queue.release(job.ticket)

    async def _take_back(self, job: Job, worker_id: str, why: str) -> None:
        """An assignment came to nothing. By now the job may have an end, or be another worker's."""
        if job.settling is not None:
            with contextlib.suppress(DiskError):
                await asyncio.shield(job.settling)
        if job.ticket not in self._queue.core.held.get(worker_id, ()):
            return
        if job.id in self._live:
            self._board.put_back(job, why, counted=False)
        else:
            self._queue.release(job.ticket)

    def held(self, worker_id: str, job_id: str) -> Ticket | None:
        held = self._queue.core.held.get(worker_id, ())
        return next((t for t in held if t.id == job_id), None)

    def release(self, worker: PullWorker, ticket: Ticket) -> None:
        """The worker no longer has it."""
        self._unmark(worker, ticket)
        worker.dropped(ticket)
        if ticket.worker == worker.id:
            self._queue.release(ticket)

    def _unmark(self, worker: PullWorker, ticket: Ticket) -> None:
        worker.given.pop(ticket.id, None)
        worker.missed.pop(ticket.id, None)
        if (mark := worker.marks.pop(ticket, None)) is not None:
            worker.leave(self._clock.elapsed(), mark)
