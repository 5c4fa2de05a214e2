"""What the limits of a key let through, at any times whatever."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbgpu_backend.domain.limits import (
    MINUTE_US,
    SECOND_US,
    Allowance,
    Bucket,
    reset_text,
    retry_after_s,
)
from nbgpu_backend.domain.trace import trace_id

RATES = st.integers(1, 5000)
GAPS = st.lists(st.one_of(st.just(0), st.integers(0, 3 * MINUTE_US)), max_size=200)


def instants(gaps: list[int]) -> list[int]:
    now, found = 17, []
    for gap in gaps:
        now += gap
        found.append(now)
    return found


@given(RATES, GAPS)
def test_no_window_of_any_length_admits_more_than_the_bucket_and_what_it_regains(
    per_minute: int, gaps: list[int]
) -> None:
    bucket = Bucket(per_minute, 0)
    taken = [at for at in instants(gaps) if bucket.take(at)]
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            window = taken[last] - taken[first]
            assert (last - first + 1) * MINUTE_US <= per_minute * MINUTE_US + per_minute * window


@given(RATES, st.lists(st.integers(0, MINUTE_US), max_size=100))
def test_who_keeps_to_the_rate_is_never_refused(per_minute: int, late: list[int]) -> None:
    bucket, now, even = Bucket(per_minute, 0), 0, -(-MINUTE_US // per_minute)
    for more in late:
        now += even + more
        assert bucket.take(now)


@given(RATES, GAPS)
def test_what_it_says_of_itself_is_true(per_minute: int, gaps: list[int]) -> None:
    bucket = Bucket(per_minute, 0)
    for at in instants(gaps):
        before = bucket.remaining(at)
        assert 0 <= before <= per_minute
        if not bucket.take(at):
            wait = bucket.wait_us(at)
            assert before == 0 and wait > 0
            assert bucket.remaining(at + wait - 1) == 0
            assert bucket.take(at + wait)
            return
        assert bucket.remaining(at) == before - 1 and bucket.reset_us(at) > 0
    end = instants(gaps)[-1] if gaps else 0
    assert bucket.remaining(end + bucket.reset_us(end)) == per_minute


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = Bucket(2, 1000)
    assert [bucket.take(at) for at in (1000, 1000, 1000, 10)] == [True, True, False, False]
    assert bucket.take(1000 + 30 * SECOND_US) and not bucket.take(1000 + 30 * SECOND_US)


@given(
    st.integers(1, 5), st.one_of(st.none(), st.integers(1, 50)),
    st.lists(st.tuples(st.booleans(), st.integers(0, SECOND_US))),
)  # fmt: skip
def test_no_more_are_in_progress_than_are_allowed(
    at_once: int, per_minute: int | None, steps: list[tuple[bool, int]]
) -> None:
    allowance, now, held = Allowance(per_minute, at_once, 0), 0, 0
    for comes, gap in steps:
        now += gap
        if comes:
            full = held == at_once
            refusal = allowance.enter(now)
            held += refusal is None
            assert not full or (refusal is not None and refusal.kind == "at_once")
            assert refusal is None or refusal.retry_us > 0
        elif held:
            allowance.leave()
            held -= 1
        assert allowance.held == held <= at_once


def test_one_that_is_refused_for_another_in_progress_takes_no_token() -> None:
    allowance = Allowance(2, 1, 0)
    assert allowance.enter(0) is None
    assert all(allowance.enter(0) is not None for _ in range(5))
    allowance.leave()
    assert allowance.enter(0) is None


def test_without_limits_all_come_in() -> None:
    allowance = Allowance(None, None, 0)
    assert all(allowance.enter(0) is None for _ in range(1000))


def test_waits_are_told_in_whole_seconds_and_never_too_early() -> None:
    for before, after in pairwise(range(0, 3 * SECOND_US, 99_991)):
        assert retry_after_s(before) * SECOND_US >= before
        assert retry_after_s(before) <= retry_after_s(after)


@pytest.mark.parametrize(
    ("us", "text"),
    [(0, "0ms"), (1, "1ms"), (120_000, "120ms"), (8_640_000, "8.64s"), (60_000_000, "1m0s"),
     (360_500_000, "6m0.5s")],
)  # fmt: skip
def test_resets_are_written_as_openai_writes_them(us: int, text: str) -> None:
    assert reset_text(us) == text


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-what-comes", TRACE),
        (f"00-{TRACE}-00f067aa0ba902b7-01-more", None),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        ("", None),
        ("x" * 5000, None),
    ],
)
def test_only_a_valid_traceparent_names_a_trace(header: str, found: str | None) -> None:
    assert trace_id(header) == found
