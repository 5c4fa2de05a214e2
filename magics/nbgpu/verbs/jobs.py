"""Verbs about jobs: cancel and retry. `ls jobs`, `show` and `why` take them, too."""

from __future__ import annotations

from typing import Annotated

from nbgpu.errors import UsageProblem
from nbgpu.submission import is_job
from nbgpu.verbs.call import Call, part, verb
from nbgpu.verbs.spec import Arg

SEE = "See what there is with: %gpu ls jobs"


@verb("cancel 0199d3c0-5a7e-7abc-8def-0123456789ab-u1", "cancel work --queued")
def cancel(
    name: Annotated[
        str, Arg("the job, or with --queued the endpoint", metavar="JOB", complete="thing")
    ],
    *,
    queued: Annotated[bool, Arg("cancel all jobs of this endpoint that wait")] = False,
) -> Call:
    """Cancel a job, or with --queued all that wait at an endpoint; running ones go on then."""
    if queued:
        if is_job(name):
            raise UsageProblem(
                "--queued takes an endpoint, and this is a job.", "Leave --queued out."
            )
        return Call("POST", f"/v2/{part(name)}/purge-queue", "json", {}, again=True,
                    follow="purge", view="purged", about=name)  # fmt: skip
    if not is_job(name):
        raise UsageProblem(
            f"{name!r} is no id of a job.",
            f"{SEE}. All that wait at an endpoint: %gpu cancel {name} --queued",
        )
    return Call("POST", f"/nbgpu/v1/jobs/{part(name)}/cancel", "JobDetail", again=True,
                follow="cancel_job", view="job", about=name)  # fmt: skip


@verb("retry 0199d3c0-5a7e-7abc-8def-0123456789ab-u1")
def retry(name: Annotated[str, Arg("the job", metavar="JOB", complete="job")]) -> Call:
    """Run a job that failed or timed out once more, with its id and input."""
    if not is_job(name):
        raise UsageProblem(f"{name!r} is no id of a job.", SEE)
    return Call("GET", f"/nbgpu/v1/jobs/{part(name)}", "JobDetail", follow="retry_job",
                view="job", about=name)  # fmt: skip
