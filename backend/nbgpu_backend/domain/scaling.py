"""How many workers there should be: `decide`, a pure function that the live scaler runs at every arrival
and completion, whenever a worker becomes ready or dies, and at `wake_at`.

Policies as RunPod means them. `queue_delay`: one more worker when a request has waited longer than the
delay and the slots that are coming will not take it. `request_count`: ceil((queued + held) / count). Under
both the first request of an endpoint at zero starts one worker at once, and a level that nobody needed
for the idle timeout is given up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

FOREVER = math.inf


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    kind: Literal["queue_delay", "request_count"]
    value: float  # seconds, or requests per worker
    min: int
    max: int
    idle_timeout_s: float


@dataclass(frozen=True, slots=True)
class Observation:
    queued: int
    queued_low: int  # of those, the ones that never scale up
    oldest: float | None  # arrival of the oldest that may
    held: int  # assigned or in progress
    up: int  # workers ready
    coming: int  # workers starting
    slots: int  # of one worker


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """Since when each level above the need has been unneeded: `unneeded[i]` belongs to level `base + i`."""

    base: int = 0
    unneeded: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    target: int
    memory: ScalingMemory
    wake_at: float  # when to ask again though nothing happens; inf: never
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What `victims` sorts by."""

    worker: str
    held: int
    ready: bool
    since: float = field(default=0.0)


def decide(policy: ScalingPolicy, seen: Observation, memory: ScalingMemory, now: float) -> Decision:
    """Target within min..max. The memory is the same object when nothing changed."""
    have = seen.up + seen.coming
    need, reason, wake = _need(policy, seen, have, now)
    need = min(policy.max, max(policy.min, need))
    memory = _remember(memory, need, have, now)
    target = max(need, min(have, policy.max))
    while target > need and now >= _since(memory, target, now) + policy.idle_timeout_s:
        target -= 1
    if target > need:
        wake = min(wake, _since(memory, target, now) + policy.idle_timeout_s)
    if target > have:
        return Decision(target, memory, wake, reason)
    return Decision(target, memory, wake, "idle" if target < have else "hold")


def victims(workers: Sequence[WorkerLoad], surplus: int) -> list[str]:
    """Which workers to end. A busy one never: not yet ready first, then the longest ready.

    Sort key: (ready, since).
    """
    free = sorted((w for w in workers if w.held == 0), key=lambda w: (w.ready, w.since))
    return [w.worker for w in free[: max(0, surplus)]]


def _need(
    policy: ScalingPolicy, seen: Observation, have: int, now: float
) -> tuple[int, str, float]:
    waiting = seen.queued - seen.queued_low
    if policy.kind == "request_count":
        return math.ceil((waiting + seen.held) / policy.value), "request_count", FOREVER
    need = math.ceil(seen.held / max(1, seen.slots))
    if waiting <= 0 or seen.oldest is None:
        return need, "queue_delay", FOREVER
    if have == 0:
        return max(need, 1), "first request", FOREVER
    due = seen.oldest + policy.value
    if seen.coming * seen.slots >= waiting:
        return max(need, have), "queue_delay", FOREVER
    if now < due:
        return max(need, have), "queue_delay", due
    return max(need, have + 1), "queue_delay", FOREVER


def _remember(memory: ScalingMemory, need: int, have: int, now: float) -> ScalingMemory:
    """Levels need+1 .. have are unneeded; those that were so before keep their time."""
    if have <= need:
        return memory if not memory.unneeded else ScalingMemory()
    wanted = tuple(_since(memory, level, now) for level in range(need + 1, have + 1))
    if memory.base == need + 1 and memory.unneeded == wanted:
        return memory
    return ScalingMemory(need + 1, wanted)


def _since(memory: ScalingMemory, level: int, now: float) -> float:
    index = level - memory.base
    return memory.unneeded[index] if 0 <= index < len(memory.unneeded) else now
