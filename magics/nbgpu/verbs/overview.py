"""Verbs about everything: help, status, ls, settings."""

from __future__ import annotations

import re
from typing import Annotated

from nbgpu.errors import UsageProblem
from nbgpu.verbs.call import Call, Context, verb
from nbgpu.verbs.spec import Arg


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


@verb("ls", overview=3)
def ls() -> Call:
    """List the endpoints, with state, workers and cost."""
    return Call("GET", "/nbgpu/v1/summary", "Summary", view="listing")


@verb("settings", "settings rate.local=0.10")
def settings(
    *,
    pairs: Annotated[
        dict[str, str] | None,
        Arg("what to set; rate.local is what an hour of this machine costs, in dollars",
            metavar="NAME=VALUE", kind="pairs", complete="setting"),
    ] = None,
) -> Call:  # fmt: skip
    """Show the settings, or change one.

    `rate.PLACE` is what an hour of a worker there costs, in dollars: `rate.local=0.10` prices this
    machine. It holds from now on; what has been billed stays as it is.
    """
    if not pairs:
        return Call("GET", "/nbgpu/v1/settings", "Settings", view="settings")
    rates = {}
    for name, value in pairs.items():
        place = name.removeprefix("rate.")
        if place == name or not place:
            raise UsageProblem(
                f"There is no setting {name}.",
                "What can be set is rate.PLACE, as in: rate.local=0.10",
            )
        if not re.fullmatch(r"\d+(\.\d+)?|\.\d+", value.removeprefix("$")):
            raise UsageProblem(
                f"{name} is dollars an hour, and {value!r} is no amount.", "Write it as in: 0.10"
            )
        rates[place] = value.removeprefix("$")
    return Call(
        "PATCH", "/nbgpu/v1/settings", "Settings", {"rates": rates}, again=True, view="settings"
    )
