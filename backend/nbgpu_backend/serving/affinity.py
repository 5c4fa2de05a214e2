"""Affinity: a request to a load balancer may name the worker that it wants, as RunPod's header says it.

    X-Runpod-Worker-Id: <id>                  that one while it has room, else any other
    X-Runpod-Worker-Id: strict <id>           that one alone; waits while it is full
    X-Runpod-Worker-Id: strict-resume <id>    the same, and a parked one is woken for it

Each answer names its worker in the same header.
"""

from __future__ import annotations

from dataclasses import dataclass

from nbgpu_backend.errors import BadRequest, NotFound

HEADER = b"x-runpod-worker-id"
STRICT, RESUME = "strict", "strict-resume"
LONGEST = 200


@dataclass(frozen=True, slots=True)
class Affinity:
    worker: str
    strict: bool = False
    resume: bool = False


def read(value: bytes | None) -> Affinity | None:
    """None: no wish. Raises BadRequest."""
    words = (value or b"")[:LONGEST].decode("latin-1").split()
    if not words:
        return None
    if len(words) == 1 and words[0] not in (STRICT, RESUME):
        return Affinity(words[0])
    if len(words) == 2 and words[0] in (STRICT, RESUME):
        return Affinity(words[1], strict=True, resume=words[0] == RESUME)
    raise BadRequest(
        "X-Runpod-Worker-Id is not understood.",
        "It takes a worker's id, 'strict' and an id, or 'strict-resume' and an id.",
        code="bad_affinity",
    )


def worker_gone(endpoint: str, worker: str) -> NotFound:
    return NotFound(
        f"The worker {worker} of '{endpoint}' is gone, and the request is bound to it.",
        "Send it without X-Runpod-Worker-Id: another worker answers.",
        code="affinity_worker_gone",
    )


def worker_late(endpoint: str, worker: str, seconds: float) -> BadRequest:
    return BadRequest(
        f"The worker {worker} of '{endpoint}' had no room for the request within {seconds:g} s.",
        "Try again later, or send it without X-Runpod-Worker-Id.",
        code="worker_timeout",
    )
