"""The memory table: what is set aside, who goes first, and that nothing is promised twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from nbgpu_backend.domain.memory import Reservations


def test_what_is_starting_is_set_aside_and_what_is_ready_the_machine_counts() -> None:
    table = Reservations()
    table.reserve("a", 6)
    assert not table.admit(needed=5, available=10).fits
    table.measured("a", 4)  # the other 2 will come
    assert table.admit(needed=4, available=6).fits
    table.taken("a")
    assert table.admit(needed=4, available=4).fits
    full = table.admit(needed=5, available=4)
    assert not full.fits and full.ever
    assert not table.admit(needed=9, available=4).ever
    table.release("a")
    assert not table.admit(needed=5, available=4).ever


def test_parked_engines_go_first_the_longest_unused_of_them_and_then_idle_parents() -> None:
    table = Reservations()
    for holder, kind, used in (
        ("busy parent", "parent", 0.0), ("parent", "parent", 1.0), ("worker", "worker", 2.0),
        ("young", "parked", 9.0), ("old", "parked", 3.0),
    ):  # fmt: skip
        table.reserve(holder, 10, kind=kind, now=used)  # type: ignore[arg-type]
        table.measured(holder, 10)
        table.taken(holder)
    table.used("busy parent", 0.0, busy=True)
    assert table.admit(needed=5, available=6).evict == ()
    assert table.admit(needed=5, available=0).evict == ("old",)
    assert table.admit(needed=12, available=0).evict == ("old", "young")
    assert table.admit(needed=25, available=0).evict == ("old", "young", "parent")
    hopeless = table.admit(needed=31, available=0)
    assert not hopeless.fits and hopeless.evict == () and hopeless.ever
    assert "1 worker 0.0 GB, 2 parked 0.0 GB" in hopeless.text


def test_below_the_floor_parked_engines_go_though_nobody_asks() -> None:
    table = Reservations(floor=10)
    for holder in ("a", "b"):
        table.reserve(holder, 8, kind="parked", now=1.0)
        table.taken(holder)
    assert table.relieve(10) == ()
    assert table.relieve(5) == ("a",)
    assert table.relieve(-90) == ("a", "b")  # as many as there are


kinds = st.sampled_from(["worker", "pod", "parent", "parked"])
holdings = st.lists(
    st.tuples(kinds, st.integers(0, 50), st.none() | st.integers(0, 50), st.booleans()), max_size=8
)


@given(holdings, st.integers(0, 120), st.integers(0, 120), st.integers(0, 20))
def test_who_is_told_to_go_is_idle_suffices_and_is_no_more_than_needed(
    given_: list[tuple[str, int, int | None, bool]], needed: int, available: int, floor: int
) -> None:
    table = Reservations(floor)
    for i, (kind, reserved, held, taken) in enumerate(given_):
        table.reserve(str(i), reserved, kind=kind, now=float(i))  # type: ignore[arg-type]
        if held is not None:
            table.measured(str(i), held)
        if taken:
            table.taken(str(i))
    pending = sum(h.pending for h in table.table.values())
    verdict = table.admit(needed=needed, available=available)
    free = max(0, available - floor - pending)
    freed = [table.table[holder].size for holder in verdict.evict]
    assert all(table.table[holder].kind in ("parked", "parent") for holder in verdict.evict)
    assert verdict.fits == (
        needed <= free + sum(h.size for h in table.table.values() if h.kind in ("parked", "parent"))
    )
    if verdict.fits:
        assert needed <= free + sum(freed)
        if freed:
            assert needed > free + sum(freed[:-1])
        assert verdict.ever or needed > free
    else:
        assert verdict.evict == ()
