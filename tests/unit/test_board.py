"""The board of jobs on a real store, with a wire that only remembers what it was told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend.clock import SystemClock
from nbgpu_backend.domain.jobs import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    IN_QUEUE,
    TIMED_OUT,
    Verdict,
    read_submission,
)
from nbgpu_backend.errors import Conflict, DiskError, NotFound, QueueFull
from nbgpu_backend.serving.board import JobBoard, JobLimits
from nbgpu_backend.serving.pull import PullWorker
from nbgpu_backend.serving.queue import EndpointQueue
from nbgpu_backend.store.database import Database, open_database
from nbgpu_backend.store.jobs import DROP, JobStore

DAY_S = 86_400.0


class Clock(SystemClock):
    """The machine's, which a test may set: `stepped_s` moves the date, `later_s` all of time."""

    stepped_s = later_s = 0.0

    def now(self) -> int:
        return super().now() + round((self.stepped_s + self.later_s) * 1e6)

    def elapsed(self) -> float:
        return super().elapsed() + self.later_s


class Wire:
    """Implements serving.pull.Wire."""

    def __init__(self) -> None:
        self.given: asyncio.Queue[tuple[int, list[tuple[str, bytes]]]] = asyncio.Queue()
        self.stopped: list[str] = []
        self.forgotten: list[str] = []
        self.draining = False

    def give(self, poll: int, jobs: Sequence[tuple[str, bytes]]) -> None:
        self.given.put_nowait((poll, list(jobs)))

    def stop(self, ids: Sequence[str]) -> None:
        self.stopped += ids

    def forget(self, ids: Sequence[str]) -> None:
        self.forgotten += ids

    def drain(self, on: bool) -> None:
        self.draining = on


class Worker:
    """A pull worker of a board, as its relay would speak for it."""

    def __init__(self, stand: Stand, name: str) -> None:
        self.stand, self.wire = stand, Wire()
        self.ended: list[tuple[str, float | None]] = []
        now = stand.clock.elapsed()
        self.known = stand.board.workers[name] = PullWorker(
            id=name, slots=1, launched=now, ready=now, rate=Decimal(0), phases={}, seen=now,
            on_busy=lambda busy: None, wire=self.wire,
            end=lambda code, text, grace_s: self.ended.append((code, grace_s)),
        )  # fmt: skip
        self.polls = 0

    def want(self, slots: int = 1, busy: bool | None = None) -> None:
        self.polls += 1
        self.stand.board.assignments.want(self.known, self.polls, slots, busy)

    async def given(self) -> list[tuple[str, bytes]]:
        _, jobs = await asyncio.wait_for(self.wire.given.get(), 5)
        return jobs

    async def take(self, slots: int = 1) -> list[str]:
        self.want(slots)
        return [job_id for job_id, _ in await self.given()]

    async def done(self, job_id: str, value: Any = None, **more: Any) -> None:
        verdict = Verdict(COMPLETED, json.dumps(value), **more)
        await self.stand.board.done(self.known.id, job_id, verdict)


