"""One queue of tickets and the rule that gives them to workers. Pure: time is passed in.

A ticket is queued -> assigned -> delivered -> final. Its final state and the release of its slot are two
events: a request that its client gave up is final at once and holds its slot until the worker is known to
have dropped it. What was assigned and not delivered goes back to its old place, uncounted.

Order: priority first, then clients take turns (start-time fair queueing by virtual time), then arrival.
Workers: the one that holds least gets the next ticket, the longest ready first among equals.

A ticket may name its worker. `near` is a wish: that worker while it has a free slot, else any. `only` is a
condition: it waits for that worker in a line of that worker's own, and takes its turn with the others by
the same order. A match looks at one head for each worker that has such a line, and at none where nobody
asked: O(log n) a ticket as ever.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

QUEUED, ASSIGNED, DELIVERED, FINAL = "queued", "assigned", "delivered", "final"
SLACK = 64  # entries of tickets that no longer wait, before they are swept out


@dataclass(slots=True, eq=False)
class Ticket:
    """A request or a job that wants a worker. `arrived` and `deadline` are seconds of the caller's clock."""

    id: str
    client: str
    arrived: float
    deadline: float
    priority: int = 0  # smaller is sooner
    low: bool = False  # lowPriority: never a reason to scale up
    durable: bool = False  # a job: it has a row
    near: str | None = None  # the worker that it would rather have
    only: str | None = None  # the one worker that will do
    state: str = QUEUED
    worker: str | None = None
    tries: int = 0
    assigned: float = 0.0  # when, of the same clock; the caller of `match` writes it
    order: tuple[int, float, int] = (0, 0.0, 0)


@dataclass(slots=True)
class Offer:
    """A push worker's slots stand while it is ready; a pull worker's are gone once its poll is answered."""

    worker: str
    slots: int
    since: float
    once: bool = False  # a poll: `slots` is what it asks for, whatever the worker holds already


