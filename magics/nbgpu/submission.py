"""What is sent to RunPod's job API, and what its job objects say. Pure."""

from __future__ import annotations

import re
from typing import Any

from nbgpu import errors, formats

JOB_ID = re.compile(r"(?:sync-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-[a-z]\d+")
IN_QUEUE, IN_PROGRESS = "IN_QUEUE", "IN_PROGRESS"
COMPLETED, FAILED, CANCELLED, TIMED_OUT = "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"
FINAL = (COMPLETED, FAILED, CANCELLED, TIMED_OUT)
STATES = (IN_QUEUE, IN_PROGRESS, *FINAL)
WEEK_S = 604_800

Seconds = float | str  # `30`, `30.5` or "30s", "5m", "2h"


def is_job(name: str) -> bool:
    """Does it look like the id of a job? An endpoint's name never does by chance."""
    return JOB_ID.fullmatch(name) is not None


def body(
    input: Any,
    *,
    webhook: str | None = None,
    execution_timeout: Seconds | None = None,
    ttl: Seconds | None = None,
    low_priority: bool = False,
) -> dict[str, Any]:
    """The body of /run: times are seconds here and milliseconds there. Raises UsageProblem."""
    policy: dict[str, Any] = {}
    if execution_timeout is not None:
        policy["executionTimeout"] = _ms("execution_timeout", execution_timeout, 5)
    if ttl is not None:
        policy["ttl"] = _ms("ttl", ttl, 10)
    if low_priority:
        policy["lowPriority"] = True
    found: dict[str, Any] = {"input": input}
    if policy:
        found["policy"] = policy
    if webhook is not None:
        found["webhook"] = webhook
    return found


def _ms(name: str, value: Seconds, least: int) -> int:
    try:
        seconds = formats.seconds(value) if isinstance(value, str) else float(value)
    except ValueError as error:
        raise errors.UsageProblem(f"{name}: {error}") from None
    if not least <= seconds <= WEEK_S:
        raise errors.UsageProblem(
            f"{name} cannot be {seconds:g} s.", f"It goes from {least} s to 7 days."
        )
    return round(seconds * 1000)


def failure(job: str, state: str, error: str | None) -> errors.JobFailed:
    """The error that a job without a result stands for."""
    if state == CANCELLED:
        return errors.JobCancelled(
            f"The job {job} was cancelled.", "Submit it again to have its result.",
            job=job, state=state,
        )  # fmt: skip
    said = told(error or "it gives no reason").strip()
    said = said if said.endswith((".", "!", "?", "}")) else said + "."
    next_step = f"Try it again with: %gpu retry {job}"
    if state == TIMED_OUT:
        return errors.JobTimedOut(
            f"The job {job} timed out: {said}", next_step, job=job, state=state
        )
    return errors.JobFailed(
        f"The job {job} failed: {said}", f"See %gpu show {job}", job=job, state=state
    )


def told(error: str) -> str:
    """The error of a handler that raised is JSON with a traceback: its type and message."""
    import json

    try:
        parsed = json.loads(error)
    except ValueError:
        return error
    if not isinstance(parsed, dict) or "error_message" not in parsed:
        return error
    kind = str(parsed.get("error_type", "")).strip("<>").removeprefix("class ").strip("'\"")
    return f"{kind.removeprefix('builtins.')}: {parsed['error_message']}".removeprefix(": ")
