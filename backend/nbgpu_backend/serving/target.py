"""What the data path needs of an endpoint, and what it gives: one record per request."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from nbgpu_backend.domain.dispatch import Ticket
from nbgpu_backend.domain.histogram import Histogram
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.serving.queue import EndpointQueue
from nbgpu_backend.serving.worker import ServingWorker

if TYPE_CHECKING:
    from nbgpu_backend.serving.board import JobBoard


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds."""

    hold_s: float
    first_byte_s: float
    total_s: float
    heartbeat_s: float
    affinity_s: float = 300.0  # for the one worker that a request is bound to


class Target(Protocol):
    queue: EndpointQueue
    board: JobBoard

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def created_s(self) -> int:
        """When it was made, in Unix seconds."""
        ...

    def refusal(self) -> NbgpuError | None:
        """Why no request is admitted now (stopped, failed); None if they are."""
        ...

    @property
    def pulls(self) -> bool:
        """Do its workers fetch their jobs?"""
        ...

    @property
    def balances(self) -> bool:
        """Is it reached as the HTTP server that its workers are (type LOAD_BALANCER)?"""
        ...

    def pin(self, worker_id: str, *, resume: bool) -> bool:
        """Can a request wait for this worker? With `resume` a parked one is woken for it. May be asked
        again and again."""
        ...

    def worker_counts(self) -> dict[str, int]:
        """By state, as RunPod's /health names them."""
        ...

    def ready_workers(self) -> list[str]: ...

    def progress(self) -> dict[str, Any]:
        """What a waiting request waits for: state, text, phase, elapsed_s, typical_s, cost."""
        ...

    async def fence(self, worker_id: str) -> bool:
        """Its connection broke. True: no process of it is left. False: it is well, only the connection
        was lost."""
        ...

    async def suspect(self, worker_id: str) -> bool:
        """It failed a request. True: it was found sick, and no process of it is left."""
        ...


class Directory(Protocol):
    def find(self, name_or_id: str) -> Target | None: ...

    def names(self) -> list[str]: ...

    def targets(self) -> list[Target]: ...


def request_id(arrived_us: int) -> str:
    """Ids sort by their time, so that each new record goes to the end of its index: at random places, they
    cost the writer more than all the rest. 48 random bits tell those of one millisecond apart."""
    return f"req-{arrived_us // 1000:011x}{random.getrandbits(48):012x}"


@dataclass(slots=True)
class Record:
    """One request. Durations in seconds; `first_byte` and `total` count from its arrival."""

    id: str
    endpoint_id: str
    endpoint: str
    route: str
    streamed: bool
    arrived_us: int
    worker_id: str | None = None
    queue_s: float = 0.0
    cold: bool = False
    start_s: float = 0.0  # the part of queue_s in which its worker was starting
    tier: str | None = None  # of that start
    phases: Mapping[str, float] = field(default_factory=dict)
    first_byte_s: float | None = None
    total_s: float = 0.0
    tokens_in: int | None = None
    tokens_out: int | None = None
    gaps: Histogram = field(default_factory=Histogram)
    status: int = 0
    error: str | None = None
    retries: int = 0
    share_s: float = 0.0
    rate: Decimal = Decimal(0)
    origin: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None  # the id of the key that it came with; None: the token
    trace: str | None = None  # the id of the trace that it is part of

    def given(self, worker: ServingWorker, ticket: Ticket) -> None:
        """The queue has assigned it."""
        arrived = ticket.arrived
        self.worker_id, self.rate = worker.id, worker.rate
        self.queue_s = ticket.assigned - arrived
        self.cold = worker.ready > arrived  # also where a ready one died in between
        if self.cold:
            self.start_s = worker.ready - max(arrived, worker.launched)
            self.phases, self.tier = worker.phases, worker.tier

    def cost_of(self, share_s: float) -> Decimal:
        """Dollars for a part, in seconds, of the worker's busy time."""
        return self.rate * Decimal(repr(share_s)) / 3600


class Sink(Protocol):
    def request(self, record: Record) -> None: ...


class Holders(Protocol):
    """Who is told which key has how many jobs without an end; both take the key's id."""

    def hold(self, key_id: str) -> None: ...

    def let_go(self, key_id: str) -> None: ...
