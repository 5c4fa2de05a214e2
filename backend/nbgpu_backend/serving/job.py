"""A job that has no end yet, and how a job looks to those who ask."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

from nbgpu_backend.domain.dispatch import Ticket
from nbgpu_backend.domain.jobs import IN_QUEUE


@dataclass(slots=True, eq=False)
class Job:
    """Instants in UTC microseconds; `expires`, `started` and `execution_s` in seconds of `elapsed`."""

    id: str
    ticket: Ticket
    created_us: int
    queued_us: int
    expires: float
    execution_s: float
    body: bytes | None = None  # None: it is read from the store when a worker takes it
    webhook: str | None = None
    key: str | None = None  # the id of the key that it came with
    state: str = IN_QUEUE
    worker: str | None = None
    assigned_us: int | None = None
    started: float | None = None  # delivered to its worker
    retried: int = 0
    progress: bytes | None = None  # JSON text, the last that the worker told
    last_chunk: int = 0
    chunks_read: int = 0
    nulls: bool = False  # some of what it streamed is noted as null
    run: asyncio.Task[None] | None = None  # on a push worker
    share_s: float = 0.0  # its part of that worker's busy time
    final: JobView | None = None  # for those who waited for its end
    settling: asyncio.Task[None] | None = None  # its end is being stored
    changes: int = 0
    _watchers: set[asyncio.Future[None]] = field(default_factory=set)

    def due(self) -> float:
        """When it times out."""
        if self.started is None:
            return self.expires
        return min(self.expires, self.started + self.execution_s)

    def changed(self) -> None:
        """Wake all that wait for its end or for what it streams."""
        self.changes += 1
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()

    async def change(self, timeout_s: float) -> None:
        """Return at the next change, or after `timeout_s`."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.add(watcher)
        try:
            await asyncio.wait((watcher,), timeout=max(0.0, timeout_s))
        finally:
            self._watchers.discard(watcher)


def new_id(now_us: int, *, sync: bool) -> str:
    """A version 7 UUID (RFC 9562) with RunPod's prefix and suffix: 74 random bits behind the time, so
    that it cannot be guessed and rows are added at the end of their index."""
    number = (now_us // 1000) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    number |= 0b10 << 62 | secrets.randbits(62)
    text = f"{number:032x}"
    uuid = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return f"{'sync-' if sync else ''}{uuid}-u1"


@dataclass(frozen=True, slots=True)
class JobView:
    """What `/status` says. `output` is JSON text."""

    id: str
    state: str
    worker: str | None = None
    delay_ms: int = 0
    execution_ms: int = 0
    output: bytes | None = None
    error: str | None = None
    retried: int = 0

    def body(self, **more: Any) -> bytes:
        head: dict[str, Any] = {
            "delayTime": self.delay_ms,
            "executionTime": self.execution_ms,
            "id": self.id,
            "status": self.state,
            "workerId": self.worker or "",
        }
        if self.retried:
            head["retries"] = self.retried
        if self.error is not None:
            head["error"] = self.error
        head.update(more)
        text = json.dumps(head).encode()
        if self.output is None:
            return text
        return text[:-1] + b', "output": ' + self.output + b"}"


def settled_view(
    job: Job, state: str, output: bytes | None, error: str | None, now_us: int
) -> JobView:
    """At its end."""
    begun = job.assigned_us
    return JobView(
        job.id,
        state,
        job.worker,
        _ms((begun or now_us) - job.queued_us),
        _ms(now_us - begun) if begun else 0,
        output,
        error,
        job.retried,
    )


def live_view(job: Job, now_us: int) -> JobView:
    """A queued job's delay and a running one's execution time grow."""
    if job.assigned_us is None:
        return JobView(job.id, job.state, None, _ms(now_us - job.queued_us), 0, retried=job.retried)
    return JobView(
        job.id,
        job.state,
        job.worker,
        _ms(job.assigned_us - job.queued_us),
        _ms(now_us - job.assigned_us),
        job.progress,
        retried=job.retried,
    )


def final_view(row: dict[str, Any], output: bytes | None) -> JobView:
    """From a row of `store.tables.jobs`."""
    assigned, finished = row["assigned_us"], row["finished_us"]
    return JobView(
        row["id"],
        row["state"],
        row["worker_id"],
        _ms((assigned or finished) - row["queued_us"]),
        _ms(finished - assigned) if assigned else 0,
        output,
        row["error"],
        row["retried"],
    )


def _ms(us: int) -> int:
    return max(0, us // 1000)


def with_id(job_id: str, parsed: dict[str, Any], raw: bytes) -> bytes:
    """What the worker gets: the submission as it came, with the id.

    A text that is not plain UTF-8 is written anew: the worker could not read it, nor the others of
    its batch.
    """
    text = raw.lstrip()
    if "id" in parsed or text[:1] != b"{" or text[1:2] == b"\0" or not _utf8(text):
        return json.dumps({**parsed, "id": job_id}).encode()
    return b'{"id": "' + job_id.encode() + b'", ' + text[1:]


def _utf8(text: bytes) -> bool:
    try:
        return text.isascii() or bool(text.decode())
    except UnicodeDecodeError:
        return False
