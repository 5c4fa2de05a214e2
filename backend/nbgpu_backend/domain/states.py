"""The one table of worker states, and how an endpoint's own state follows from its workers'.

Columns: our state, its name in REST v2 and on RunPod's /health, whether it bills, and whether it counts
to `workers.max`. `parked` bills only where it holds a GPU. One that is `unreachable` may well run on:
it bills, and another one may take its place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerState:
    name: str
    v2: str | None  # None: not listed there
    health: str | None
    bills: bool
    counts: bool
    live: bool  # a process exists, or is about to


INITIALIZING = WorkerState("initializing", "INITIALIZING", "initializing", False, True, True)
STARTING = WorkerState("starting", "INITIALIZING", "initializing", True, True, True)
IDLE = WorkerState("idle", "IDLE", "idle", True, True, True)
RUNNING = WorkerState("running", "RUNNING", "running", True, True, True)
PARKED = WorkerState("parked", None, None, False, False, True)
DRAINING = WorkerState("draining", "RUNNING", "running", True, True, True)
THROTTLED = WorkerState("throttled", "THROTTLED", "throttled", False, False, False)
UNREACHABLE = WorkerState("unreachable", "UNHEALTHY", "unhealthy", True, False, True)
UNHEALTHY = WorkerState("unhealthy", "UNHEALTHY", "unhealthy", True, True, True)
STOPPED = WorkerState("stopped", None, None, False, False, False)

WORKER_STATES = {
    state.name: state
    for state in (
        INITIALIZING, STARTING, IDLE, RUNNING, PARKED, DRAINING, THROTTLED, UNREACHABLE,
        UNHEALTHY, STOPPED,
    )
}  # fmt: skip


def endpoint_state(
    *,
    stopped: bool,
    failed: bool,
    fetching: bool,
    throttled: bool,
    workers: Collection[str],
) -> str:
    """The state of an endpoint, worst news first. `workers` holds the names of its workers' states."""
    if stopped:
        return "stopped"
    if failed:
        return "failed"
    if "running" in workers:
        return "busy"
    if "idle" in workers:
        return "ready"
    if fetching:
        return "fetching"
    if throttled:
        return "throttled"
    if "starting" in workers or "initializing" in workers:
        return "starting"
    if "unreachable" in workers:
        return "unreachable"
    if "draining" in workers or "unhealthy" in workers:
        return "draining"
    return "asleep"
