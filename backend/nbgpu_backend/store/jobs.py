"""Jobs in `state.db`. What one turn of the event loop asks for is one piece of work for the writer.

Every write returns the same future for the turn: it is done once all of it is on the disk. Order within
a turn is kept, so that a job may be queued again and assigned in one transaction.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from nbgpu_backend.domain.jobs import COMPLETED, FAILED, IN_PROGRESS, IN_QUEUE, TIMED_OUT
from nbgpu_backend.errors import DiskError
from nbgpu_backend.store.database import Database
from nbgpu_backend.store.tables import job_chunks, job_counts, jobs

T = TypeVar("T")
Row = dict[str, Any]

INLINE = 64 << 10  # a longer text is a file beside the database
DROP = 500  # rows in one step of the clean-up
MOST_FILES = 100_000  # that are looked at when a backend starts

NULLS = "nulls"  # a line of a job's history: values that JSON does not know became null
COUNTED = ("completed", "failed", "retried")

_KEY = jobs.c.id == bindparam("key")
_history = jobs.c.history.op("||")(bindparam("note"))
_counts = upsert(job_counts)

STATEMENTS: dict[str, Any] = {
    "insert": insert(jobs),
    "assign": update(jobs).where(_KEY).values(
        state=IN_PROGRESS, worker_id=bindparam("worker"), assigned_us=bindparam("at"),
        tries=jobs.c.tries + 1,
    ),
    "requeue": update(jobs).where(_KEY).values(
        state=IN_QUEUE, worker_id=None, assigned_us=None, tries=bindparam("tried"),
        retried=jobs.c.retried + bindparam("counted"), history=_history,
    ),
    "finish": update(jobs).where(_KEY).values(
        state=bindparam("to"), finished_us=bindparam("at"), drop_us=bindparam("drop"),
        worker_id=bindparam("worker"), output=bindparam("result"), output_file=bindparam("file"),
        error=bindparam("why"), webhook_state=bindparam("webhook_to"), history=_history,
    ),
    "again": update(jobs).where(_KEY).values(
        state=IN_QUEUE, queued_us=bindparam("at"), assigned_us=None, finished_us=None, drop_us=None,
        worker_id=None, tries=0, output=None, output_file=0, error=None, chunks_read=0,
        history=_history,
    ),
    "chunk": insert(job_chunks).prefix_with("OR IGNORE"),
    "forget_chunks": delete(job_chunks).where(job_chunks.c.job_id == bindparam("key")),
    "read_chunks": update(jobs).where(_KEY).values(chunks_read=bindparam("upto")),
    "note": update(jobs).where(_KEY).values(history=_history),
    "told": update(jobs).where(_KEY).values(webhook_state=bindparam("webhook_to")),
    "count": _counts.on_conflict_do_update(
        index_elements=["endpoint_id"],
        set_={
            name: job_counts.c[name] + _counts.excluded[name]
            for name in COUNTED
        },
    ),
}  # fmt: skip


_BY_ID = select(jobs).where(jobs.c.id == bindparam("key"))
_BODY = select(jobs.c.body).where(jobs.c.id == bindparam("key"))


class JobStore:
    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._work: list[tuple[str, Row]] = []
        self._turn: asyncio.Future[None] | None = None

    def put(self, operation: str, **row: Any) -> asyncio.Future[None]:
        """Done once stored; raises DiskError. `operation` is a key of STATEMENTS."""
        self._work.append((operation, row))
        if self._turn is None:
            loop = asyncio.get_running_loop()
            self._turn = loop.create_future()
            self._turn.add_done_callback(_heard)
            loop.call_soon(self._flush)
        return self._turn

    def _flush(self) -> None:
        work, turn = self._work, self._turn
        assert turn is not None
        self._work, self._turn = [], None
        loop = asyncio.get_running_loop()

        def settle(error: BaseException | None) -> None:
            if not turn.done():
                if error is None:
                    turn.set_result(None)
                else:
                    turn.set_exception(error)

        try:
            written = self._database.writer.submit(
                lambda connection: _apply(connection, work), weight=len(work)
            )
        except RuntimeError:  # the writer is closed: this backend ends
            settle(DiskError("The backend is ending.", "Try again in a moment."))
            return

        def done(future: Any) -> None:
            try:
                loop.call_soon_threadsafe(settle, future.exception())
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        written.add_done_callback(done)

    # --- long texts -------------------------------------------------------------------------------

    def path(self, job_id: str, kind: str) -> Path:
        """`kind` is `in` or `out`."""
        return self._folder / f"{job_id}.{kind}"

    async def write_file(self, job_id: str, kind: str, text: bytes) -> None:
        """On the disk before it returns. Raises DiskError."""
        await asyncio.to_thread(_write_file, self.path(job_id, kind), text)

    async def read_file(self, job_id: str, kind: str) -> bytes | None:
        try:
            return await asyncio.to_thread(self.path(job_id, kind).read_bytes)
        except FileNotFoundError:
            return None

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self, function: Callable[[Connection], T]) -> T:
        return await self._database.read(function)

    async def get(self, job_id: str) -> Row | None:
        def work(connection: Connection) -> Row | None:
            row = connection.execute(_BY_ID, {"key": job_id}).mappings().first()
            return dict(row) if row else None

        return await self._read(work)

    async def body(self, job_id: str) -> bytes | None:
        """What the worker gets, from the row or the file."""
        body = await self._read(lambda c: c.execute(_BODY, {"key": job_id}).scalar())
        return body if body is not None else await self.read_file(job_id, "in")

    async def live(self) -> list[Row]:
        """Every job that has no end yet, oldest first, without its texts."""
        columns = [c for c in jobs.c if c.name not in ("body", "output")]
        query = select(*columns).where(jobs.c.finished_us.is_(None)).order_by(jobs.c.created_us)
        return await self._read(lambda c: [dict(r) for r in c.execute(query).mappings()])

    async def untold(self) -> list[Row]:
        """Jobs whose webhook has not been told of their end."""
        query = select(jobs.c.id, jobs.c.endpoint_id).where(jobs.c.webhook_state == "pending")
        query = query.where(jobs.c.finished_us.is_not(None))
        return await self._read(lambda c: [dict(r) for r in c.execute(query).mappings()])

    async def latest(
        self, endpoint_ids: list[str] | None, states: list[str], limit: int
    ) -> list[Row]:
        """Newest first, without their texts."""
        columns = [c for c in jobs.c if c.name not in ("body", "output")]
        query = select(*columns).order_by(jobs.c.created_us.desc()).limit(limit)
        if endpoint_ids is not None:
            query = query.where(jobs.c.endpoint_id.in_(endpoint_ids))
        if states:
            query = query.where(jobs.c.state.in_(states))
        return await self._read(lambda c: [dict(r) for r in c.execute(query).mappings()])

    async def chunks(self, job_id: str, after: int, size: int) -> list[tuple[int, bytes]]:
        """What was streamed after `after`: about `size` bytes, at least one chunk if there is any."""
        query = select(job_chunks.c.n, job_chunks.c.body)
        query = query.where(job_chunks.c.job_id == job_id, job_chunks.c.n > after)
        query = query.order_by(job_chunks.c.n)

        def work(connection: Connection) -> list[tuple[int, bytes]]:
            found: list[tuple[int, bytes]] = []
            total = 0
            for n, body in connection.execute(query):
                if found and total + len(body) > size:
                    break
                found.append((n, body))
                total += len(body)
            return found

        return await self._read(work)

    async def last_chunk(self, job_id: str) -> int:
        query = select(func.max(job_chunks.c.n)).where(job_chunks.c.job_id == job_id)
        return int(await self._read(lambda c: c.execute(query).scalar()) or 0)

    async def counts(self) -> dict[str, Row]:
        query = select(job_counts)
        return await self._read(
            lambda c: {r["endpoint_id"]: dict(r) for r in c.execute(query).mappings()}
        )

    # --- the clean-up -----------------------------------------------------------------------------

    async def drop(self, now_us: int) -> int:
        """Forget results that were kept long enough; returns how many went."""
        dropped = 0
        while True:
            ids: list[str] = await self._database.writer.write(lambda c: _drop(c, now_us))
            await asyncio.to_thread(self._unlink, ids)
            dropped += len(ids)
            if len(ids) < DROP:
                return dropped
            await asyncio.sleep(0)

    def files(self) -> list[str]:
        """Names of long texts, MOST_FILES at most. Blocks."""
        with os.scandir(self._folder) as entries:
            return [entry.name for entry in islice(entries, MOST_FILES)]

    async def sweep(self, files: Iterable[str]) -> int:
        """Remove those of `files` that belong to no job; returns how many went.

        A text is written before its row, so that a backend killed in between leaves it alone. `files`
        were there before this backend took its first job: none of them still waits for its row.
        """
        swept = 0
        left = iter(files)
        while step := list(islice(left, DROP)):
            ids = {name: name.partition(".")[0] for name in step}
            query = select(jobs.c.id).where(jobs.c.id.in_(set(ids.values())))
            known = set(await self._read(lambda c, q=query: c.execute(q).scalars().all()))  # type: ignore[misc]
            alone = [self._folder / name for name, job_id in ids.items() if job_id not in known]
            await asyncio.to_thread(_remove, alone)
            swept += len(alone)
        return swept

    def _unlink(self, ids: Iterable[str]) -> None:
        _remove(self.path(job_id, kind) for job_id in ids for kind in ("in", "out"))


def note(at_us: int, what: str, why: str = "") -> str:
    """A line of a job's history."""
    return json.dumps([at_us, what, why]) + "\n"


