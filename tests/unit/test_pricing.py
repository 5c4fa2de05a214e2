"""Money: rounded up once per life, and shares that add up."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from nbgpu_backend.domain.pricing import Flip, Interval, lifetime_amount, plain, slices

S = 1_000_000
DOLLAR_A_SECOND = Decimal(3600)


def span(start_s: float, end_s: float, rate: Decimal = DOLLAR_A_SECOND) -> Interval:
    return Interval("w", int(start_s * S), int(end_s * S), rate)


def test_seconds_are_rounded_up_once_per_life_not_per_interval() -> None:
    assert lifetime_amount([span(0, 1.2)]) == 2
    assert lifetime_amount([span(0, 1.2), span(1.2, 2.4)]) == 3
    assert lifetime_amount([span(0, 3)]) == 3
    assert lifetime_amount([]) == 0


def test_a_changed_rate_prices_each_part_by_its_own() -> None:
    assert lifetime_amount([span(0, 10), span(10, 20, Decimal(7200))]) == 30


def test_shares_follow_the_timeline() -> None:
    flips = [Flip(0, "starting"), Flip(4 * S, "idle"), Flip(5 * S, "running"), Flip(8 * S, "idle")]
    parts = slices([span(0, 10)], flips)
    assert [(p.share, p.amount) for p in parts] == [
        ("start", 4),
        ("idle", 1),
        ("busy", 3),
        ("idle", 2),
    ]


def test_an_idle_worker_that_ends_was_idle_to_its_last_second() -> None:
    flips = [Flip(0, "running"), Flip(S, "idle"), Flip(2 * S, "draining"), Flip(3 * S, "stopped")]
    assert [(p.share, p.amount) for p in slices([span(0, 2.5)], flips)] == [
        ("busy", 1),
        ("idle", 2),
    ]


def test_money_is_plain_text() -> None:
    assert plain(Decimal("0.10")) == "0.1" and plain(Decimal(0)) == "0"
    assert plain(Decimal("0.0000012345678")) == "0.000001235"
    assert plain(Decimal("1E+3")) == "1000"


states = st.sampled_from(["starting", "idle", "running", "draining", "unhealthy", "stopped"])


@given(
    st.lists(st.integers(1, 10_000_000), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 30_000_000), states), max_size=12),
    st.decimals("0", "100", places=4),
)
def test_the_shares_of_any_timeline_add_up_to_the_bill(
    lengths: list[int], flips: list[tuple[int, str]], rate: Decimal
) -> None:
    intervals, at = [], 0
    for i, length in enumerate(lengths):
        intervals.append(Interval("w", at, at + length, rate + i))
        at += length
    timeline = [Flip(when, state) for when, state in sorted(flips)]
    total = sum((p.amount for p in slices(intervals, timeline)), Decimal(0))
    assert abs(total - lifetime_amount(intervals)) < Decimal("1e-15")
