"""Jobs: their states, what a submission says, and what a worker's post means. Pure.

States and fields are those of RunPod's serverless job API.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

IN_QUEUE, IN_PROGRESS = "IN_QUEUE", "IN_PROGRESS"
COMPLETED, FAILED, CANCELLED, TIMED_OUT = "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"
FINAL_STATES = frozenset({COMPLETED, FAILED, CANCELLED, TIMED_OUT})
RETRIABLE = frozenset({FAILED, TIMED_OUT})

TTL_MS = (10_000, 604_800_000)
TIMEOUT_MS = (5_000, 604_800_000)
DEFAULT_TTL_MS = 86_400_000


class BadSubmission(ValueError):
    """What is wrong with a submission, as a sentence."""


@dataclass(frozen=True, slots=True)
class Submission:
    """`execution_ms`: None is the endpoint's own limit."""

    webhook: str | None = None
    execution_ms: int | None = None
    ttl_ms: int = DEFAULT_TTL_MS
    low: bool = False
    sealed: bool = False  # it carries s3Config: its body never enters the database
    rest: dict[str, Any] = field(default_factory=dict)  # what the worker gets, `id` aside


def read_submission(parsed: Any) -> Submission:
    """Raises BadSubmission."""
    if not isinstance(parsed, dict):
        raise BadSubmission("The body must be a JSON object with an 'input'.")
    if "input" not in parsed:
        raise BadSubmission("The body has no 'input'.")
    webhook = parsed.get("webhook")
    if webhook is not None and not (
        isinstance(webhook, str) and webhook.startswith(("http://", "https://"))
    ):
        raise BadSubmission("'webhook' must be an http or https URL.")
    policy = parsed.get("policy")
    if policy is None:
        policy = {}
    if not isinstance(policy, dict):
        raise BadSubmission("'policy' must be an object.")
    low = policy.get("lowPriority")
    if low is not None and not isinstance(low, bool):
        raise BadSubmission("'policy.lowPriority' must be true or false.")
    ttl = _milliseconds(policy, "ttl", TTL_MS)
    return Submission(
        webhook=webhook,
        execution_ms=_milliseconds(policy, "executionTimeout", TIMEOUT_MS),
        ttl_ms=DEFAULT_TTL_MS if ttl is None else ttl,
        low=bool(low),
        sealed=bool(parsed.get("s3Config")),
        rest=parsed,
    )


def _milliseconds(policy: dict[str, Any], name: str, bounds: tuple[int, int]) -> int | None:
    value = policy.get(name)
    if value is None:
        return None
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadSubmission(f"'policy.{name}' must be milliseconds from {low} to {high}.")
    return int(value)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a worker's post says. `output` is JSON text; `state` IN_PROGRESS is a sign of progress."""

    state: str
    output: str | None = None
    error: str | None = None
    stop_worker: bool = False
    nulls: int = 0  # values of the output that JSON does not know


def read_post(body: bytes) -> Verdict:
    """What `job-done` was told. A body that is no JSON, or too deep to be read, fails the job."""
    try:
        return _verdict(json.loads(body))
    except (ValueError, RecursionError) as error:
        shown = body[:200].decode("utf-8", "replace")
        deep = isinstance(error, RecursionError)
        what = "is nested too deeply" if deep else "was no JSON"
        return Verdict(FAILED, error=f"The worker's answer {what}: {shown}")


def _verdict(parsed: Any) -> Verdict:
    if not isinstance(parsed, dict):
        whole, nulls = json_text(parsed)
        return Verdict(COMPLETED, whole, nulls=nulls)
    output: str | None = None
    nulls = 0
    if "output" in parsed:
        output, nulls = json_text(parsed["output"])
    if parsed.get("status") == IN_PROGRESS:
        return Verdict(IN_PROGRESS, output, nulls=nulls)
    stop = parsed.get("stopPod") is True
    error = parsed.get("error")
    if error is not None and error is not False:
        text = error if isinstance(error, str) else json.dumps(error)
        return Verdict(FAILED, output, text, stop, nulls)
    return Verdict(COMPLETED, output, None, stop, nulls)


def read_chunk(body: bytes) -> tuple[str, int]:
    """As `json_text`: what a generator yielded. What cannot be read becomes a string."""
    try:
        parsed = json.loads(body)
        found = isinstance(parsed, dict) and "output" in parsed
        return json_text(parsed["output"] if found else parsed)
    except (ValueError, RecursionError):
        return json.dumps(body.decode("utf-8", "replace")), 0


def json_text(value: Any) -> tuple[str, int]:
    """(JSON of `value`, how many of its values are null there: see `finite`)."""
    try:
        return json.dumps(value, allow_nan=False), 0
    except ValueError:
        found, nulls = finite(value)
        return json.dumps(found), nulls


def finite(value: Any) -> tuple[Any, int]:
    """(`value` with null for each NaN or infinity, how many these were).

    Python's JSON has them, JSON has not: who keeps to it could not read the whole text. `value` comes
    from json.loads; its lists and objects are changed.
    """
    nulls, whole = 0, [value]
    left: list[Any] = [whole]
    while left:
        part = left.pop()
        for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
            if isinstance(inner, float) and not math.isfinite(inner):
                part[key] = None
                nulls += 1
            elif isinstance(inner, dict | list):
                left.append(inner)
    return whole[0], nulls
