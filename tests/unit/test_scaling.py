"""The scaler's rules, also as properties of any sequence of loads."""

from __future__ import annotations

import math
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st
from nbgpu_backend.domain.placement import WorkerLoad, victims
from nbgpu_backend.domain.scaling import (
    FOREVER,
    Observation,
    ScalingMemory,
    ScalingPolicy,
    decide,
)

POLICY = ScalingPolicy("queue_delay", 4.0, 0, 3, 60.0)


def seen(**changes: object) -> Observation:
    base: dict[str, object] = {"queued": 0, "queued_low": 0, "oldest": None, "held": 0, "up": 0, "coming": 0, "slots": 1}  # fmt: skip
    return Observation(**(base | changes))  # type: ignore[arg-type]


def test_the_first_request_starts_one_worker_at_once() -> None:
    decision = decide(POLICY, seen(queued=5, oldest=0.0), ScalingMemory(), 0.0)
    assert (decision.target, decision.reason) == (1, "first request")


def test_more_only_after_the_delay_and_for_what_the_coming_slots_will_not_take() -> None:
    waiting = seen(queued=5, oldest=0.0, coming=1, slots=8)
    assert decide(POLICY, waiting, ScalingMemory(), 100.0).target == 1
    narrow = seen(queued=5, oldest=0.0, coming=1, slots=2)
    early = decide(POLICY, narrow, ScalingMemory(), 3.0)
    assert (early.target, early.wake_at) == (1, 4.0)
    assert decide(POLICY, narrow, ScalingMemory(), 4.0).target == 3  # 5 requests, 2 a worker


def test_what_leaves_still_counts_to_max() -> None:
    policy = ScalingPolicy("queue_delay", 4.0, 0, 2, 60.0)
    waiting = seen(queued=9, oldest=0.0, up=1, held=1, leaving=1)
    decision = decide(policy, waiting, ScalingMemory(), 10.0)
    assert (decision.target, decision.start) == (2, 0)
    gone = seen(queued=9, oldest=0.0, up=1, held=1)
    assert decide(policy, gone, ScalingMemory(), 10.0).start == 1


def test_low_priority_never_scales_up() -> None:
    assert decide(POLICY, seen(queued=9, queued_low=9), ScalingMemory(), 0.0).target == 0


def test_an_idle_worker_goes_after_the_idle_timeout_and_a_request_starts_it_anew() -> None:
    idle = decide(POLICY, seen(up=1), ScalingMemory(), 10.0)
    assert (idle.target, idle.wake_at) == (1, 70.0)
    assert decide(POLICY, seen(up=1), idle.memory, 69.9).target == 1
    assert decide(POLICY, seen(up=1), idle.memory, 70.0).target == 0
    busy = decide(POLICY, seen(up=1, held=1), idle.memory, 69.9)
    assert busy.memory == ScalingMemory() and busy.wake_at == FOREVER


def test_request_count_is_runpods_formula() -> None:
    policy = ScalingPolicy("request_count", 4, 0, 10, 60.0)
    decision = decide(policy, seen(queued=5, oldest=0.0, held=4, up=1), ScalingMemory(), 0.0)
    assert decision.target == math.ceil(9 / 4)


def test_victims_are_never_busy_and_not_yet_ready_ones_go_first() -> None:
    loads = [
        WorkerLoad("busy", 2, True, 1.0),
        WorkerLoad("old", 0, True, 2.0),
        WorkerLoad("new", 0, True, 9.0),
        WorkerLoad("dear", 0, True, 9.5, Decimal(3)),
        WorkerLoad("starting", 0, False, 5.0),
    ]
    assert victims(loads, 2) == ["starting", "dear"]
    assert victims(loads, 9) == ["starting", "dear", "old", "new"]


loads = st.lists(
    st.builds(
        WorkerLoad, st.uuids().map(str), st.integers(0, 3), st.booleans(), st.floats(0, 100),
        st.decimals(0, 10, places=2),
    ),
    max_size=12,
)  # fmt: skip


@given(loads, st.integers(-2, 14))
def test_no_victim_is_busy_none_is_named_twice_and_no_more_than_asked(
    workers: list[WorkerLoad], surplus: int
) -> None:
    named = victims(workers, surplus)
    idle = {w.worker for w in workers if w.held == 0}
    assert set(named) <= idle and len(named) == len(set(named))
    assert len(named) == min(max(0, surplus), len(idle))
    assert victims(list(reversed(workers)), surplus) == named  # whatever the order they come in


