"""Settings and instants in words, the same on every face (stdlib only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from nbgpu.formats import plural, span

# in the order in which they are told and drawn; `initializing` is told as starting
STATES = (
    "running",
    "idle",
    "starting",
    "draining",
    "parked",
    "throttled",
    "unreachable",
    "unhealthy",
)


def scaling(policy: Any) -> str:
    """`another worker once a request has waited 4 s`; from a model or from what it is on the wire."""
    wire: Mapping[str, Any] = policy if isinstance(policy, Mapping) else policy.wire()
    if wire.get("type") == "REQUEST_COUNT":
        count = wire["requestCount"]
        return f"a worker for every {plural(count, 'request')} that {'waits' if count == 1 else 'wait'} or {'runs' if count == 1 else 'run'}"  # fmt: skip
    return f"another worker once a request has waited {seconds(wire['queueDelay'])}"


VLLM_PARK_S = 600  # what null means for it; other engines are parked where that is asked for


def starts(engine: str, tiers: Sequence[str], park_s: float | None) -> str:
    """How a worker may start: `from a pre-imported parent, or woken where it was parked (for 10 min), else plainly`."""
    ways = []
    if "preimported" in tiers and engine == "vllm":
        ways.append("from a pre-imported parent")
    kept = (VLLM_PARK_S if engine == "vllm" else 0) if park_s is None else park_s
    if "parked" in tiers and kept and engine != "handler":
        ways.append(f"woken where it was parked (for {seconds(kept)})")
    return ", or ".join(ways) + ", else plainly" if ways else "plainly"


def seconds(value: float) -> str:
    """`4 s` for 4.0, too."""
    return span(int(value) if float(value).is_integer() else value)


def workers(by_state: Mapping[str, int]) -> str:
    """`2 running, 1 parked`; nothing for none."""
    counts = dict(by_state)
    if "initializing" in counts:
        counts["starting"] = counts.get("starting", 0) + counts.pop("initializing")
    order = [s for s in STATES if s in counts] + [s for s in counts if s not in STATES]
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state])


def ends_why(reason: str) -> str:
    """Why a pod will end by itself; the backend tells it as it will be told afterwards."""
    return {"nobody used it": "if nobody uses it until then"}.get(reason, reason)


def clock(at_us: int) -> str:
    """The time of day here, `14:05`; with the date where that is not today."""
    at = datetime.fromtimestamp(at_us / 1e6)
    return f"{at:%H:%M}" if at.date() == datetime.now().date() else f"{at:%Y-%m-%d %H:%M}"
