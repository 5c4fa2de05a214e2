"""Pull workers that nobody here started: they poll the backend itself, with its token.

A worker exists from its first poll until it has been silent for a while. Its process is not ours to end:
fencing it means that its jobs go to others and that what it posts of them later is ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from itertools import count

from nbgpu_backend.clock import Clock
from nbgpu_backend.serving.board import JobBoard
from nbgpu_backend.serving.pull import PullWorker

SILENT_S = 30.0  # three pings of the usual 10 s
LOOK_S = 5.0
DRAINED_S = 1.0  # how long a poll is held that gets nothing


class HttpWire:
    """Implements serving.pull.Wire with the worker's own open requests."""

    def __init__(self) -> None:
        self.board: JobBoard | None = None
        self.worker: PullWorker | None = None
        self._polls: dict[int, asyncio.Future[Sequence[tuple[str, bytes]]]] = {}
        self._numbers = count(1)
        self._stop: list[str] = []
        self._stops: set[asyncio.Future[None]] = set()
        self._draining = False

    async def take(
        self, slots: int, busy: bool | None, hold_s: float
    ) -> Sequence[tuple[str, bytes]]:
        """(id, body) of each job; empty when none came. A cancelled call hands jobs back."""
        assert self.board is not None and self.worker is not None
        poll = next(self._numbers)
        answer: asyncio.Future[Sequence[tuple[str, bytes]]]
        answer = self._polls[poll] = asyncio.get_running_loop().create_future()
        self.board.assignments.want(self.worker, poll, slots, busy)
        try:
            await asyncio.wait((answer,), timeout=DRAINED_S if self._draining else hold_s)
            if not answer.done() and poll in self.worker.giving:
                await asyncio.wait((answer,))  # a job is on its way to the disk, then to us
            return answer.result() if answer.done() else ()
        except asyncio.CancelledError:
            if answer.done():
                self.board.assignments.returned(
                    self.worker, [job_id for job_id, _ in answer.result()]
                )
            raise
        finally:
            del self._polls[poll]
            self.board.assignments.unwant(self.worker, poll)

    async def stops(self, hold_s: float) -> list[str]:
        """Ids of jobs to stop, each told once."""
        if not self._stop:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._stops.add(waiting)
            try:
                await asyncio.wait((waiting,), timeout=hold_s)
            finally:
                self._stops.discard(waiting)
        told, self._stop = self._stop, []
        return told

    def give(self, poll: int, jobs: Sequence[tuple[str, bytes]]) -> None:
        answer = self._polls.get(poll)
        if answer is not None and not answer.done():
            answer.set_result(jobs)
        else:
            assert self.board is not None and self.worker is not None
            self.board.assignments.returned(self.worker, [job_id for job_id, _ in jobs])

    def stop(self, ids: Sequence[str]) -> None:
        self._stop += ids
        for waiting in self._stops:
            if not waiting.done():
                waiting.set_result(None)

    def forget(self, ids: Sequence[str]) -> None:
        """Nothing is remembered here."""

    def drain(self, on: bool) -> None:
        self._draining = on
        assert self.worker is not None
        answer = self._polls.get(self.worker.poll or 0) if on else None
        if answer is not None and not answer.done():
            answer.set_result(())


class ExternalWorkers:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wires: dict[tuple[str, str], HttpWire] = {}
        self._watch: asyncio.Task[None] | None = None

    def find(self, board: JobBoard, worker_id: str) -> HttpWire | None:
        return self._wires.get((board.endpoint_id, worker_id))

    def meet(self, board: JobBoard, worker_id: str) -> HttpWire:
        """Known from now on, if it was not."""
        key = (board.endpoint_id, worker_id)
        if (known := self._wires.get(key)) is not None:
            return known
        now, wire = self._clock.elapsed(), HttpWire()
        wire.board = board
        wire.worker = board.workers[worker_id] = PullWorker(
            id=worker_id, slots=1, launched=now, ready=now, rate=Decimal(0), phases={},
            on_busy=lambda busy: None, wire=wire, seen=now,
            end=lambda code, text, grace_s: self._fence(key, text),
        )  # fmt: skip
        self._wires[key] = wire
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())
        return wire

    def of(self, board: JobBoard) -> list[PullWorker]:
        return [w.worker for w in self._wires.values() if w.board is board and w.worker]

    def _fence(self, key: tuple[str, str], why: str) -> None:
        if (wire := self._wires.pop(key, None)) is not None:
            assert wire.board is not None
            wire.drain(True)
            wire.board.gone(key[1], why)

    async def _look(self) -> None:
        while self._wires:
            await asyncio.sleep(LOOK_S)
            now = self._clock.elapsed()
            for key, wire in list(self._wires.items()):
                assert wire.worker is not None
                if wire.worker.poll is None and now - wire.worker.seen > SILENT_S:
                    self._fence(key, f"no sign of life for {SILENT_S:.0f} s")
        self._watch = None

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