observations = st.builds(
    lambda queued, low, age, held, up, coming, slots: (
        queued, min(low, queued), age, held, up, coming, slots,
    ),
    st.integers(0, 50), st.integers(0, 50), st.floats(0, 100), st.integers(0, 50),
    st.integers(0, 6), st.integers(0, 6), st.integers(1, 30),
)  # fmt: skip
policies = st.builds(
    lambda kind, value, low, extra, idle: ScalingPolicy(kind, value, low, low + extra, idle),
    st.sampled_from(["queue_delay", "request_count"]),
    st.floats(0.5, 20), st.integers(0, 3), st.integers(0, 5), st.floats(1, 600),
)  # fmt: skip


@given(policies, st.lists(st.tuples(st.floats(0.001, 30), observations), max_size=30))
def test_the_target_stays_within_min_and_max_and_the_wake_up_lies_ahead(
    policy: ScalingPolicy, steps: list[tuple[float, tuple[int, int, float, int, int, int, int]]]
) -> None:
    memory, now = ScalingMemory(), 0.0
    for pause, (queued, low, age, held, up, coming, slots) in steps:
        now += pause
        oldest = now - age if queued > low else None
        decision = decide(
            policy, Observation(queued, low, oldest, held, up, coming, slots), memory, now
        )
        assert policy.min <= decision.target <= policy.max
        assert 0 <= decision.start <= max(0, policy.max - up - coming)
        assert decision.wake_at > now
        memory = decision.memory


@given(policies, st.integers(1, 20), st.integers(1, 30))
def test_no_flapping_under_a_steady_load(policy: ScalingPolicy, held: int, slots: int) -> None:
    memory, have = ScalingMemory(), policy.min
    targets = []
    for second in range(200):
        load = Observation(0, 0, None, held, have, 0, slots)
        decision = decide(policy, load, memory, float(second))
        memory = decision.memory
        changed = decision.target != have
        have = decision.target
        targets.append(changed)
    assert sum(targets) <= 1 + 1  # up once; at most once down again when it was above the need


@given(policies, observations)
def test_nothing_changed_means_the_same_memory(
    policy: ScalingPolicy, load: tuple[int, int, float, int, int, int, int]
) -> None:
    queued, low, age, held, up, coming, slots = load
    seen_ = Observation(queued, low, 100 - age if queued > low else None, held, up, coming, slots)
    first = decide(policy, seen_, ScalingMemory(), 100.0)
    assert decide(policy, seen_, first.memory, 100.0).memory is first.memory


@given(
    policies,
    st.integers(1, 30),
    st.lists(st.tuples(st.floats(0.01, 3), st.booleans()), max_size=60),
)
def test_a_level_is_kept_as_long_as_it_is_needed_once_in_an_idle_timeout(
    policy: ScalingPolicy, slots: int, steps: list[tuple[float, bool]]
) -> None:
    """One request now and then, more often than the idle timeout: its worker is never given up."""
    memory, now, last = ScalingMemory(), 0.0, 0.0
    for pause, busy in steps:
        now += min(pause, policy.idle_timeout_s / 2)
        if busy or now - last > policy.idle_timeout_s / 2:
            busy, last = True, now
        load = Observation(0, 0, None, int(busy), max(1, policy.min), 0, slots)
        decision = decide(policy, load, memory, now)
        memory = decision.memory
        assert policy.max == 0 or decision.target >= 1


@given(policies, st.integers(1, 40), st.integers(1, 30), st.integers(0, 8))
def test_what_waits_too_long_gets_workers_for_all_of_it_at_once(
    policy: ScalingPolicy, waiting: int, slots: int, up: int
) -> None:
    load = Observation(waiting, 0, 0.0, up * slots, up, 0, slots)
    target = decide(policy, load, ScalingMemory(), policy.value + 1).target
    if policy.kind == "queue_delay":
        needed = 1 if up == 0 else up + math.ceil(waiting / slots)
    else:
        needed = math.ceil((waiting + up * slots) / policy.value)
    assert target == min(policy.max, max(policy.min, min(up, policy.max), needed))
