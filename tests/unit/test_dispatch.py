"""The queue: order, fairness, slots; nothing lost and nothing twice, whatever happens."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from nbgpu_backend.domain.dispatch import FINAL, QUEUED, Offer, Queue, Ticket


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
    """Arrivals, workers that come and go, ends and cancellations, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.open: list[Ticket] = []
        self.workers = 0

    @rule(client=st.sampled_from("abc"), priority=st.integers(0, 2))
    def arrive(self, client: str, priority: int) -> None:
        one = Ticket(f"t{len(self.open)}", client, 0.0, 1.0, priority)
        self.queue.admit(one)
        self.open.append(one)

    @rule(slots=st.integers(1, 3))
    def worker_ready(self, slots: int) -> None:
        self.workers += 1
        self.queue.offer(Offer(f"w{self.workers}", slots, float(self.workers)))

    @rule()
    def match(self) -> None:
        for one in self.queue.match():
            assert self.queue.deliver(one)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.open))
        self.queue.finish(one)
        self.queue.release(one)
        self.open.remove(one)

    @precondition(lambda self: self.queue.offers)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.queue.offers)))
        lost = [t for t in self.open if t.worker == worker]
        self.queue.withdraw(worker)
        for one in lost:
            self.queue.give_back(one)

    @invariant()
    def the_counts_are_exact(self) -> None:
        assert self.queue.waiting == sum(t.state == QUEUED for t in self.open)
        assert self.queue.in_progress() == sum(t.worker is not None for t in self.open)

    @invariant()
    def no_worker_holds_more_than_its_slots(self) -> None:
        for offer in self.queue.offers.values():
            assert self.queue.holding(offer.worker) <= offer.slots

    @invariant()
    def nothing_waits_beside_a_free_slot_after_a_match(self) -> None:
        self.match()
        free = [o for o in self.queue.offers.values() if self.queue.holding(o.worker) < o.slots]
        assert not free or self.queue.waiting == 0

    def teardown(self) -> None:
        self.queue.offer(Offer("last", 10_000, 0.0))
        self.match()
        assert all(t.worker is not None and t.state != FINAL for t in self.open)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


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
