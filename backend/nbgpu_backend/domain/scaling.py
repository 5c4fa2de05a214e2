"""How many workers there should be: `decide`, a pure function that the live scaler runs at every arrival
and completion, whenever a worker becomes ready or dies, and at `wake_at`.

Policies as RunPod means them. `queue_delay`: when a request has waited longer than the delay, as many
workers as all that waits and runs fills, less what the coming slots will take. `request_count`:
ceil((queued + held) / count). Under both the first request of an endpoint at zero starts one worker at
once, and a level that nobody needed for the idle timeout is given up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    leaving: int = 0  # workers that finish what they hold: they still count to max


@dataclass(frozen=True, slots=True)
class ScalingMemory:
    """Since when each level above the need has been unneeded: `unneeded[i]` belongs to level `base + i`."""

    base: int = 0
    unneeded: tuple[float, ...] = ()


NOTHING = ScalingMemory()


@dataclass(frozen=True, slots=True)
class Decision:
    """`target` counts workers that are up or coming; `start` of them can be started now."""

    target: int
    start: int
    memory: ScalingMemory
    wake_at: float  # when to ask again though nothing happens; inf: never
    reason: str


def decide(policy: ScalingPolicy, seen: Observation, memory: ScalingMemory, now: float) -> Decision:
    """Target within min..max, O(1) unless a level is crossed. The memory is the same object when
    nothing changed. Never more than max run at once: one more starts when a leaving one has left."""
    have = seen.up + seen.coming
    need, reason, wake = _need(policy, seen, have, now)
    need = min(policy.max, max(policy.min, need))
    memory = _remember(memory, need, have, now)
    target = max(need, min(have, policy.max))
    while target > need and now >= _since(memory, target, now) + policy.idle_timeout_s:
        target -= 1
    if target > need:
        wake = min(wake, _since(memory, target, now) + policy.idle_timeout_s)
    start = max(0, min(target, policy.max - seen.leaving) - have)
    if target <= have:
        reason = "idle" if target < have else "hold"
    return Decision(target, start, memory, wake, reason)


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
    return (
        max(need, have, math.ceil((seen.held + waiting) / max(1, seen.slots))),
        "queue_delay",
        FOREVER,
    )


def _remember(memory: ScalingMemory, need: int, have: int, now: float) -> ScalingMemory:
    """Levels need+1 .. have are unneeded; those that were so before keep their time."""
    if have <= need:
        return NOTHING if memory.unneeded else memory
    if memory.base == need + 1 and len(memory.unneeded) == have - need:
        return memory
    levels = range(need + 1, have + 1)
    return ScalingMemory(need + 1, tuple(_since(memory, level, now) for level in levels))


def _since(memory: ScalingMemory, level: int, now: float) -> float:
    index = level - memory.base
    return memory.unneeded[index] if 0 <= index < len(memory.unneeded) else now
