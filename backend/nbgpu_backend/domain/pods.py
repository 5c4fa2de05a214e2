"""When a pod ends by itself, and what its state is called. Pure: time is passed in.

Limits are instants. The hard ones (`until`, and `max_cost` turned into one) hold whatever it does, also
without a backend; idle stop holds for one that nobody uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

# Our state, and what REST v2 calls it. `unreachable` is a condition of one that runs.
STATUS: Mapping[str, str] = {
    "preparing": "PROVISIONING",
    "starting": "STARTING",
    "idle": "RUNNING",
    "busy": "RUNNING",
    "stopping": "RUNNING",
    "unreachable": "RUNNING",
    "stopped": "EXITED",
    "failed": "ERROR",
}
LIVE = ("starting", "idle", "busy", "stopping", "unreachable")  # a process exists, or is about to
WARN_S = 300.0  # before an idle stop, a person is told; of a short one at its half


def actions(state: str) -> list[str]:
    """What REST v2 lets one do."""
    if state in ("stopped", "failed"):
        return ["start", "terminate"]
    if state == "stopping":
        return ["terminate"]
    return ["stop", "restart", "terminate"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, UTC microseconds, dollars."""

    idle_s: int | None = None
    until_us: int | None = None
    max_cost: Decimal | None = None
    kept_until_us: int | None = None  # extended: no idle stop before


@dataclass(frozen=True, slots=True)
class End:
    at_us: int
    code: str  # until, max_cost, idle
    text: str  # why, after "it stops"


def hard_end(limits: Limits, *, spent: Decimal, now_us: int, per_hour: Decimal) -> End | None:
    """The nearest instant at which it ends whatever it does. `spent` dollars since it was started."""
    ends = []
    if limits.until_us is not None:
        ends.append(End(limits.until_us, "until", "its time is over"))
    if limits.max_cost is not None and per_hour > 0:
        left = max(Decimal(0), limits.max_cost - spent)
        at = now_us + math.floor(left / per_hour * 3_600_000_000)
        ends.append(End(at, "max_cost", f"it has cost ${limits.max_cost:f}"))
    return min(ends, key=lambda end: end.at_us, default=None)


def idle_end(limits: Limits, *, active_us: int, busy: bool) -> End | None:
    """When it ends if nobody uses it until then; None while it is busy."""
    if busy or limits.idle_s is None:
        return None
    at = max(active_us + limits.idle_s * 1_000_000, limits.kept_until_us or 0)
    return End(at, "idle", "nobody used it")


def nearest(*ends: End | None) -> End | None:
    return min((end for end in ends if end is not None), key=lambda end: end.at_us, default=None)


def warn_at(end: End, idle_s: int) -> int:
    """When to say that an idle stop is near."""
    return end.at_us - int(min(WARN_S, idle_s / 2) * 1_000_000)