@dataclass(slots=True)
class Queue:
    limit: int = 1000
    waiting: int = 0
    waiting_low: int = 0
    waiting_durable: int = 0
    offers: dict[str, Offer] = field(default_factory=dict)
    held: dict[str, set[Ticket]] = field(default_factory=dict)
    _heap: list[tuple[tuple[int, float, int], Ticket]] = field(default_factory=list)
    _lines: dict[str, list[tuple[tuple[int, float, int], Ticket]]] = field(
        default_factory=dict
    )  # worker -> heap of those that wait for it alone; never empty of ones that wait
    _arrivals: list[tuple[float, int, Ticket]] = field(default_factory=list)
    _virtual: float = 0.0
    _last: dict[str, float] = field(
        default_factory=dict
    )  # client -> virtual time of its last ticket
    _tickets: dict[str, int] = field(default_factory=dict)  # client -> tickets not yet released
    _sequence: count[int] = field(default_factory=count)

    def full(self) -> bool:
        """For requests; a job is bounded by whoever stores it."""
        return self.waiting - self.waiting_durable >= self.limit

    def admit(self, ticket: Ticket) -> None:
        start = max(self._virtual, self._last.get(ticket.client, 0.0)) + 1
        self._last[ticket.client] = start
        self._tickets[ticket.client] = self._tickets.get(ticket.client, 0) + 1
        ticket.order = (ticket.priority, start, next(self._sequence))
        self._push(ticket)

    def offer(self, offer: Offer) -> None:
        self.held.setdefault(offer.worker, set())
        self.offers[offer.worker] = offer

    def withdraw(self, worker: str) -> None:
        """No new tickets for it; those that it holds stay until they are given back or released."""
        self.offers.pop(worker, None)
        self._forget(worker)

    def match(self) -> list[Ticket]:
        """Assign what can be assigned now; the caller delivers each, or gives it back."""
        assigned: list[Ticket] = []
        polls: dict[str, int] = {}  # what this call gave to each poll
        while self.offers and (self._heap or self._lines):
            free = [o for o in self.offers.values() if self._used(o, polls) < o.slots]
            if not free:
                break
            heap = self._next_heap(free)
            if heap is None:
                break
            ticket = heapq.heappop(heap)[1]
            best = self._best(ticket, free)
            self._drop_line(ticket)
            self._count(ticket, -1)
            self._virtual = max(self._virtual, ticket.order[1])
            ticket.state, ticket.worker = ASSIGNED, best.worker
            self.held[best.worker].add(ticket)
            if best.once:
                polls[best.worker] = polls.get(best.worker, 0) + 1
            assigned.append(ticket)
        for worker in polls:
            del self.offers[worker]
        return assigned

    def restore(self, ticket: Ticket, worker: str) -> None:
        """A ticket that `worker` was given before this queue existed."""
        self._tickets[ticket.client] = self._tickets.get(ticket.client, 0) + 1
        ticket.order = (ticket.priority, self._virtual, next(self._sequence))
        ticket.state, ticket.worker = DELIVERED, worker
        self.held.setdefault(worker, set()).add(ticket)

    def deliver(self, ticket: Ticket) -> bool:
        """The worker has it. False where the client gave up in between."""
        if ticket.state != ASSIGNED:
            return False
        ticket.state = DELIVERED
        ticket.tries += 1
        return True

    def give_back(self, ticket: Ticket) -> None:
        """To its old place in the queue; the slot is free again."""
        self._free(ticket)
        if ticket.state != FINAL:
            self._push(ticket)

    def finish(self, ticket: Ticket) -> None:
        """Its end is known; the slot, if it has one, stays held until `release`."""
        if ticket.state == QUEUED:
            self._count(ticket, -1)  # it leaves the heap lazily
            self._drop_line(ticket)
        ticket.state = FINAL

    def readmit(self, ticket: Ticket) -> None:
        """Its end could not be stored: to its old place."""
        self._push(ticket)

    def release(self, ticket: Ticket) -> None:
        """The worker no longer has it. The last ticket of a client makes the queue forget the client."""
        self._free(ticket)
        left = self._tickets.get(ticket.client, 0) - 1
        if left > 0:
            self._tickets[ticket.client] = left
        else:
            self._tickets.pop(ticket.client, None)
            self._last.pop(ticket.client, None)

    def holding(self, worker: str) -> int:
        return len(self.held.get(worker, ()))

    def in_progress(self) -> int:
        return sum(len(tickets) for tickets in self.held.values())

    def oldest(self) -> float | None:
        """Arrival of the longest waiting ticket that may scale up."""
        while self._arrivals and self._arrivals[0][2].state != QUEUED:
            heapq.heappop(self._arrivals)
        return self._arrivals[0][0] if self._arrivals else None

    def line(self, worker: str) -> list[Ticket]:
        """Those that wait for this worker alone, in their order."""
        return [t for _, t in sorted(self._lines.get(worker, ())) if t.state == QUEUED]

    def waiting_busy(self) -> int:
        """Those that wait for one worker alone, which is there and full: another would not help them."""
        lines = (line for worker, line in self._lines.items() if worker in self.offers)
        return sum(ticket.state == QUEUED for line in lines for _, ticket in line)

    def find(self, ticket_id: str) -> Ticket | None:
        """One that waits or is held; looks at all of them."""
        held = (ticket for tickets in self.held.values() for ticket in tickets)
        waiting = (ticket for _, ticket in self._all() if ticket.state == QUEUED)
        return next((t for t in (*waiting, *held) if t.id == ticket_id), None)

    def first(self, count: int) -> list[Ticket]:
        """The next ones to be served."""
        waiting = ((order, t) for order, t in self._all() if t.state == QUEUED)
        return [t for _, t in heapq.nsmallest(count, waiting, key=lambda entry: entry[0])]

    def _next_heap(self, free: list[Offer]) -> list[tuple[tuple[int, float, int], Ticket]] | None:
        """The one whose head is first in order, of the common one and those of the free workers."""
        heaps = [self._heap]
        if self._lines:
            heaps += [self._lines[o.worker] for o in free if o.worker in self._lines]
        for heap in heaps:
            while heap and heap[0][1].state != QUEUED:
                heapq.heappop(heap)
        return min((heap for heap in heaps if heap), key=lambda heap: heap[0][0], default=None)

    def _best(self, ticket: Ticket, free: list[Offer]) -> Offer:
        if (named := ticket.only or ticket.near) is not None:
            for offer in free:
                if offer.worker == named:
                    return offer
        return min(free, key=lambda o: (len(self.held[o.worker]), o.since, o.worker))

    def _drop_line(self, ticket: Ticket) -> None:
        """It leaves the line that it stood in; the last one that waits takes the line with it."""
        if ticket.only is not None and not any(
            t.state == QUEUED and t is not ticket for _, t in self._lines.get(ticket.only, ())
        ):
            self._lines.pop(ticket.only, None)

    def _all(self) -> list[tuple[tuple[int, float, int], Ticket]]:
        return self._heap + [entry for line in self._lines.values() for entry in line]

    def _push(self, ticket: Ticket) -> None:
        ticket.state, ticket.worker = QUEUED, None
        self._count(ticket, 1)
        heap = self._heap if ticket.only is None else self._lines.setdefault(ticket.only, [])
        heapq.heappush(heap, (ticket.order, ticket))
        if not ticket.low and ticket.only is None:
            heapq.heappush(self._arrivals, (ticket.arrived, next(self._sequence), ticket))
        if max(len(heap), len(self._heap), len(self._arrivals)) > 2 * self.waiting + SLACK:
            self._sweep()

    def _sweep(self) -> None:
        """Those behind a long waiting one are not dropped by looking at the head, and one that came
        back is there twice."""
        waiting = {ticket for _, ticket in self._heap if ticket.state == QUEUED}
        self._heap = [(ticket.order, ticket) for ticket in waiting]
        self._arrivals = [(t.arrived, next(self._sequence), t) for t in waiting if not t.low]
        for line in self._lines.values():
            line[:] = [(t.order, t) for t in {t for _, t in line if t.state == QUEUED}]
            heapq.heapify(line)
        heapq.heapify(self._heap)
        heapq.heapify(self._arrivals)

    def _count(self, ticket: Ticket, step: int) -> None:
        self.waiting += step
        if ticket.low:
            self.waiting_low += step
        if ticket.durable:
            self.waiting_durable += step

    def _used(self, offer: Offer, polls: dict[str, int]) -> int:
        return polls.get(offer.worker, 0) if offer.once else len(self.held[offer.worker])

    def _free(self, ticket: Ticket) -> None:
        if ticket.worker is not None and ticket.worker in self.held:
            self.held[ticket.worker].discard(ticket)
            self._forget(ticket.worker)
        ticket.worker = None

    def _forget(self, worker: str) -> None:
        if worker not in self.offers and not self.held.get(worker, True):
            del self.held[worker]
