"""The queue: order, fairness, slots; nothing lost and nothing twice, whatever happens."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from nbgpu_backend.domain.dispatch import (
    ASSIGNED,
    DELIVERED,
    FINAL,
    QUEUED,
    SLACK,
    Offer,
    Queue,
    Ticket,
)


def ticket(name: str, client: str = "a", priority: int = 0) -> Ticket:
    return Ticket(name, client, 0.0, 100.0, priority)


def names(tickets: list[Ticket]) -> list[str]:
    return [t.id for t in tickets]


def test_clients_take_turns_and_priority_comes_first() -> None:
    queue = Queue()
    for name in ("a1", "a2", "a3"):
        queue.admit(ticket(name, "a"))
    queue.admit(ticket("b1", "b"))
    queue.admit(ticket("urgent", "a", priority=-1))
    queue.offer(Offer("w", 9, 0.0))
    assert names(queue.match()) == ["urgent", "a1", "b1", "a2", "a3"]


def test_the_worker_that_holds_least_gets_the_next() -> None:
    queue = Queue()
    queue.offer(Offer("w1", 4, 0.0))
    queue.offer(Offer("w2", 4, 1.0))
    for name in "abcd":
        queue.admit(ticket(name))
    assert [t.worker for t in queue.match()] == ["w1", "w2", "w1", "w2"]


def test_what_is_given_back_keeps_its_place() -> None:
    queue = Queue()
    queue.offer(Offer("w", 1, 0.0))
    for name in "abc":
        queue.admit(ticket(name))
    (first,) = queue.match()
    queue.deliver(first)
    queue.withdraw("w")
    queue.give_back(first)
    queue.offer(Offer("w2", 9, 0.0))
    assert names(queue.match()) == ["a", "b", "c"] and first.tries == 1


def test_a_cancelled_request_holds_its_slot_until_it_is_released() -> None:
    queue = Queue()
    queue.offer(Offer("w", 1, 0.0))
    queue.admit(ticket("a"))
    queue.admit(ticket("b"))
    (first,) = queue.match()
    queue.finish(first)
    assert queue.match() == []
    queue.release(first)
    assert names(queue.match()) == ["b"]


def test_a_client_is_forgotten_with_its_last_ticket() -> None:
    queue = Queue()
    queue.offer(Offer("w", 1, 0.0))
    one = ticket("a")
    queue.admit(one)
    queue.match()
    queue.finish(one)
    queue.release(one)
    assert queue._last == {} and queue._tickets == {}


class AnyOrder(RuleBasedStateMachine):
    """Arrivals, workers that come, poll and go, ends and cancellations, a disk that is full, in any order.

    `open` are the tickets that were not released; `pushed` and `pulling` are workers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.open: list[Ticket] = []
        self.pushed: list[str] = []
        self.pulling: list[str] = []
        self.made = 0

    def make(
        self, client: str, priority: int = 0, low: bool = False, **named: str | None
    ) -> Ticket:
        self.made += 1
        arrived = float(-self.made % 7)
        one = Ticket(f"t{self.made}", client, arrived, 1e9, priority, low, durable=low, **named)
        self.open.append(one)
        return one

    def draw(self, data: st.DataObject, *states: str) -> Ticket | None:
        found = [one for one in self.open if one.state in states]
        return data.draw(st.sampled_from(found)) if found else None

    # what arrives

    @rule(client=st.sampled_from("abc"), priority=st.integers(0, 2), low=st.booleans())
    def arrive(self, client: str, priority: int, low: bool) -> None:
        self.queue.admit(self.make(client, priority, low))
        self.match()

    @rule(client=st.sampled_from("abc"), worker=st.integers(0, 4), strict=st.booleans())
    def arrives_for_a_worker(self, client: str, worker: int, strict: bool) -> None:
        """One that is there, that is gone, or that has not come yet."""
        self.queue.admit(self.make(client, **{"only" if strict else "near": f"w{worker}"}))
        self.match()

    @rule(client=st.sampled_from("abc"), data=st.data())
    def is_restored(self, client: str, data: st.DataObject) -> None:
        """A pull worker holds it since before this queue existed."""
        worker = data.draw(st.sampled_from([*self.pulling, f"p{len(self.pulling)}"]))
        if worker not in self.pulling:
            self.pulling.append(worker)
        self.queue.restore(self.make(client, low=data.draw(st.booleans())), worker)

    # workers

    @rule(slots=st.integers(1, 3))
    def worker_ready(self, slots: int) -> None:
        self.pushed.append(f"w{len(self.pushed)}")
        self.queue.offer(Offer(self.pushed[-1], slots, float(len(self.pushed))))
        self.match()

    @rule(slots=st.integers(1, 3), data=st.data())
    def polls(self, slots: int, data: st.DataObject) -> None:
        """A new pull worker, or one that may hold something, or one whose poll is still open."""
        worker = data.draw(st.sampled_from([*self.pulling, f"p{len(self.pulling)}"]))
        if worker not in self.pulling:
            self.pulling.append(worker)
        self.queue.offer(Offer(worker, slots, 0.0, once=True))
        self.match()

    @precondition(lambda self: any(offer.once for offer in self.queue.offers.values()))
    @rule(data=st.data())
    def hangs_up(self, data: st.DataObject) -> None:
        polls = sorted(o.worker for o in self.queue.offers.values() if o.once)
        self.queue.withdraw(data.draw(st.sampled_from(polls)))

    @precondition(lambda self: self.queue.held)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.queue.held)))
        lost = sorted(self.queue.held[worker], key=lambda one: one.id)
        self.queue.withdraw(worker)
        for one in lost:
            if one.state == FINAL:
                self.release(one)
            else:
                self.queue.give_back(one)
        assert self.queue.holding(worker) == 0

    # the way of a ticket: what its user does is followed by a match, but for ends and deaths

    @rule()
    def match(self) -> None:
        """In their order, each to the worker that it names, else to the one that holds least; none is
        left beside a free slot that would do."""
        left = {o.worker: o.slots - (0 if o.once else self.queue.holding(o.worker))
                for o in self.queue.offers.values()}  # fmt: skip
        polls = {o.worker for o in self.queue.offers.values() if o.once}
        holds = {worker: self.queue.holding(worker) for worker in left}
        waiting = sorted((t for t in self.open if t.state == QUEUED), key=lambda one: one.order)
        assigned = self.queue.match()
        for one in assigned:
            free = [worker for worker in left if left[worker] > 0]
            assert one == next(t for t in waiting if t.only in free or (t.only is None and free))
            waiting.remove(one)
            assert one.worker is not None and one.worker in free
            if one.only is not None or one.near in free:
                assert one.worker == (one.only or one.near)
            else:
                assert holds[one.worker] == min(holds[worker] for worker in free)
            holds[one.worker] += 1
            left[one.worker] -= 1
        free = [worker for worker in left if left[worker] > 0]
        assert not free or all(t.only is not None and t.only not in free for t in waiting)
        answered = {one.worker for one in assigned} & polls
        assert (
            answered.isdisjoint(self.queue.offers) and polls - answered <= self.queue.offers.keys()
        )

    @rule(data=st.data())
    def reaches_its_worker(self, data: st.DataObject) -> None:
        one = self.draw(data, ASSIGNED, FINAL)
        if one is not None:
            before, state = one.tries, one.state
            assert self.queue.deliver(one) == (state == ASSIGNED)
            assert one.tries == before + (state == ASSIGNED)

    @rule(data=st.data())
    def does_not_reach_its_worker(self, data: st.DataObject) -> None:
        one = self.draw(data, ASSIGNED, DELIVERED, FINAL)
        if one is not None:
            over = one.state == FINAL
            self.queue.give_back(one)
            assert one.worker is None and one.state == (FINAL if over else QUEUED)
            self.match()

    @rule(data=st.data())
    def has_its_end(self, data: st.DataObject) -> None:
        """Its slot, if it has one, stays held; who waited in the queue may come back."""
        one = self.draw(data, QUEUED, ASSIGNED, DELIVERED, FINAL)
        if one is not None:
            held = one.worker
            self.queue.finish(one)
            assert one.worker == held

    @rule(data=st.data())
    def its_end_cannot_be_stored(self, data: st.DataObject) -> None:
        one = self.draw(data, FINAL)
        if one is not None and one.worker is None:
            self.queue.readmit(one)
            self.match()

    @rule(data=st.data())
    def is_let_go(self, data: st.DataObject) -> None:
        one = self.draw(data, FINAL)
        if one is not None:
            self.release(one)
            self.match()

    def release(self, one: Ticket) -> None:
        self.queue.release(one)
        self.open.remove(one)
        assert one.worker is None

    # what always holds

    @invariant()
    def the_counts_are_exact(self) -> None:
        waiting = [one for one in self.open if one.state == QUEUED]
        assert self.queue.waiting == len(waiting)
        assert self.queue.waiting_low == sum(one.low for one in waiting)
        assert self.queue.waiting_durable == sum(one.durable for one in waiting)
        may_grow = [t.arrived for t in waiting if not t.low and t.only is None]
        assert self.queue.oldest() == min(may_grow, default=None)
        bound = [t for t in waiting if t.only is not None]
        assert self.queue._lines.keys() == {t.only for t in bound}
        assert self.queue.waiting_busy() == sum(t.only in self.queue.offers for t in bound)
        assert set(self.queue.first(1000)) == set(waiting)

    @invariant()
    def each_is_held_by_the_worker_that_it_says(self) -> None:
        held = {one: worker for worker, all_ in self.queue.held.items() for one in all_}
        assert held == {one: one.worker for one in self.open if one.worker is not None}
        assert self.queue.in_progress() == len(held)

    @invariant()
    def no_worker_holds_more_than_its_slots(self) -> None:
        for offer in self.queue.offers.values():
            assert offer.once or self.queue.holding(offer.worker) <= offer.slots

    @invariant()
    def nothing_is_kept_of_what_is_gone(self) -> None:
        assert self.queue._tickets == Counter(one.client for one in self.open)
        assert self.queue._last.keys() <= self.queue._tickets.keys()
        for worker, tickets in self.queue.held.items():
            assert tickets or worker in self.queue.offers

    def teardown(self) -> None:
        self.queue.offer(Offer("last", 10_000, 0.0, once=True))
        for worker in [*self.queue._lines]:
            self.queue.offer(Offer(worker, 10_000, 0.0))
        self.match()
        assert all(one.worker is not None or one.state == FINAL for one in self.open)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_a_poll_is_gone_once_it_is_answered_and_takes_what_it_asked_for() -> None:
    queue = Queue()
    for name in "abcd":
        queue.admit(ticket(name))
    queue.offer(Offer("w", 2, 0.0, once=True))
    first = queue.match()
    assert names(first) == ["a", "b"] and queue.match() == []
    for one in first:
        queue.deliver(one)
    # it holds two already, and asks for one more all the same
    queue.offer(Offer("w", 1, 0.0, once=True))
    assert names(queue.match()) == ["c"] and queue.holding("w") == 3


