"""One request on its way through a load balancer: admission, its worker, its end, its record.

What kind of request it is (HTTP, a websocket) is the subclass's. A request is given to another worker only
if it cannot have had an effect: nothing of its body was given away, and either no connection was made or
its method is idempotent (RFC 9110 9.2.2).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass

import aiohttp

from nbgpu_backend.clock import Clock
from nbgpu_backend.domain.dispatch import Ticket
from nbgpu_backend.errors import HoldTimeout, NbgpuError, UpstreamError, WorkerDied
from nbgpu_backend.serving.affinity import Affinity, worker_gone, worker_late
from nbgpu_backend.serving.exchange import ClientGone, Scope
from nbgpu_backend.serving.forwarding import Headers, for_worker, target
from nbgpu_backend.serving.keys import Key
from nbgpu_backend.serving.target import Record, Sink, Target, request_id
from nbgpu_backend.serving.upstream import BROKEN
from nbgpu_backend.serving.worker import PushWorker

RETRIES = 2
RESUME_S = 0.5  # between looks whether a parked worker can be woken now
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
ROUTE = "lb"  # of all its records: paths are the app's own matter


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asked for, where it goes, and with what."""

    scope: Scope
    target: Target
    raw_path: bytes  # the app's part
    prefix: str  # the other part, "" where the host names the endpoint
    affinity: Affinity | None
    bearer_is_ours: bool  # the token or a key is in the Authorization header
    key: Key | None
    client: str  # whom the queue is fair to
    origin: dict[str, str]

    @property
    def headers(self) -> Headers:
        found: Headers = self.scope["headers"]
        return found

    def url(self, worker: PushWorker) -> str:
        return worker.url + target(self.raw_path, self.scope["query_string"])

    def headers_for(self, worker: PushWorker, *, socket: bool = False) -> list[tuple[str, str]]:
        peer = self.scope.get("client")
        return for_worker(
            self.headers,
            bearer_is_ours=self.bearer_is_ours,
            worker_key=worker.key,
            client=peer[0] if peer else "",
            scheme=self.scope["scheme"],
            prefix=self.prefix,
            socket=socket,
        )


