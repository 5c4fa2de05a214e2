"""The rows of a map on their way: one event loop in one thread, a task for each job in flight."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from nbgpu import errors, submission
from nbgpu.batch.journal import Journal
from nbgpu.batch.link import Link, Unsure
from nbgpu.batch.rows import Row
from nbgpu.verbs.call import part

BUSY_S = (0.05, 30.0)  # how long a 429 is waited out
GRACE_US = 2_000_000  # between our clock and the backend's
BIG = 90_000  # characters of an input that the backend shows whole
LISTED = 2000
START_S = 5.0  # of the thread
REFUSED_ROW = (400, 413, 422)  # the input itself is refused


@dataclass(slots=True)
class Tally:
    """Read by the thread that shows it."""

    total: int
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    ended_here: int = 0  # in this run
    waits: bool = False  # the endpoint takes no more jobs just now
    first_failure: tuple[int, str, str | None] | None = None  # row, state, error


@dataclass(frozen=True, slots=True)
class Policy:
    concurrency: int
    low_priority: bool
    raise_errors: bool
    wait_s: float = 5.0  # one long poll for a job's end
    options: Mapping[str, Any] = field(default_factory=dict)  # of submission.body


class Runner:
    """`start`, then `join` until it is `over`; `stop` leaves what was submitted to the backend."""

    def __init__(
        self, endpoint: str, rows: Sequence[Row], journal: Journal, policy: Policy, tally: Tally,
        connect: Callable[[], Link],
    ) -> None:  # fmt: skip
        self.tally = tally
        self.trouble: BaseException | None = None
        self._endpoint = part(endpoint)
        self._name = endpoint
        self._rows = iter(_in_order(rows, journal))
        self._journal = journal
        self._policy = policy
        self._connect = connect
        self._owned = {entry.job for entry in journal.entries.values() if entry.job}
        self._inputs: dict[str, Any] = {}  # of jobs that might be ours
        self._not_before = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        # A thread whose join() Ctrl-C interrupts passes for ended with some Pythons, though it runs.
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._main, name="nbgpu map", daemon=True)

    # from the other thread

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    @property
    def over(self) -> bool:
        return self._done.is_set()

    def join(self, timeout_s: float | None = None) -> None:
        self._done.wait(timeout_s)

    def stop(self) -> None:
        """Submit nothing more and wait for nothing more."""
        self._ready.wait(START_S)
        if self._loop is not None and self._stopping is not None:
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:  # it has ended
                pass

    # in the thread

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self.trouble = error
        finally:
            self._ready.set()
            self._done.set()

    async def _run(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._link = self._connect()
        self._ready.set()
        try:
            tasks = [asyncio.create_task(self._work()) for _ in range(self._policy.concurrency)]
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            self._stopping.set()
            if rest:
                more, _ = await asyncio.wait(rest)
                done |= more
            for task in done:
                task.result()
        finally:
            await self._link.close()

    @property
    def _stopped(self) -> bool:
        return self._stopping is not None and self._stopping.is_set()

    async def _work(self) -> None:
        for row in self._rows:
            if self._stopped:
                return
            try:
                await self._row(row)
            except _Stopped:
                return

    async def _row(self, row: Row) -> None:
        if row.error is not None:
            self._journal.intend(row.number, row.key)
            self._end(row, submission.FAILED, error=row.error)
            return
        entry = self._journal.entries.get(row.number)
        job = None
        if entry is not None:
            job = entry.job or await self._find(row, entry.at_us)
            if job is not None and entry.job is None:
                self._journal.accepted(row.number, job)
        self.tally.in_flight += 1
        try:
            if job is not None and not self._policy.low_priority and await self._withdrawn(job):
                self._journal.void(row.number)
                job = None
            while True:
                if job is None:
                    job = await self._submit(row)
                    if job is None:
                        return  # refused: it has its end
                found = await self._wait(job)
                if found is not None:
                    break
                self._journal.void(row.number)
                job = None
        finally:
            self.tally.in_flight -= 1
        self._end(
            row, found["status"], output=found.get("output"), error=found.get("error"),
            delay_ms=found.get("delayTime"), execution_ms=found.get("executionTime"),
        )  # fmt: skip

    def _end(self, row: Row, state: str, **more: Any) -> None:
        self._journal.ended(row.number, state, **more)
        self.tally.ended_here += 1
        if state == submission.COMPLETED:
            self.tally.done += 1
            return
        self.tally.failed += 1
        if self.tally.first_failure is None:
            self.tally.first_failure = (row.number, state, more.get("error"))
        if self._policy.raise_errors and self._stopping is not None:
            self._stopping.set()

    # submitting

    async def _submit(self, row: Row) -> str | None:
        """The id of its job; None: its input is refused, and that is its end."""
        body = submission.body(
            row.input, low_priority=self._policy.low_priority, **self._policy.options
        )
        at_us = None  # when it was sent without an answer
        while True:
            await self._patience()
            if at_us is None:
                self._journal.intend(row.number, row.key)
                at_us = self._journal.entries[row.number].at_us
            try:
                answer = await self._link.post(f"/v2/{self._endpoint}/run", body)
            except Unsure:
                if (job := await self._find(row, at_us)) is not None:
                    self._journal.accepted(row.number, job)
                    return job
                continue
            if answer.status_code == 429:
                self._journal.void(row.number)
                at_us = None
                self._busy(answer)
                continue
            self.tally.waits = False
            if answer.status_code == 200:
                job = str(answer.json()["id"])
                self._owned.add(job)
                self._journal.accepted(row.number, job)
                return job
            error = _problem(answer)
            if answer.status_code in REFUSED_ROW:
                self._end(row, submission.FAILED, error=str(error))
                return None
            self._journal.void(row.number)
            raise error

    def _busy(self, answer: httpx.Response) -> None:
        try:
            pause = float(answer.headers.get("Retry-After", "1"))
        except ValueError:
            pause = 1.0
        self.tally.waits = True
        self._not_before = time.monotonic() + min(max(pause, BUSY_S[0]), BUSY_S[1])

    async def _patience(self) -> None:
        """All tasks wait out what one was told. Raises _Stopped."""
        while (left := self._not_before - time.monotonic()) > 0 and not self._stopped:
            await self._pause(left)
        if self._stopped:
            raise _Stopped

    async def _pause(self, seconds: float) -> None:
        assert self._stopping is not None
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            pass

    async def _find(self, row: Row, at_us: int) -> str | None:
        """A job of this input that was accepted while nobody heard of it, if there is one.

        Without it a backend or kernel that dies between accepting and telling would have the row run twice.
        Inputs that are too long for the backend to show whole are not looked for.
        """
        if len(json.dumps(row.input)) > BIG:
            return None
        listed = await self._link.get("/nbgpu/v1/jobs", {"endpoint": self._name, "limit": LISTED})
        if listed.status_code != 200:
            return None
        for job in listed.json()["jobs"]:
            if job["createdUs"] < at_us - GRACE_US:
                break  # newest first
            if job["id"] in self._owned:
                continue
            if job["id"] not in self._inputs:
                detail = await self._link.get(f"/nbgpu/v1/jobs/{part(job['id'])}")
                self._inputs[job["id"]] = detail.json().get("input") if detail.is_success else None
            if self._inputs[job["id"]] == row.input and job["id"] not in self._owned:
                self._owned.add(job["id"])
                return str(job["id"])
        return None

    # waiting

    async def _wait(self, job: str) -> dict[str, Any] | None:
        """Its job object at its end; None: there is no such job any more. Raises _Stopped."""
        path = f"/v2/{self._endpoint}/status-sync/{part(job)}"
        while True:
            answer = await self._unless_stopped(
                self._link.get(
                    path, {"wait": round(self._policy.wait_s * 1000)}, wait_s=self._policy.wait_s
                )
            )
            if answer.status_code == 404:
                known = await self._link.get(f"/nbgpu/v1/jobs/{part(job)}")
                if known.status_code == 404:
                    return None
                if (end := _last(answer, known)) is not None:
                    return end
                await self._pause(0.2)  # a backend that has just begun brings it to life
                continue
            if answer.status_code != 200:
                raise _problem(answer)
            found: dict[str, Any] = answer.json()
            if found["status"] in submission.FINAL:
                return found

    async def _withdrawn(self, job: str) -> bool:
        """Was it left waiting with low priority by an earlier run? Then it is cancelled, so that its row
        is submitted as one that starts a worker."""
        known = await self._link.get(f"/nbgpu/v1/jobs/{part(job)}")
        found = known.json()["job"] if known.status_code == 200 else {}
        if found.get("state") != submission.IN_QUEUE or not found["lowPriority"]:
            return False
        try:
            answer = await self._link.post(f"/v2/{self._endpoint}/cancel/{part(job)}")
        except Unsure:
            return False
        return answer.status_code == 200 and answer.json()["status"] == submission.CANCELLED

    async def _unless_stopped(self, request: Any) -> httpx.Response:
        assert self._stopping is not None
        asking = asyncio.ensure_future(request)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((asking, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise _Stopped
            found: httpx.Response = asking.result()
            return found
        finally:
            asking.cancel()
            stopping.cancel()


class _Stopped(Exception):
    pass


def _in_order(rows: Sequence[Row], journal: Journal) -> Iterator[Row]:
    """Those that were submitted first: their jobs may have ended long ago."""
    yield from (row for row in rows if row.number in journal.entries)
    yield from (row for row in rows if row.number not in journal.entries)


def _last(answer: httpx.Response, known: httpx.Response) -> dict[str, Any] | None:
    """The end of a job whose endpoint was deleted."""
    if known.status_code != 200 or answer.json().get("code") != "endpoint_not_found":
        return None
    detail = known.json()
    job = detail["job"]
    if job["state"] not in submission.FINAL:
        return None
    whole = "output" not in detail.get("shortened", ())
    return {
        "status": job["state"] if whole else submission.FAILED,
        "output": detail.get("output") if whole else None,
        "error": job["error"] if whole else "Its endpoint was deleted before its output was read.",
        "delayTime": job["delayMs"], "executionTime": job["executionMs"],
    }  # fmt: skip


def _problem(answer: httpx.Response) -> errors.OneLine:
    from nbgpu import wire

    try:
        wire.check(answer, list)
    except errors.OneLine as error:
        return error
    return errors.ServiceError(f"The backend answered with status {answer.status_code}.")