def test_polls_share_what_waits() -> None:
    queue = Queue()
    queue.offer(Offer("w1", 8, 0.0, once=True))
    queue.offer(Offer("w2", 8, 1.0, once=True))
    for name in "abc":
        queue.admit(ticket(name))
    assert [t.worker for t in queue.match()] == ["w1", "w2", "w1"]


def test_what_a_former_queue_had_given_is_held_until_it_is_given_back() -> None:
    queue = Queue()
    held = ticket("a")
    queue.restore(held, "w")
    assert queue.in_progress() == 1 and queue.match() == []
    queue.give_back(held)
    queue.offer(Offer("w", 1, 0.0, once=True))
    assert names(queue.match()) == ["a"]


def test_the_oldest_is_known_whatever_left_the_queue_before_it() -> None:
    queue = Queue()
    tickets = [Ticket(f"t{n}", f"c{n % 3}", float(n), 100.0, low=n == 0) for n in range(300)]
    for one in tickets:
        queue.admit(one)
    assert queue.oldest() == 1.0
    for one in tickets[1:250]:
        queue.finish(one)
        queue.release(one)
    assert queue.oldest() == 250.0 and queue.waiting == 51
    queue.readmit(tickets[10])
    assert queue.oldest() == 10.0


def test_what_leaves_the_queue_behind_one_that_waits_for_ever_is_not_kept() -> None:
    queue = Queue()
    queue.admit(ticket("first"))
    for n in range(10 * SLACK):
        one = ticket(f"t{n}")
        queue.admit(one)
        queue.finish(one)
        if n % 2:  # its end could not be stored at first
            queue.readmit(one)
            queue.finish(one)
        queue.release(one)
    assert queue.waiting == 1
    assert len(queue._heap) <= SLACK + 2 and len(queue._arrivals) <= SLACK + 2


