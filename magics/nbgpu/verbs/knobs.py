"""What the knobs of scaling take, and the sentences for what they do not (stdlib only).

The backend has the same limits (`schema.endpoints`); here they are told in the words of the flags.
"""

from __future__ import annotations

from typing import Any

from nbgpu.errors import UsageProblem, closest
from nbgpu.formats import span

MOST_WORKERS = 64
DAY_S, WEEK_S = 86_400, 604_800
DELAY_S = (0.5, 3600)
TIERS = ("preimported", "parked")  # in the order in which they are kept


def count(flag: str, value: int, least: int, most: int) -> int:
    """Raises UsageProblem outside of least..most."""
    if not least <= value <= most:
        raise UsageProblem(f"{flag} cannot be {value}.", f"It goes from {least} to {most:,}.")
    return value


def time(flag: str, value: float, least: float, most: float) -> float:
    """Seconds. Raises UsageProblem outside of least..most."""
    if not least <= value <= most:
        raise UsageProblem(
            f"{flag} cannot be {_span(value)}.", f"It goes from {_span(least)} to {_span(most)}."
        )
    return value


def _span(seconds: float) -> str:
    return "0 s" if not seconds else span(seconds)


def limits(workers: int | None, always_on: int | None, idle: int | None) -> dict[str, int]:
    """`workers` of a request, with what is given. Raises UsageProblem."""
    if workers == 0:
        raise UsageProblem(
            "--workers 0 would let no worker start, and requests would wait in vain.",
            "To end the workers and refuse requests: %gpu stop NAME",
        )
    found: dict[str, int] = {}
    if always_on is not None:
        found["min"] = count("--always-on", always_on, 0, MOST_WORKERS)
    if workers is not None:
        found["max"] = count("--workers", workers, 1, MOST_WORKERS)
    if idle is not None:
        found["idleTimeout"] = int(time("--idle", idle, 1, DAY_S))
    if found.get("min", 0) > found.get("max", MOST_WORKERS):
        raise UsageProblem(
            f"--always-on {always_on} is more than --workers {workers} allows.",
            f"Write --workers {always_on} or more.",
        )
    return found


def scaling(delay: float | None, per_worker: int | None) -> dict[str, Any] | None:
    """`scaling` of a request; None: neither is given. Raises UsageProblem."""
    if delay is not None and per_worker is not None:
        raise UsageProblem(
            "--delay and --per-worker are two ways to scale.", "Leave one of them out."
        )
    if delay is not None:
        return {"type": "QUEUE_DELAY", "queueDelay": time("--delay", delay, *DELAY_S)}
    if per_worker is not None:
        return {
            "type": "REQUEST_COUNT",
            "requestCount": count("--per-worker", per_worker, 1, 10_000),
        }
    return None


def starts(tiers: list[str] | None, park: int | None) -> dict[str, Any]:
    """`policy` of a request: how a worker may start. Raises UsageProblem."""
    found: dict[str, Any] = {}
    if tiers is not None:
        found["tiers"] = _tiers(tiers)
    if park is not None:
        found["parkS"] = time("--park", park, 0, WEEK_S)
        if park and "parked" not in found.get("tiers", TIERS):
            raise UsageProblem(
                f"--park {_span(park)} keeps engines parked, and --tiers leaves that out.",
                "Add parked to --tiers, or leave --park out.",
            )
    return found


def _tiers(given: list[str]) -> list[str]:
    for name in given:
        if name not in (*TIERS, "none"):
            raise UsageProblem(
                f"There is no tier {name}.{closest(name, TIERS)}",
                "There are: preimported, parked; or none.",
            )
    if not given or ("none" in given and len(given) > 1):
        raise UsageProblem(
            "--tiers is a list of preimported and parked, or none.",
            "Write it as in: --tiers parked,preimported",
        )
    return [name for name in TIERS if name in given]
