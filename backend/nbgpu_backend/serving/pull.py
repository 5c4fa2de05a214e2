"""A worker that fetches its jobs: what it asked for, what it holds, and what it was told to drop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nbgpu_backend.domain.dispatch import Ticket
from nbgpu_backend.serving.worker import ServingWorker

DROP_S = 3.0  # how long a worker may take to drop a job that it was told to stop
KILL_S = 1.0  # from TERM to KILL, when it does not
MISSED = 2  # pings in a row that do not name a job which the worker should hold
SETTLE_S = 10.0  # after its delivery a job may be missing in a ping that was on its way


class Wire(Protocol):
    """How a pull worker is spoken to: the relay's stream, or its own open requests."""

    def give(self, poll: int, jobs: Sequence[tuple[str, bytes]]) -> None:
        """Answer a poll, with nothing if there are none. What did not reach the worker comes back through `Assignments.returned`."""
        ...

    def stop(self, ids: Sequence[str]) -> None:
        """Tell it to stop these jobs."""
        ...

    def forget(self, ids: Sequence[str]) -> None:
        """It is known to have let go of these."""
        ...

    def drain(self, on: bool) -> None:
        """Answer its polls with nothing, or no longer so."""
        ...


@dataclass(slots=True, eq=False, kw_only=True)
class PullWorker(ServingWorker):
    """`end(code, text, grace_s)` ends its process (None: once what it holds is done), or its generation
    where the process is not ours."""

    wire: Wire
    end: Callable[[str, str, float | None], None]
    poll: int | None = None  # the open poll, and how many it asks for
    wanted: int = 0
    giving: set[int] = field(default_factory=set)  # polls whose jobs are on their way to the disk
    leaving: bool = False  # it gets nothing any more
    seen: float = 0.0  # its last sign of life
    names: bool = False  # its pings name jobs; those of old packages do not
    dropping: dict[Ticket, float] = field(default_factory=dict)  # told to stop, since when
    missed: dict[str, int] = field(default_factory=dict)
    given: dict[str, float] = field(default_factory=dict)  # job -> when it was delivered
    marks: dict[Ticket, float] = field(default_factory=dict)

    def stop(self, ticket: Ticket, now: float) -> None:
        """Its job has an end already: have it dropped, and give it nothing new until it has."""
        if not self.dropping:
            self.wire.drain(True)
        self.dropping[ticket] = now
        self.wire.stop([ticket.id])

    def stop_again(self) -> None:
        """A worker that was told before it had begun with a job has not heard it."""
        self.wire.stop([ticket.id for ticket in self.dropping])

    def dropped(self, ticket: Ticket) -> None:
        if self.dropping.pop(ticket, None) is None:
            return
        self.wire.forget([ticket.id])
        if not self.dropping and not self.leaving:
            self.wire.drain(False)

    def leave_queue(self) -> None:
        """Its end is near: it takes what it holds to the end and asks for nothing more."""
        self.leaving = True
        self.wire.drain(True)

    def overdue(self, now: float, limits: dict[Ticket, float]) -> bool:
        """Must it be ended for a job that it does not drop? When it holds nothing else, or once that
        job's execution time (`limits`, an instant) is over."""
        alone = self.held == len(self.dropping)
        return any(
            now >= since + DROP_S and (alone or now >= limits.get(ticket, 0.0) + DROP_S)
            for ticket, since in self.dropping.items()
        )

    def unlisted(self, ids: frozenset[str], now: float) -> list[str]:
        """Jobs that it should hold and that several pings in a row did not name."""
        self.names = self.names or bool(ids)
        gone: list[str] = []
        if not self.names:
            return gone
        for job_id, at in self.given.items():
            if job_id in ids or now < at + SETTLE_S:
                self.missed.pop(job_id, None)
                continue
            self.missed[job_id] = self.missed.get(job_id, 0) + 1
            if self.missed[job_id] >= MISSED:
                gone.append(job_id)
        return gone
