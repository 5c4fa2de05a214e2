"""Which GPU a worker gets, and why not another."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from nbgpu_backend.domain.placement import (
    CPU,
    Candidate,
    Offer,
    Trouble,
    Wanted,
    choose,
    choose_place,
)

H100 = Offer("H100", 2, 2, Decimal(3))
A100 = Offer("A100", 4, 4, Decimal(2))
L4 = Offer("L4", 8, 8, Decimal("0.5"))
ALL = (H100, A100, L4)


def test_without_a_gpu_asked_for_it_is_the_processors() -> None:
    assert choose(Wanted(), ALL, {}, {}, 0.0).gpu == CPU


def test_the_first_that_is_free_and_why_those_before_it_are_not() -> None:
    wanted = Wanted([("B200", 1), ("H100", 4), ("a100", 1), ("L4", 1)])
    offers = (Offer("H100", 2, 8, Decimal(3)), Offer("A100", 0, 4, Decimal(2)), L4)
    found = choose(wanted, offers, {}, {}, 0.0)
    assert (found.gpu, found.count, found.per_hour) == ("L4", 1, Decimal("0.5"))
    assert [(s.what, s.code) for s in found.skipped] == [
        ("B200", "unknown"), ("H100", "taken"), ("a100", "taken"),
    ]  # fmt: skip
    assert found.skipped[0].text == "there is none here; there is: H100, A100, L4"
    assert found.skipped[1].text == "2 of 8 are free"


def test_a_price_is_for_all_the_gpus_of_a_worker() -> None:
    assert choose(Wanted([("H100", 2)]), ALL, {}, {}, 0.0).per_hour == Decimal(6)


def test_one_that_was_refused_is_left_out_for_a_while() -> None:
    wanted, troubles = Wanted([("H100", 1)]), {"H100": Trouble(30.0, "the host was lost")}
    held = choose(wanted, ALL, {}, troubles, 10.0)
    assert held.gpu is None and held.ever and held.retry_at == 30.0
    assert held.skipped[0].text == "the host was lost"
    assert choose(wanted, ALL, {}, troubles, 30.0).gpu == "H100"


def test_what_no_waiting_can_bring_is_told_apart() -> None:
    assert not choose(Wanted([("B200", 1), ("H100", 8)]), ALL, {}, {}, 0.0).ever
    assert choose(Wanted([("H100", 1)]), [Offer("H100", 0, 2)], {}, {}, 0.0).ever


def test_any_is_the_cheapest_that_is_free() -> None:
    assert choose(Wanted([("any", 1)]), ALL, {}, {}, 0.0).gpu == "L4"
    taken = (H100, A100, Offer("L4", 0, 8, Decimal("0.5")))
    assert choose(Wanted([("any", 1)]), taken, {}, {}, 0.0).gpu == "A100"


def place(workers: int, offers: tuple[Offer, ...], gpus: list[tuple[str, int]]) -> Counter[str]:
    """So many workers, one after the other."""
    have: Counter[str] = Counter()
    for _ in range(workers):
        found = choose(Wanted(gpus, None, workers), offers, have, {}, 0.0)
        assert found.gpu is not None
        have[found.gpu] += 1
    return have


def test_fewer_than_five_all_go_on_the_first_and_from_five_on_they_are_spread() -> None:
    offers = (Offer("H100", 99, 99), Offer("A100", 99, 99), Offer("L4", 99, 99))
    gpus = [("H100", 1), ("A100", 1), ("L4", 1)]
    assert place(4, offers, gpus) == {"H100": 4}
    assert place(6, offers, gpus) == {"H100": 3, "A100": 2, "L4": 1}
    assert place(8, offers, gpus[:1]) == {"H100": 8}


gpu_names = st.sampled_from(["H100", "A100", "L4", "B200", "any"])
offers_ = st.lists(
    st.builds(Offer, st.sampled_from(["H100", "A100", "L4"]), st.none() | st.integers(0, 8),
              st.none() | st.just(8), st.none() | st.decimals(0, 9, places=2)),
    max_size=3, unique_by=lambda o: o.gpu,
)  # fmt: skip


@given(
    st.lists(st.tuples(gpu_names, st.integers(1, 9)), min_size=1, max_size=4), offers_,
    st.integers(1, 12), st.dictionaries(st.sampled_from(["H100", "A100", "L4"]), st.integers(0, 12)),
    st.dictionaries(st.sampled_from(["H100", "A100"]), st.builds(Trouble, st.floats(0, 20), st.just("x"))),
)  # fmt: skip
def test_a_choice_is_one_that_was_asked_for_is_free_and_has_no_trouble(
    gpus: list[tuple[str, int]], offers: list[Offer], most: int, have: dict[str, int],
    troubles: dict[str, Trouble],
) -> None:  # fmt: skip
    found = choose(Wanted(gpus, None, most), offers, have, troubles, 10.0)
    usable = [
        o for o in offers for name, count in gpus
        if name in (o.gpu, "any") and (o.free is None or o.free >= count)
        and (o.total is None or o.total >= count)
        and not (o.gpu in troubles and troubles[o.gpu].until > 10.0)
    ]  # fmt: skip
    assert (found.gpu is None) == (not usable)
    if found.gpu is not None:
        assert any(o.gpu == found.gpu and (o.free is None or o.free >= found.count) for o in usable)
    else:
        assert found.skipped or not offers or gpus == []
        assert found.retry_at > 10.0 or math.isinf(found.retry_at)


def test_the_first_place_that_is_heard_and_has_all_and_why_those_before_it_were_not() -> None:
    places = [
        Candidate("lab1", away="it has not been heard since 10:20"),
        Candidate("lab2", lacks="fetching the weights"),
        Candidate("lab3", trouble=Trouble(30.0, "the disk was full")),
        Candidate("local", short="2 GB of memory are not free"),
        Candidate("lab4"),
        Candidate("lab5"),
    ]
    found = choose_place(Wanted(), places, {}, {}, 10.0)
    assert (found.gpu, found.place) == (CPU, "lab4")
    assert [(s.what, s.code) for s in found.skipped] == [
        ("lab1", "away"), ("lab2", "coming"), ("lab3", "trouble"), ("local", "memory"),
    ]  # fmt: skip
    assert choose_place(Wanted(), places, {}, {}, 30.0).place == "lab3"


def test_where_only_memory_lacks_the_first_such_place_is_taken_for_somebody_may_go() -> None:
    places = [Candidate("lab1", away="off"), Candidate("lab2", short="1 GB"), Candidate("local", short="2 GB")]  # fmt: skip
    found = choose_place(Wanted(), places, {}, {}, 0.0)
    assert found.place == "lab2" and [s.what for s in found.skipped] == ["lab1", "local"]


def test_no_place_now_is_told_from_never() -> None:
    h100 = Wanted([("H100", 1)])
    away = choose_place(h100, [Candidate("lab1", away="off")], {}, {}, 0.0)
    assert away.gpu is None and away.ever
    none = choose_place(h100, [Candidate("local"), Candidate("lab1", [L4])], {}, {}, 0.0)
    assert none.gpu is None and not none.ever
    assert [s.what for s in none.skipped] == ["local H100", "lab1 H100"]
    late = choose_place(Wanted(), [Candidate("lab1", trouble=Trouble(7.0, "no"))], {}, {}, 0.0)
    assert late.gpu is None and late.ever and late.retry_at == 7.0


def test_a_gpu_is_looked_for_at_each_place_in_turn() -> None:
    places = [Candidate("lab1", [Offer("H100", 0, 2)]), Candidate("lab2", [H100])]
    found = choose_place(Wanted([("H100", 1)]), places, {}, {}, 0.0)
    assert (found.gpu, found.place, found.per_hour) == ("H100", "lab2", Decimal(3))
    assert found.skipped[0].what == "lab1 H100"
