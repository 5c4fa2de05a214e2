"""The one queue of an endpoint: the pure `domain.dispatch.Queue` with what is told to its users.

A request's future resolves to the worker that it was assigned to, or to the error that ended its wait.
Jobs, which have no one waiting on a connection, are handed to `take_jobs` when they are assigned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nbgpu_backend.clock import Clock
from nbgpu_backend.domain.dispatch import Offer, Queue, Ticket
from nbgpu_backend.errors import NbgpuError, QueueFull
from nbgpu_backend.serving.worker import PushWorker


class EndpointQueue:
    """`on_change` is called at every arrival, completion and loss (the scaler's trigger)."""

    def __init__(self, name: str, limit: int, clock: Clock, on_change: Callable[[], None]) -> None:
        self.name = name
        self._clock = clock
        self.core = Queue(limit)
        self.take_jobs: Callable[[list[Ticket]], None] | None = None
        self._on_change = on_change
        self._workers: dict[str, PushWorker] = {}
        self._futures: dict[Ticket, asyncio.Future[PushWorker]] = {}

    # --- requests ---------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> asyncio.Future[PushWorker]:
        """Raises QueueFull."""
        if self.core.full():
            raise QueueFull(
                f"{self.core.waiting} requests wait for '{self.name}' already, which is its limit.",
                "Try again in a few seconds, or raise its workers.",
            )
        self.core.admit(ticket)
        return self._wait(ticket)

    def retry(self, ticket: Ticket) -> asyncio.Future[PushWorker]:
        """Back to its old place (its worker is fenced, or its slot was given up)."""
        if ticket.worker is not None:
            self.core.give_back(ticket)
        return self._wait(ticket)

    def _wait(self, ticket: Ticket) -> asyncio.Future[PushWorker]:
        future: asyncio.Future[PushWorker] = asyncio.get_running_loop().create_future()
        self._futures[ticket] = future
        self._pump()
        return future

    def done(self, ticket: Ticket) -> None:
        """The request has ended, and its slot is free. May be called in any state."""
        self._futures.pop(ticket, None)
        self.core.finish(ticket)
        self.release(ticket)

    def fail_waiting(self, error: NbgpuError) -> int:
        """End the wait of every queued request with `error`; returns how many."""
        futures = [(t, f) for t, f in self._futures.items() if not f.done()]
        for ticket, future in futures:
            self.core.finish(ticket)
            future.set_exception(error)
        return len(futures)

    def fail_line(self, worker_id: str, error: NbgpuError) -> None:
        """End the wait of those that wait for this worker alone: it will not serve again."""
        for ticket in self.core.line(worker_id):
            self.core.finish(ticket)
            future = self._futures.get(ticket)
            if future is not None and not future.done():
                future.set_exception(error)

    # --- jobs -------------------------------------------------------------------------------------

    def enqueue(self, ticket: Ticket) -> None:
        self.core.admit(ticket)
        self._pump()

    def finish(self, ticket: Ticket) -> None:
        """Its end is known; its slot stays held until `release`."""
        self.core.finish(ticket)
        self._on_change()

    def readmit(self, ticket: Ticket) -> None:
        self.core.readmit(ticket)
        self._pump()

    def release(self, ticket: Ticket) -> None:
        self.core.release(ticket)
        self._pump()

    def give_back(self, ticket: Ticket) -> None:
        self.core.give_back(ticket)
        self._pump()

    # --- workers ----------------------------------------------------------------------------------

    def offer(self, worker: PushWorker) -> None:
        self._workers[worker.id] = worker
        self.core.offer(Offer(worker.id, worker.slots, worker.ready))
        self._pump()

    def poll(self, worker_id: str, slots: int, since: float) -> None:
        """A pull worker asks for so many jobs, once."""
        self.core.offer(Offer(worker_id, slots, since, once=True))
        self._pump()

    def withdraw(self, worker_id: str) -> None:
        self.core.withdraw(worker_id)

    def fence(self, worker_id: str) -> None:
        """Its process is dead. Whoever talked to it finds out by the connection and calls `retry`."""
        self.core.withdraw(worker_id)
        self._workers.pop(worker_id, None)
        self._on_change()

    def push_worker(self, worker_id: str) -> PushWorker | None:
        return self._workers.get(worker_id)

    def has_offers(self) -> bool:
        return bool(self.core.offers)

    def _pump(self) -> None:
        jobs = []
        for ticket in self.core.match():
            if ticket.durable:
                jobs.append(ticket)
                continue
            future = self._futures.pop(ticket, None)
            if future is None or future.done() or not self.core.deliver(ticket):
                self.core.give_back(ticket)
                self.core.finish(ticket)
                continue
            assert ticket.worker is not None
            # now, and not when its task comes to run: beside starting engines that is later
            ticket.assigned = self._clock.elapsed()
            future.set_result(self._workers[ticket.worker])
        if jobs:
            assert self.take_jobs is not None
            self.take_jobs(jobs)
        self._on_change()
