"""Verbs that run code in a pod, and follow what runs there."""

from __future__ import annotations

from typing import Annotated, Any

from nbgpu.verbs.call import Context, verb
from nbgpu.verbs.pods import PodName
from nbgpu.verbs.spec import Arg


@verb("run train", "run train --send frame --get model", "run train --background",
      overview=2, local=True)  # fmt: skip
def run(
    context: Context,
    name: PodName,
    text: Annotated[
        Any,
        Arg("a script and its arguments; - reads standard input", metavar="SCRIPT", kind="script"),
    ] = None,
    *,
    code: Annotated[str | None, Arg("code to run", metavar="CODE", short="-c")] = None,
    send: Annotated[
        Any, Arg("variables of this notebook to set there first", metavar="A,B", kind="words")
    ] = None,
    get: Annotated[
        list[str] | None,
        Arg("variables to fetch from there afterwards", metavar="X", kind="words"),
    ] = None,
    background: Annotated[bool, Arg("do not wait for it")] = False,
    label: Annotated[str | None, Arg("what to call it in the list of runs", metavar="TEXT")] = None,
) -> object:
    """Run a cell, a script or a line of code in the pod's kernel.

    What was set there stays for the next one. An interrupt interrupts the kernel there.
    """
    from nbgpu import podrun

    return podrun.run(
        context, name, text, code=code, send=send, get=get, background=background, label=label
    )


@verb("attach train", "attach train --all", local=True)
def attach(
    context: Context,
    name: PodName,
    *,
    all: Annotated[bool, Arg("everything that the pod has kept, not the last run alone")] = False,
) -> object:
    """Show the output of what runs in the pod, or ran last, and follow it."""
    from nbgpu import podrun

    return podrun.attach(context, name, everything=all)