class Passage(ABC):
    def __init__(
        self, call: Call, sink: Sink, clock: Clock, session: aiohttp.ClientSession
    ) -> None:
        self._call = call
        self._target = call.target
        self._limits = call.target.limits
        self._sink = sink
        self._clock = clock
        self._session = session
        self._arrived = clock.elapsed()
        arrived_us = clock.now()
        self._record = Record(
            id=request_id(arrived_us),
            endpoint_id=call.target.id,
            endpoint=call.target.name,
            route=ROUTE,
            streamed=False,
            arrived_us=arrived_us,
            origin=call.origin,
        )
        if call.key is not None:
            self._record.key = call.key.id

    # --- of the kind of request -------------------------------------------------------------------

    @abstractmethod
    def watch(self) -> None:
        """From now on, the client's going away cancels the task that calls this."""

    @abstractmethod
    def unwatch(self) -> None: ...

    @property
    @abstractmethod
    def gone(self) -> bool:
        """The client went away."""

    @property
    @abstractmethod
    def committed(self) -> bool:
        """The answer has begun."""

    @property
    @abstractmethod
    def begun(self) -> bool:
        """A part of the body was given to a worker."""

    @abstractmethod
    async def forward(self, worker: PushWorker) -> None:
        """Raises BROKEN where the connection to the worker fails, ClientGone, NbgpuError."""

    # --- of all of them ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises NbgpuError, also where the answer has begun (`committed`)."""
        record = self._record
        self.watch()
        try:
            await self._serve()
        except (asyncio.CancelledError, ClientGone) as error:
            if isinstance(error, asyncio.CancelledError) and not self.gone:
                record.status, record.error = 503, "the backend ended"
                raise
            record.status, record.error = 499, "the client went away"
        except NbgpuError as error:
            record.status, record.error = error.status, str(error)
            raise
        finally:
            self.unwatch()
            record.total_s = self._clock.elapsed() - self._arrived
            self._sink.request(record)

    async def _serve(self) -> None:
        target, wish = self._target, self._call.affinity
        if (refusal := target.refusal()) is not None:
            raise refusal
        bound = wish is not None and wish.strict
        patience = self._limits.affinity_s if bound else self._limits.hold_s
        ticket = Ticket(
            self._record.id,
            client=self._call.client,
            arrived=self._arrived,
            deadline=self._arrived + patience,
            near=wish.worker if wish is not None and not bound else None,
            only=wish.worker if wish is not None and bound else None,
        )
        self._check_bound()
        waiting = target.queue.submit(ticket)
        try:
            while True:
                worker = await self._wait(waiting, ticket.deadline, patience)
                if await self._on(worker, ticket):
                    return
                self._record.retries += 1
                if self._record.retries > RETRIES:
                    raise WorkerDied(
                        f"The worker of '{target.name}' died while it worked on this request, "
                        f"{self._record.retries} times.",
                        f"See why: nbgpu why {target.name}",
                    )
                if (refusal := target.refusal()) is not None:
                    raise refusal
                self._check_bound()
                waiting = target.queue.retry(ticket)
        finally:
            target.queue.done(ticket)

    def _check_bound(self) -> None:
        wish = self._call.affinity
        if wish is None or not wish.strict:
            return
        if not self._target.pin(wish.worker, resume=wish.resume):
            raise worker_gone(self._target.name, wish.worker)

    async def _wait(
        self, future: asyncio.Future[PushWorker], deadline: float, patience: float
    ) -> PushWorker:
        wish = self._call.affinity
        try:
            while not future.done():
                left = deadline - self._clock.elapsed()
                if left <= 0:
                    if wish is not None and wish.strict:
                        raise worker_late(self._target.name, wish.worker, patience)
                    raise HoldTimeout(
                        f"'{self._target.name}' did not answer: no worker was ready "
                        f"within {patience:g} s.",
                        f"See why: nbgpu why {self._target.name}",
                    )
                resuming = wish is not None and wish.resume
                await asyncio.wait((future,), timeout=min(left, RESUME_S) if resuming else left)
                if resuming and not future.done():
                    self._check_bound()
            return future.result()
        finally:
            if not future.done():
                future.cancel()

    async def _on(self, worker: PushWorker, ticket: Ticket) -> bool:
        """Send the request to this worker; False if it is to be given to another."""
        record, now = self._record, self._clock.elapsed()
        record.given(worker, ticket)
        mark = worker.take(now)
        try:
            await self.forward(worker)
            return True
        except BROKEN as error:
            if self.gone:
                raise ClientGone from error
            refused = isinstance(error, aiohttp.ClientConnectorError)
            if not self._repeatable(refused):
                what = "while it answered" if self.committed else "before it answered"
                raise UpstreamError(
                    f"The worker of '{self._target.name}' broke the connection {what}.",
                    f"See why: nbgpu why {self._target.name}",
                    code="worker_died",
                ) from error
        finally:
            record.share_s += worker.leave(self._clock.elapsed(), mark)
        await self._target.fence(worker.id)
        return False

    def _repeatable(self, refused: bool) -> bool:
        if self.committed or self.begun:
            return False
        return refused or self._call.scope.get("method", "GET") in IDEMPOTENT

    def _answered(self, status: int) -> None:
        self._record.status = status
        self._record.first_byte_s = self._clock.elapsed() - self._arrived

    def _facts(self) -> list[tuple[bytes, bytes]]:
        record = self._record
        return [
            (b"x-nbgpu-request", record.id.encode()),
            (b"x-nbgpu-queue-ms", f"{record.queue_s * 1000:.1f}".encode()),
            (b"x-nbgpu-cold", b"1" if record.cold else b"0"),
        ]