def count_row(endpoint_id: str, state: str = "", retried: int = 0) -> Row:
    return {
        "endpoint_id": endpoint_id,
        "completed": int(state == COMPLETED),
        "failed": int(state in (FAILED, TIMED_OUT)),
        "retried": retried,
    }


def _apply(connection: Connection, work: list[tuple[str, Row]]) -> None:
    """What is asked of one job keeps its order; what is asked of many goes in one statement."""
    counts: dict[str, Row] = {}
    steps: dict[tuple[int, str], list[Row]] = {}
    turns: dict[str, int] = {}
    for operation, row in work:
        if operation == "count":
            total = counts.setdefault(row["endpoint_id"], count_row(row["endpoint_id"]))
            for name in COUNTED:
                total[name] += row[name]
            continue
        job_id = row.get("key") or row.get("job_id") or row["id"]
        turns[job_id] = turn = turns.get(job_id, -1) + 1
        steps.setdefault((turn, operation), []).append(row)
    for (_, operation), rows in sorted(steps.items(), key=lambda step: step[0][0]):
        connection.execute(STATEMENTS[operation], rows)
    if counts:
        connection.execute(STATEMENTS["count"], list(counts.values()))


def _drop(connection: Connection, now_us: int) -> list[str]:
    query = select(jobs.c.id).where(jobs.c.drop_us <= now_us).limit(DROP)
    ids = list(connection.execute(query).scalars())
    if ids:
        connection.execute(delete(job_chunks).where(job_chunks.c.job_id.in_(ids)))
        connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
    return ids


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _write_file(path: Path, text: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DiskError(
            f"{path} cannot be written: {error.strerror}.",
            "Free some space on its disk; nothing that was confirmed is lost.",
        ) from None


def _heard(future: asyncio.Future[None]) -> None:
    """An error that nobody waits for is no bug of asyncio's concern."""
    if not future.cancelled():
        future.exception()
