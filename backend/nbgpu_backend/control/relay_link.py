"""The backend's line to the relay of one handler worker, kept up as long as the instance lives.

What the handler posts is stored in its order and then acknowledged; what the relay of a dead instance
had not handed on is read from its spool. Posts that come twice are known by their job's state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nbgpu_backend.domain.jobs import read_chunk, read_post
from nbgpu_backend.errors import DiskError
from nbgpu_backend.providers.base import Frame, Post, Relay, RelayHost
from nbgpu_backend.providers.ssh.errors import AWAY
from nbgpu_backend.serving.board import JobBoard
from nbgpu_backend.serving.pull import PullWorker

log = logging.getLogger(__name__)

CONNECT_S = 0.05  # between tries to reach a relay
AWAY_S = 1.0  # … on a host that is not heard
DISK_PAUSE_S = 1.0
BIG = 256 << 10  # a longer post is read in a thread


@dataclass(frozen=True, slots=True)
class _Found:
    """What a relay's hello told, and what it had been sent by then."""

    held: Sequence[str] = ()
    delivered: dict[str, float] = field(default_factory=dict)


class RelayLink:
    """Implements serving.pull.Wire."""

    def __init__(self, provider: RelayHost, name: str, worker_id: str, board: JobBoard) -> None:
        self.asked = asyncio.Event()  # it has asked for a job, or has one: it is ready
        self.unhealthy: str | None = None  # what a check of its own said
        self._provider = provider
        self._name = name
        self._worker_id = worker_id
        self._board = board
        self._relay: Relay | None = None
        self._worker: PullWorker | None = None
        self._want: dict[str, Any] | None = None  # the poll that is open
        self._found = _Found()
        self._unacked = -1  # posts of former times that are still to come
        self._told = False  # all of these have come since the hello
        self._ended: set[str] = set()  # jobs that ended between the hello and attach()
        self._draining = False
        self._posts: asyncio.Queue[Post | _Found] = asyncio.Queue()

    def attach(self, worker: PullWorker) -> None:
        """From now on it gets jobs."""
        self._worker = worker
        self._board.workers[worker.id] = worker
        if self._told:  # the hello came first: what it said could not be acted upon
            held = [job for job in self._found.held if job not in self._ended]
            self._posts.put_nowait(replace(self._found, held=held))
        if self._want is not None:
            self._wants(self._want)

    async def run(self) -> None:
        """Until cancelled."""
        storing = asyncio.create_task(self._store())
        try:
            while True:
                try:
                    relay = await self._provider.relay(self._name)
                except AWAY:  # its jobs are its own until it is heard
                    await asyncio.sleep(AWAY_S)
                    continue
                if relay is None:
                    await asyncio.sleep(CONNECT_S)
                    continue
                self._relay = relay
                try:
                    if self._draining:
                        relay.drain(True)
                    async for frame in relay.frames():
                        self._hear(frame)
                finally:
                    self._relay = None
                    self._forget_poll()
                    relay.close()
        finally:
            storing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await storing

    async def bury(self) -> None:
        """The instance has ended: what its relay had not handed on counts all the same."""
        while True:
            try:
                spool = await self._provider.spool(self._name)
                break
            except AWAY:
                await asyncio.sleep(AWAY_S)
        for post in spool:
            await self._take(post)

    # --- what the relay says ------------------------------------------------------------------------

    def _hear(self, frame: Frame) -> None:
        header, worker = frame.header, self._worker
        if frame.op == "hello":
            self._found = _Found(header["held"], self._board.assignments.delivered(self._worker_id))
            self._told, self._ended = False, set()
            if header["held"]:
                self.asked.set()  # it may be at work for long, and ask for nothing meanwhile
            self._expect(int(header["unacked"]))
        elif frame.op == "post":
            self._posts.put_nowait(
                Post(header["n"], header["kind"], header["job"], header["stream"], frame.body)
            )
            if worker is None and header.get("final"):
                self._ended.add(header["job"])
            self._expect(self._unacked - 1)
        elif frame.op == "want":
            self._want = header
            self.asked.set()
            if worker is not None:
                self._wants(header)
        elif frame.op == "unwant":
            self._forget_poll(header["poll"])
        elif frame.op == "returned" and worker is not None:
            self._board.assignments.returned(worker, header["ids"])
        elif frame.op == "idle" and worker is not None:
            self._board.assignments.idle(worker)
        elif frame.op == "ping" and worker is not None:
            self._board.assignments.ping(worker, header["ids"])
        elif frame.op == "unhealthy":
            self.unhealthy = f"{header.get('check') or 'a check'} failed: {header.get('reason')}"

    def _expect(self, unacked: int) -> None:
        """After the last post of former times it is known what of its jobs never reached it."""
        self._unacked = max(-1, unacked)
        if unacked == 0:
            self._told = True
            self._posts.put_nowait(self._found)

    def _wants(self, header: dict[str, Any]) -> None:
        assert self._worker is not None
        self._board.assignments.want(self._worker, header["poll"], header["n"], header["busy"])

    def _forget_poll(self, poll: int | None = None) -> None:
        if self._want is None or poll not in (None, self._want["poll"]):
            return
        if self._worker is not None:
            self._board.assignments.unwant(self._worker, self._want["poll"])
        self._want = None

    async def _store(self) -> None:
        while True:
            item = await self._posts.get()
            if isinstance(item, _Found):
                if self._worker is not None:
                    self._board.assignments.held_by(self._worker, item.held, item.delivered)
                continue
            await self._take(item)
            if self._relay is not None:
                self._relay.ack(item.n)

    async def _take(self, post: Post) -> None:
        """Store what was posted, once the disk takes it."""
        read: Any = read_post if post.kind == "done" else read_chunk
        body = post.body
        read = await asyncio.to_thread(read, body) if len(body) > BIG else read(body)
        while True:
            try:
                if post.kind == "done":
                    await self._board.done(self._worker_id, post.job, read)
                else:
                    text, nulls = read
                    await self._board.chunk(self._worker_id, post.job, text, post.n, nulls=nulls)
                return
            except DiskError as error:
                log.error("a post of %s waits: %s", self._name, error)
                await asyncio.sleep(DISK_PAUSE_S)

    # --- what it is told ----------------------------------------------------------------------------

    def give(self, poll: int, jobs: Sequence[tuple[str, bytes]]) -> None:
        if not jobs:
            return  # the poll ends by itself
        if self._relay is not None:
            self._relay.jobs(poll, jobs)
        elif self._worker is not None:  # lost since; the next hello would say the same
            self._board.assignments.returned(self._worker, [job_id for job_id, _ in jobs])

    def stop(self, ids: Sequence[str]) -> None:
        if self._relay is not None:
            self._relay.stop(ids)

    def forget(self, ids: Sequence[str]) -> None:
        if self._relay is not None:
            self._relay.forget(ids)

    def drain(self, on: bool) -> None:
        self._draining = on
        if self._relay is not None:
            self._relay.drain(on)
