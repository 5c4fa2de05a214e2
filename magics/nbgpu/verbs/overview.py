"""Verbs about everything: help, status, ls, settings."""

from __future__ import annotations

import re
from typing import Annotated, Any

from nbgpu.errors import UsageProblem, closest
from nbgpu.formats import seconds
from nbgpu.submission import STATES
from nbgpu.verbs.call import Call, Context, verb
from nbgpu.verbs.spec import Arg

KINDS = ("pods", "endpoints", "jobs")


@verb("help", "help deploy", faces=("magic", "cli"), local=True)
def help(
    context: Context,
    verb: Annotated[str | None, Arg("the verb to explain", metavar="VERB", complete="verb")] = None,
) -> object:
    """What there is, or one verb explained."""
    from nbgpu import helptext

    return helptext.Page(helptext.of(verb, context.face))


@verb("", "status")
def status() -> Call:
    """What runs, what it costs an hour, what was spent today, what is idle but billing."""
    return Call("GET", "/nbgpu/v1/summary", "Summary", view="status")


@verb("ls", "ls pods", "ls jobs --endpoint work --state failed", overview=6)
def ls(
    kind: Annotated[
        str | None,
        Arg("pods, endpoints or jobs; by default pods and endpoints", metavar="pods|endpoints|jobs",
            complete="kind"),
    ] = None,
    *,
    endpoint: Annotated[
        str | None, Arg("jobs of this endpoint only", metavar="NAME", complete="endpoint")
    ] = None,
    state: Annotated[
        list[str] | None,
        Arg("jobs in these states only, as in: failed,timed_out", metavar="STATE,…", complete="state"),
    ] = None,
    limit: Annotated[int, Arg("at most so many jobs, the newest", metavar="N", short="-n")] = 20,
) -> Call:  # fmt: skip
    """List pods and endpoints, with state and cost; or the jobs, newest first."""
    if kind not in (None, *KINDS):
        raise UsageProblem(
            f"There is no list of {kind}.{closest(kind or '', KINDS)}",
            "There are: pods, endpoints, jobs.",
        )
    if kind != "jobs":
        if endpoint is not None or state:
            raise UsageProblem(
                "--endpoint and --state choose among jobs.", "Write: ls jobs --endpoint NAME"
            )
        view = {"pods": "pods", "endpoints": "endpoints"}.get(kind or "", "listing")
        return Call("GET", "/nbgpu/v1/summary", "Summary", view=view)
    if not 1 <= limit <= 10_000:
        raise UsageProblem(f"--limit cannot be {limit}.", "It goes from 1 to 10000.")
    params: dict[str, str | int | list[str]] = {"limit": limit}
    if endpoint is not None:
        params["endpoint"] = endpoint
    if state:
        params["state"] = [state_of(text) for text in state]
    return Call(
        "GET", "/nbgpu/v1/jobs", "JobList", params=params, view="jobs", about=endpoint or ""
    )


def state_of(text: str) -> str:
    """`failed` and `in-queue` are taken as well as RunPod's own words. Raises UsageProblem."""
    found = text.strip().upper().replace("-", "_").replace(" ", "_")
    found = {"QUEUED": "IN_QUEUE", "RUNNING": "IN_PROGRESS"}.get(found, found)
    if found not in STATES:
        raise UsageProblem(
            f"There is no state {text} of a job.{closest(found, STATES)}",
            "There are: " + ", ".join(STATES).lower() + ".",
        )
    return found


@verb("settings", "settings rate.local=0.10", "settings lease.pod=30m")
def settings(
    *,
    pairs: Annotated[
        dict[str, str] | None,
        Arg("what to set; rate.local is what an hour of this machine costs, in dollars; lease.pod how long "
            "an idle pod outlives the backend",
            metavar="NAME=VALUE", kind="pairs", complete="setting"),
    ] = None,
) -> Call:  # fmt: skip
    """Show the settings, or change one.

    `rate.PLACE` is what an hour of a worker there costs, in dollars: `rate.local=0.10` prices this
    machine. It holds from now on; what has been billed stays as it is.
    """
    if not pairs:
        return Call("GET", "/nbgpu/v1/settings", "Settings", view="settings")
    rates: dict[str, str] = {}
    body: dict[str, Any] = {}
    for name, value in pairs.items():
        if name == "lease.pod":
            try:
                body["leasePodS"] = seconds(value)
            except ValueError as error:
                raise UsageProblem(str(error)) from None
            continue
        place = name.removeprefix("rate.")
        if place == name or not place:
            raise UsageProblem(
                f"There is no setting {name}.",
                "What can be set is rate.PLACE, as in rate.local=0.10, and lease.pod, as in lease.pod=30m",
            )
        if not re.fullmatch(r"\d+(\.\d+)?|\.\d+", value.removeprefix("$")):
            raise UsageProblem(
                f"{name} is dollars an hour, and {value!r} is no amount.", "Write it as in: 0.10"
            )
        rates[place] = value.removeprefix("$")
    if rates:
        body["rates"] = rates
    return Call("PATCH", "/nbgpu/v1/settings", "Settings", body, again=True, view="settings")
