"""A relay that a new backend finds again: what its handler has, what it lacks, what it streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend.clock import SystemClock
from nbgpu_backend.control.relay_link import RelayLink
from nbgpu_backend.domain.jobs import IN_PROGRESS, Verdict, read_submission
from nbgpu_backend.errors import DiskError
from nbgpu_backend.providers.base import Frame, Post, Relay
from nbgpu_backend.serving.board import JobBoard, JobLimits
from nbgpu_backend.serving.external import ExternalWorkers
from nbgpu_backend.serving.pull import PullWorker
from nbgpu_backend.serving.queue import EndpointQueue
from nbgpu_backend.store.database import Database, open_database
from nbgpu_backend.store.jobs import JobStore

WORKER = "w-1"


class FakeRelay:
    """A stream whose frames the test says."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[Frame] = asyncio.Queue()
        self.given: list[str] = []

    def say(self, op: str, body: bytes = b"", **header: Any) -> None:
        self.said.put_nowait(Frame(op, {"op": op, **header}, body))

    async def frames(self) -> AsyncIterator[Frame]:
        while True:
            yield await self.said.get()

    def jobs(self, poll: int, jobs: Iterable[tuple[str, bytes]]) -> None:
        self.given += [job for job, _ in jobs]

    def stop(self, ids: Iterable[str]) -> None: ...

    def forget(self, ids: Iterable[str]) -> None: ...

    def ack(self, n: int) -> None: ...

    def drain(self, on: bool) -> None: ...

    def close(self) -> None: ...


class Host:
    def __init__(self, relay: FakeRelay) -> None:
        self._relay = relay

    async def relay(self, name: str) -> Relay | None:
        return self._relay

    async def spool(self, name: str) -> Sequence[Post]:
        return ()


class Stand:
    """A board with its store; `again()` is the same after a kill, as the next backend reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database: Database = open_database(folder / "state.db", "state")
        self.store = JobStore(self.database, folder)
        self.clock = SystemClock()
        queue = EndpointQueue("work", 1000, self.clock, lambda: None)
        limits = JobLimits(600.0, 1000, 3600.0)
        self.board = JobBoard("ep-1", "work", queue, self.store, self.clock, lambda: limits)

    async def submit(self) -> str:
        raw = b'{"input": 1}'
        return (await self.board.submit(read_submission({"input": 1}), raw, "")).id

    async def given(self) -> str:
        """A job that was assigned to WORKER when the backend was killed."""
        job = await self.submit()
        await self.store.put("assign", key=job, worker=WORKER, at=self.clock.now())
        return job

    async def again(self) -> Stand:
        self.close()
        found = Stand(self.folder)
        for row in await found.store.live():
            found.board.restore(row, pulls=True)
        return found

    def worker(self, link: RelayLink) -> PullWorker:
        now = self.clock.elapsed()
        return PullWorker(
            id=WORKER, slots=1, launched=now, ready=now, rate=Decimal(0), phases={},
            on_busy=lambda busy: None, wire=link, end=lambda *_: None, seen=now,
        )  # fmt: skip

    def close(self) -> None:
        self.board.close()
        self.database.close()


async def state_of(stand: Stand, job: str, wanted: str) -> None:
    async with asyncio.timeout(10):
        while (await stand.board.view(job)).state != wanted:
            await asyncio.sleep(0.005)


async def test_a_job_that_never_reached_a_worker_goes_to_it_once_that_worker_is_ready(
    tmp_path: Path,
) -> None:
    """The backend was killed before it had written down that the worker is ready."""
    stand = Stand(tmp_path)
    job = await stand.given()
    stand = await stand.again()
    relay = FakeRelay()
    link = RelayLink(Host(relay), "name", WORKER, stand.board)
    running = asyncio.create_task(link.run())
    try:
        relay.say("hello", held=[], unacked=0)
        relay.say("want", poll=1, n=1, busy=False)
        async with asyncio.timeout(10):
            await link.asked.wait()
        for _ in range(5):  # what was heard is dealt with
            await asyncio.sleep(0)
        link.attach(stand.worker(link))
        async with asyncio.timeout(10):
            while not relay.given:
                await asyncio.sleep(0.005)
        assert relay.given == [job]
        assert stand.board.health()["retried"] == 0
    finally:
        running.cancel()
        await asyncio.wait([running])
        stand.close()


async def test_a_worker_at_work_is_ready_though_it_asks_for_nothing(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    job = await stand.given()
    stand = await stand.again()
    relay = FakeRelay()
    link = RelayLink(Host(relay), "name", WORKER, stand.board)
    running = asyncio.create_task(link.run())
    try:
        relay.say("hello", held=[job], unacked=0)
        async with asyncio.timeout(10):
            await link.asked.wait()
        link.attach(stand.worker(link))
        done = b'{"output": 7}'
        relay.say("post", done, n=1, kind="done", job=job, stream=False, final=True)
        await state_of(stand, job, "COMPLETED")
        assert stand.board.assignments.delivered(WORKER) == {}
    finally:
        running.cancel()
        await asyncio.wait([running])
        stand.close()


async def test_a_chunk_that_found_no_room_is_stored_when_there_is(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    try:
        job = await stand.given()
        stand = await stand.again()
        await stand.board.chunk(WORKER, job, '"one"', 1)
        write = stand.database.writer.write
        pages = await write(lambda c: int(c.exec_driver_sql("PRAGMA page_count").scalar() or 0))
        await write(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar())
        large = '"' + "x" * 100_000 + '"'
        with pytest.raises(DiskError):
            await stand.board.chunk(WORKER, job, large, 2)
        await write(lambda c: c.exec_driver_sql("PRAGMA max_page_count=100000").scalar())
        await stand.board.chunk(WORKER, job, large, 2)
        _, chunks = await stand.board.stream(job, 0)
        assert chunks == [b'"one"', large.encode()]
    finally:
        stand.close()


async def test_what_a_worker_of_its_own_streams_goes_on_after_a_new_backend(tmp_path: Path) -> None:
    stand = Stand(tmp_path)
    job = await stand.given()
    externals = ExternalWorkers(stand.clock)
    try:
        stand = await stand.again()
        for text in ('"one"', '"two"'):
            await stand.board.chunk(WORKER, job, text)
        stand = await stand.again()
        externals.meet(stand.board, WORKER)
        await asyncio.gather(*(stand.board.chunk(WORKER, job, t) for t in ('"three"', '"four"')))
        _, chunks = await stand.board.stream(job, 0)
        assert sorted(chunks) == sorted([b'"one"', b'"two"', b'"three"', b'"four"'])
        await stand.board.done(WORKER, job, Verdict("COMPLETED", "[]"))
        assert (await stand.board.view(job)).state != IN_PROGRESS
    finally:
        externals.close()
        stand.close()