class Stand:
    """A board as a backend has it; `restarted` is what the next backend makes of its store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        (folder / "jobs").mkdir(exist_ok=True)
        self.limits = JobLimits(execution_s=600.0, jobs_max=100, kept_s=DAY_S)
        self.database: Database = open_database(folder / "state.db", "state")
        self.begin()

    def begin(self) -> None:
        self.store = JobStore(self.database, self.folder / "jobs")
        self.queue = EndpointQueue("e", 1000, self.clock, lambda: None)
        self.board = JobBoard("ep", "e", self.queue, self.store, self.clock, lambda: self.limits)

    async def restarted(self, *, pulls: bool = True) -> None:
        self.board.close()
        self.begin()
        self.board.counts.update((await self.store.counts()).get("ep", {}))
        for row in await self.store.live():
            self.board.restore(row, pulls=pulls)

    async def submit(self, given: Any = None, *, client: str = "", **more: Any) -> str:
        return await self.raw(json.dumps({"input": given, **more}).encode(), client=client)

    async def raw(self, body: bytes, *, client: str = "") -> str:
        parsed = read_submission(json.loads(body))
        return (await self.board.submit(parsed, body, client)).id

    async def state(self, job_id: str) -> str:
        return (await self.board.view(job_id)).state

    async def stored(self, job_id: str) -> dict[str, Any]:
        row = await self.store.get(job_id)
        assert row is not None
        return row

    @contextlib.asynccontextmanager
    async def bad_disk(self) -> AsyncIterator[None]:
        """The database takes nothing, as on a disk that is full or was made read-only."""
        await self._set("query_only=1")
        yield
        await self._set("query_only=0")

    async def _set(self, pragma: str) -> None:
        await self.database.writer.write(lambda c: c.exec_driver_sql(f"PRAGMA {pragma}").close())

    def counters_are_zero(self) -> None:
        health = self.board.health()
        assert health["inQueue"] == health["inProgress"] == self.queue.core.in_progress() == 0


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.board.close()
    await asyncio.to_thread(made.database.close)


async def soon(look: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not look():
            await asyncio.sleep(0.005)


# --- the way of a job -----------------------------------------------------------------------------


async def test_a_job_is_stored_before_each_step_is_told(stand: Stand) -> None:
    job = await stand.submit({"n": 1})
    assert (await stand.stored(job))["state"] == IN_QUEUE
    worker = Worker(stand, "w")
    worker.want()
    ((given, body),) = await worker.given()
    assert given == job and json.loads(body) == {"id": job, "input": {"n": 1}}
    row = await stand.stored(job)
    assert (row["state"], row["worker_id"]) == (IN_PROGRESS, "w")
    await worker.done(job, 7)
    assert (await stand.stored(job))["output"] == b"7"
    stand.counters_are_zero()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
async def test_a_submission_in_any_of_jsons_encodings_reaches_the_worker_readable(
    stand: Stand, encoding: str
) -> None:
    job = await stand.raw('{"input": "grün"}'.encode(encoding))
    worker = Worker(stand, "w")
    worker.want()
    ((_, body),) = await worker.given()
    assert json.loads(body.decode("utf-8")) == {"id": job, "input": "grün"}


async def test_a_lone_surrogate_does_not_spoil_the_batch_that_it_comes_with(stand: Stand) -> None:
    await stand.raw(b'{"input": "\xed\xa0\x80"}')
    worker = Worker(stand, "w")
    worker.want()
    ((_, body),) = await worker.given()
    assert json.loads(body.decode("utf-8"))["input"] == "\ud800"


async def test_the_bound_is_told_and_ends_with_the_jobs(stand: Stand) -> None:
    stand.limits = JobLimits(600.0, 2, DAY_S)
    for _ in range(2):
        await stand.submit()
    with pytest.raises(QueueFull):
        await stand.submit()
    assert await stand.board.purge() == 2
    await stand.submit()


async def test_clients_take_turns_and_low_priority_comes_last(stand: Stand) -> None:
    many = [await stand.submit(n, client="a") for n in range(3)]
    low = await stand.submit(policy={"lowPriority": True}, client="c")
    other = await stand.submit(client="b")
    assert await Worker(stand, "w").take(5) == [many[0], other, many[1], many[2], low]


# --- what a worker may post -----------------------------------------------------------------------


async def test_repeated_late_and_strange_posts_change_nothing(stand: Stand) -> None:
    job = await stand.submit()
    worker, other = Worker(stand, "w"), Worker(stand, "x")
    await worker.take()
    await other.done(job, "not its own")
    assert await stand.state(job) == IN_PROGRESS
    await worker.done(job, 1)
    await worker.done(job, 2)
    await stand.board.done("w", job, Verdict(IN_PROGRESS, '"late"'))
    await stand.board.chunk("w", job, '"late"', 9)
    await stand.board.done("w", "no-such-job", Verdict(COMPLETED, "3"))
    assert (await stand.board.view(job)).output == b"1"
    assert (await stand.board.stream(job, 0))[1] == []
    stand.counters_are_zero()


async def test_a_cancelled_job_holds_its_slot_until_its_worker_lets_go(stand: Stand) -> None:
    first, second = await stand.submit(), await stand.submit()
    worker = Worker(stand, "w")
    await worker.take()
    assert (await stand.board.cancel(first)).state == CANCELLED
    assert worker.wire.stopped == [first] and worker.wire.draining
    worker.want(busy=True)
    assert stand.queue.core.holding("w") == 1 and worker.wire.given.empty()
    await worker.done(first, "too late")
    assert await stand.state(first) == CANCELLED and not worker.wire.draining
    assert await worker.take() == [second]


async def test_a_worker_that_keeps_a_cancelled_job_is_ended(stand: Stand) -> None:
    job = await stand.submit()
    worker = Worker(stand, "w")
    await worker.take()
    await stand.board.cancel(job)
    stand.clock.later_s += 4
    await soon(lambda: worker.ended)
    assert worker.ended[0] == ("job_stopped", 1.0)


async def test_a_handler_that_wants_to_be_replaced_is_drained(stand: Stand) -> None:
    job = await stand.submit()
    worker = Worker(stand, "w")
    await worker.take()
    await worker.done(job, stop_worker=True)
    assert worker.ended == [("refresh", None)]


# --- deaths ---------------------------------------------------------------------------------------


async def test_a_job_whose_workers_die_fails_with_the_last_reason(stand: Stand) -> None:
    job = await stand.submit()
    for n in range(3):
        assert await Worker(stand, f"w{n}").take() == [job]
        stand.board.gone(f"w{n}", f"death {n}")
    view = await stand.board.view(job, 5)
    assert view.state == FAILED and "3 workers" in view.error and "death 2" in view.error  # type: ignore[operator]
    assert stand.board.health()["retried"] == 2
    await soon(lambda: not stand.queue.core.in_progress())
    stand.counters_are_zero()


async def test_what_was_handed_back_never_ran_and_is_not_counted(stand: Stand) -> None:
    job = await stand.submit()
    worker = Worker(stand, "w")
    for _ in range(5):
        assert await worker.take() == [job]
        stand.board.assignments.returned(worker.known, [job])
    assert await worker.take() == [job]
    assert stand.board.live[job].ticket.tries == 1 and stand.board.health()["retried"] == 0


async def test_the_post_of_a_worker_that_lost_the_job_is_ignored(stand: Stand) -> None:
    job = await stand.submit()
    old, new = Worker(stand, "old"), Worker(stand, "new")
    await old.take()
    stand.board.gone("old", "killed")
    await new.take()
    await old.done(job, "old")
    await new.done(job, "new")
    assert (await stand.board.view(job)).output == b'"new"'
    stand.counters_are_zero()


# --- another backend ------------------------------------------------------------------------------


async def test_the_next_backend_has_what_waits_and_what_runs(stand: Stand) -> None:
    running = await stand.submit("running")
    await Worker(stand, "w").take()
    waiting = await stand.submit("waiting")
    await stand.restarted()
    assert stand.board.health() | {"completed": 0} == {
        "completed": 0, "failed": 0, "inProgress": 1, "inQueue": 1, "retried": 0,
    }  # fmt: skip
    worker = Worker(stand, "w")
    await worker.done(running, "kept")
    assert await worker.take() == [waiting]
    await worker.done(waiting)
    stand.counters_are_zero()


async def test_a_job_that_its_found_worker_does_not_have_goes_back_uncounted(stand: Stand) -> None:
    job = await stand.submit()
    await Worker(stand, "w").take()
    await stand.restarted()
    worker = Worker(stand, "w")
    stand.board.assignments.held_by(worker.known, [], stand.board.assignments.delivered("w"))
    assert await worker.take() == [job] and stand.board.health()["retried"] == 0


async def test_chunks_of_a_job_that_waited_through_a_restart_are_all_handed_out(
    stand: Stand,
) -> None:
    """From a worker whose chunks carry no number: one that polls the backend itself, or vLLM."""
    job = await stand.submit()
    await stand.restarted()
    worker = Worker(stand, "w")
    await worker.take()
    for n in range(3):
        await stand.board.chunk("w", job, str(n))
    assert (await stand.board.stream(job, 0))[1] == [b"0", b"1", b"2"]


async def test_chunks_go_on_where_they_were_after_a_restart(stand: Stand) -> None:
    job = await stand.submit()
    await Worker(stand, "w").take()
    for n in range(2):
        await stand.board.chunk("w", job, str(n))
    assert len((await stand.board.stream(job, 0))[1]) == 2
    await stand.restarted()
    Worker(stand, "w")
    for n in range(2, 5):
        await stand.board.chunk("w", job, str(n))
    assert (await stand.board.stream(job, 0))[1] == [b"2", b"3", b"4"]


async def test_chunks_of_a_job_retried_by_hand_are_all_handed_out(stand: Stand) -> None:
    job = await stand.submit()
    worker = Worker(stand, "w")
    await worker.take()
    await stand.board.chunk("w", job, '"of the first time"')
    await stand.board.done("w", job, Verdict(FAILED, error="no"))
    assert (await stand.board.retry(job)).state == IN_QUEUE
    await worker.take()
    for n in range(2):
        await stand.board.chunk("w", job, str(n))
    assert (await stand.board.stream(job, 0))[1] == [b"0", b"1"]


# --- time -----------------------------------------------------------------------------------------


async def test_an_execution_time_out_counts_from_the_delivery(stand: Stand) -> None:
    job = await stand.submit(policy={"executionTimeout": 5_000})
    stand.clock.later_s += 60
    worker = Worker(stand, "w")
    await worker.take()
    assert await stand.state(job) == IN_PROGRESS
    stand.clock.later_s += 5
    stand.board.deadlines.arm(0)
    view = await stand.board.view(job, 5)
    assert view.state == TIMED_OUT and "5 s, its execution time-out" in str(view.error)
    await worker.done(job, "late")
    assert await stand.state(job) == TIMED_OUT
    stand.counters_are_zero()


@pytest.mark.parametrize("step_s", [-DAY_S, -3600.0, 3600.0])
async def test_a_date_that_steps_ends_no_job_and_gives_no_negative_times(
    stand: Stand, step_s: float
) -> None:
    job = await stand.submit(policy={"executionTimeout": 60_000, "ttl": 600_000})
    worker = Worker(stand, "w")
    await worker.take()
    stand.clock.stepped_s = step_s
    stand.board.deadlines.arm(0)
    await asyncio.sleep(0.05)
    assert await stand.state(job) == IN_PROGRESS
    await worker.done(job)
    view = await stand.board.view(job)
    assert view.state == COMPLETED and view.delay_ms >= 0 and view.execution_ms >= 0


async def test_a_result_is_gone_when_it_was_kept_long_enough(stand: Stand) -> None:
    stand.limits = JobLimits(600.0, 100, 5.0)
    job = await stand.submit("x" * 100_000)
    worker = Worker(stand, "w")
    await worker.take()
    await worker.done(job, "y" * 100_000)
    assert len(list((stand.folder / "jobs").iterdir())) == 2
    stand.clock.later_s += 6
    with pytest.raises(NotFound):
        await stand.board.view(job)
    with pytest.raises(NotFound):
        await stand.board.stream(job, 0)
    assert await stand.store.drop(stand.clock.now()) == 1
    assert list((stand.folder / "jobs").iterdir()) == []


# --- the disk -------------------------------------------------------------------------------------


async def test_a_submission_that_a_full_disk_refuses_leaves_nothing(stand: Stand) -> None:
    async with stand.bad_disk():
        for size in (10, 100_000):
            with pytest.raises(DiskError):
                await stand.submit("x" * size)
    assert await stand.store.live() == [] and stand.board.live == {}
    assert list((stand.folder / "jobs").iterdir()) == []


async def test_a_result_that_a_full_disk_refuses_is_stored_when_there_is_room(
    stand: Stand,
) -> None:
    job = await stand.submit()
    worker = Worker(stand, "w")
    await worker.take()
    async with stand.bad_disk():
        with pytest.raises(DiskError):
            await worker.done(job, "y" * 60_000)
        assert await stand.state(job) == IN_PROGRESS
    await worker.done(job, "y" * 60_000)
    assert await stand.state(job) == COMPLETED
    stand.counters_are_zero()


async def test_a_job_cancelled_while_its_assignment_fails_stays_cancelled(stand: Stand) -> None:
    job = await stand.submit()
    worker = Worker(stand, "w")
    async with stand.bad_disk():
        worker.want()
        await asyncio.sleep(0.2)  # the assignment has failed; it is tried again after a pause
    assert (await stand.board.cancel(job)).state == CANCELLED
    assert await worker.given() == []
    await asyncio.sleep(0.05)
    assert (await stand.stored(job))["state"] == CANCELLED
    assert await stand.state(job) == CANCELLED
    stand.counters_are_zero()


async def test_a_job_is_not_taken_from_the_worker_that_got_it_meanwhile(stand: Stand) -> None:
    """Its first assignment failed, that worker died, another one has it."""
    job = await stand.submit()
    async with stand.bad_disk():
        Worker(stand, "first").want()
        await asyncio.sleep(0.2)
    stand.board.gone("first", "killed")
    second = Worker(stand, "second")
    assert await second.take() == [job]
    await asyncio.sleep(1.2)  # the pause after the failed assignment
    assert await stand.state(job) == IN_PROGRESS and stand.queue.core.holding("second") == 1
    await second.done(job, "once")
    assert (await stand.board.view(job)).output == b'"once"'


async def test_a_job_whose_input_is_gone_fails_and_holds_no_slot(stand: Stand) -> None:
    job = await stand.submit("x" * 100_000)
    stand.store.path(job, "in").unlink()
    worker = Worker(stand, "w")
    worker.want()
    assert await worker.given() == []
    view = await stand.board.view(job)
    assert view.state == FAILED and "input" in str(view.error)
    stand.counters_are_zero()


async def test_a_retry_that_cannot_be_stored_keeps_the_old_output(stand: Stand) -> None:
    job = await stand.submit()
    worker = Worker(stand, "w")
    await worker.take()
    await stand.board.done("w", job, Verdict(FAILED, json.dumps("y" * 100_000), "no"))
    async with stand.bad_disk():
        with pytest.raises(DiskError):
            await stand.board.retry(job)
    view = await stand.board.view(job)
    assert view.state == FAILED and len(view.output or b"") > 100_000


async def test_only_failed_and_timed_out_jobs_are_retried(stand: Stand) -> None:
    job = await stand.submit()
    with pytest.raises(Conflict):
        await stand.board.retry(job)
    await stand.board.cancel(job)
    with pytest.raises(Conflict):
        await stand.board.retry(job)
    with pytest.raises(NotFound):
        await stand.board.retry("no-such-job")


async def test_a_reader_hears_of_a_chunk_that_is_stored_while_it_looks(stand: Stand) -> None:
    job = await stand.submit()
    await Worker(stand, "w").take()
    for n in range(200):
        reading = asyncio.create_task(stand.board.stream(job, 3.0))
        await asyncio.sleep(0.0005 * (n % 4))
        await stand.board.chunk("w", job, str(n))
        assert (await asyncio.wait_for(reading, 1.0))[1] == [str(n).encode()]


async def test_an_end_with_nulls_that_a_full_disk_refuses_is_noted_once(stand: Stand) -> None:
    job = await stand.submit()
    worker = Worker(stand, "w")
    await worker.take()
    async with stand.bad_disk():
        with pytest.raises(DiskError):
            await worker.done(job, [None], nulls=1)
    await worker.done(job, [None], nulls=1)
    (line,) = (await stand.stored(job))["history"].splitlines()
    assert json.loads(line)[1:] == ["nulls", "1 in its output"]


async def test_files_of_a_submission_that_was_cut_off_before_its_row_are_swept(
    stand: Stand,
) -> None:
    long = await stand.submit("x" * 100_000)
    folder = stand.folder / "jobs"
    for name in ("01-cut-u1.in", "01-cut-u1.out.tmp", f"{long}.out"):
        (folder / name).write_bytes(b"{}")
    found = stand.store.files()
    later = await stand.submit("y" * 100_000)
    (folder / "02-not-yet-u1.in").write_bytes(b"{}")  # its row is on its way
    assert await stand.store.sweep(found) == 2
    assert {path.name for path in folder.iterdir()} == {
        f"{long}.in", f"{long}.out", f"{later}.in", "02-not-yet-u1.in",
    }  # fmt: skip


async def test_many_files_are_swept_in_steps(stand: Stand) -> None:
    kept = await stand.submit("x" * 100_000)
    for n in range(DROP + 10):
        (stand.folder / "jobs" / f"{n}.in").touch()
    assert await stand.store.sweep(stand.store.files()) == DROP + 10
    assert [path.name for path in (stand.folder / "jobs").iterdir()] == [f"{kept}.in"]