def test_one_whose_end_cannot_be_stored_for_long_waits_once() -> None:
    queue = Queue()
    one, other = ticket("a"), ticket("b")
    queue.admit(one)
    queue.admit(other)
    for _ in range(10 * SLACK):
        queue.finish(one)
        queue.readmit(one)
    assert queue.waiting == 2
    assert len(queue._heap) <= SLACK + 4 and len(queue._arrivals) <= SLACK + 4
    queue.offer(Offer("w", 9, 0.0))
    assert names(queue.match()) == ["a", "b"] and queue.match() == []


def test_a_wish_for_a_worker_is_followed_while_it_has_room() -> None:
    queue = Queue()
    queue.offer(Offer("w1", 2, 0.0))
    queue.offer(Offer("w2", 1, 1.0))
    for name in "abc":
        queue.admit(Ticket(name, "x", 0.0, 100.0, near="w2"))
    assert [t.worker for t in queue.match()] == ["w2", "w1", "w1"]


def test_a_condition_waits_in_its_turn_and_holds_up_nobody_else() -> None:
    queue = Queue()
    queue.offer(Offer("w1", 1, 0.0))
    queue.admit(ticket("first"))
    (first,) = queue.match()
    queue.admit(Ticket("bound", "b", 0.0, 100.0, only="w1"))
    queue.admit(ticket("later", "a"))
    assert queue.waiting_busy() == 1 and names(queue.line("w1")) == ["bound"]
    queue.offer(Offer("w2", 1, 1.0))
    assert [(t.id, t.worker) for t in queue.match()] == [("later", "w2")]
    queue.release(first)
    queue.admit(ticket("last", "a"))
    assert [(t.id, t.worker) for t in queue.match()] == [("bound", "w1")]


def test_the_lines_of_workers_hold_no_more_than_waits() -> None:
    queue = Queue()
    queue.admit(Ticket("first", "a", 0.0, 100.0, only="w"))
    for n in range(10 * SLACK):
        one = Ticket(f"t{n}", "a", 0.0, 100.0, only="w")
        queue.admit(one)
        queue.finish(one)
        queue.release(one)
    assert queue.waiting == 1 and len(queue._lines["w"]) <= SLACK + 2


def test_those_who_name_no_worker_pay_nothing_for_those_who_do() -> None:
    """The heap that is looked at has no entry of the others."""
    queue = Queue()
    for n in range(1000):
        queue.admit(Ticket(f"b{n}", "b", 0.0, 100.0, only="w1"))
    queue.offer(Offer("w2", 1, 0.0))
    queue.admit(ticket("a"))
    assert len(queue._heap) == 1 and names(queue.match()) == ["a"]
