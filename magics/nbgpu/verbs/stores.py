"""Verbs about what outlives pods: volumes and secrets."""

from __future__ import annotations

from typing import Annotated

from nbgpu.errors import UsageProblem, closest
from nbgpu.verbs import knobs
from nbgpu.verbs.call import Context, verb
from nbgpu.verbs.spec import Arg

ACTIONS = ("ls", "add", "rm")


def _check(what: str, action: str, name: str | None) -> None:
    if action not in ACTIONS:
        raise UsageProblem(
            f"A {what} cannot {action}.{closest(action, ACTIONS)}", "There are: ls, add, rm."
        )
    if action != "ls" and name is None:
        raise UsageProblem(f"Which {what}?", f"Write its name behind, as in: {what} {action} NAME")


@verb("volume add data --size 100", "volume ls", "volume rm data", local=True)
def volume(
    context: Context,
    action: Annotated[
        str, Arg("ls, add or rm", metavar="ls|add|rm", choices=ACTIONS, complete="key_action")
    ] = "ls",
    name: Annotated[str | None, Arg("the volume", metavar="NAME", complete="volume")] = None,
    *,
    size: Annotated[int | None, Arg("GB, of a new one; by default 20", metavar="GB")] = None,
    yes: Annotated[bool, Arg("do not ask", short="-y")] = False,
) -> object:
    """List volumes, make one, or remove one with all that is in it.

    A pod that is opened with --volume NAME has it as /workspace; it outlives the pod.
    """
    from nbgpu import storeflows

    _check("volume", action, name)
    if size is not None:
        if action != "add":
            raise UsageProblem("--size is for a new volume.", "Write: volume add NAME --size 100")
        knobs.count("--size", size, 1, 4096)
    return storeflows.volume(context, action, name or "", size, yes)


@verb("secret add HF_TOKEN", "secret ls", "secret rm HF_TOKEN", local=True)
def secret(
    context: Context,
    action: Annotated[
        str, Arg("ls, add or rm", metavar="ls|add|rm", choices=ACTIONS, complete="key_action")
    ] = "ls",
    name: Annotated[
        str | None, Arg("the secret, named as a variable", metavar="NAME", complete="secret")
    ] = None,
) -> object:
    """List secrets, store one, or remove one. The value is asked for, and never shown again.

    A pod that is opened with --secret NAME has it as a variable.
    """
    from nbgpu import storeflows

    _check("secret", action, name)
    return storeflows.secret(context, action, name or "")
