"""What verbs about jobs do beyond one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbgpu import errors, wire
from nbgpu.formats import plural, span
from nbgpu.submission import CANCELLED, FAILED, FINAL, TIMED_OUT
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu.client import Client

ALIKE = 0.9  # ids of one time share their beginning


def show(client: Client, call: Call) -> Any:
    """The detail of a job. An unknown id that is nearly a known one is told so."""
    try:
        return client.send(call)
    except errors.NotFound as error:
        if near := _near(client, call.about):
            error.next_step = f"Did you mean {near}? {error.next_step}".strip()
        raise


def _near(client: Client, asked: str) -> str:
    import difflib

    try:
        found = client.send(Call("GET", "/nbgpu/v1/jobs", "JobList", params={"limit": 500}))
    except errors.OneLine:
        return ""
    return next(iter(difflib.get_close_matches(asked, [j.id for j in found.jobs], 1, ALIKE)), "")


def _detail(client: Client, job: str) -> Any:
    return show(client, Call("GET", f"/nbgpu/v1/jobs/{part(job)}", "JobDetail", about=job))


def why(client: Client, call: Call) -> Any:
    """(detail, why of its endpoint): the latter only while it has no end."""
    detail = show(client, call)
    if detail.job.state in FINAL:
        return detail, None
    path = f"/nbgpu/v1/why/{part(detail.job.endpoint)}"
    return detail, client.send(Call("GET", path, "Why", about=detail.job.endpoint))


def cancel(client: Client, call: Call) -> Any:
    """Raises Conflict for a job that ended otherwise."""
    before = _detail(client, call.about).job
    if before.state in FINAL and before.state != CANCELLED:
        raise _ended(before, "there is nothing to cancel.")
    found = client.send(call)
    if found.job.state != CANCELLED:  # it was quicker
        raise _ended(found.job, "it ended before it could be cancelled.")
    client.say(f"job {call.about} is cancelled.")
    return found


def retry(client: Client, call: Call) -> Any:
    job = _detail(client, call.about).job
    if job.state not in (FAILED, TIMED_OUT):
        if job.state in FINAL:
            raise _ended(job, "only what failed or timed out is retried.")
        raise errors.Conflict(
            f"The job {job.id} is {job.state} and has no end yet; there is nothing to retry.",
            f"See %gpu why {job.id}", status_code=409,
        )  # fmt: skip
    client.send(Call("POST", f"/v2/{part(job.endpoint_id)}/retry/{part(job.id)}", wire.JSON))
    client.say(f"job {job.id} is in the queue of {job.endpoint} again.")
    return _detail(client, job.id)


def _ended(job: Any, so: str) -> errors.Conflict:
    import time

    ago = (
        f", since {span(max(0.0, time.time() - job.finished_us / 1e6))}" if job.finished_us else ""
    )
    return errors.Conflict(
        f"The job {job.id} is {job.state}{ago}; {so}", f"See %gpu show {job.id}", status_code=409
    )


def purge(client: Client, call: Call) -> tuple[int, int]:
    """(cancelled, still running). Says how many before it cancels them."""
    health = Call("GET", f"/v2/{part(call.about)}/health", wire.JSON, about=call.about)
    waiting = client.send(health)["jobs"]["inQueue"]
    if waiting:
        what = "1 job waits" if waiting == 1 else f"{plural(waiting, 'job')} wait"
        client.say(f"{call.about}: {what}; cancelling …")
    removed = client.send(call)["removed"]
    return removed, client.send(health)["jobs"]["inProgress"]
