"""Own servers that are reached over SSH."""

from __future__ import annotations

import re
from typing import Annotated

from nbgpu.errors import UsageProblem, closest
from nbgpu.verbs.call import Call, Context, verb
from nbgpu.verbs.spec import Arg

ACTIONS = ("ls", "add", "show", "check", "reconnect", "rm")


@verb(
    "host add lab1 ada@lab1.example.org",
    "host add lab1 ada@lab1.example.org --rate 0.50",
    "host ls",
    "host check lab1",
    "host rm lab1",
    local=True,
)
def host(
    context: Context,
    action: Annotated[
        str,
        Arg("ls, add, show, check, reconnect or rm", metavar="ls|add|show|check|reconnect|rm",
            choices=ACTIONS),
    ] = "ls",
    name: Annotated[str | None, Arg("what to call it", metavar="NAME", complete="place")] = None,
    target: Annotated[
        str | None,
        Arg("of a new one: [user@]host[:port], or a name of ~/.ssh/config", metavar="USER@HOST"),
    ] = None,
    *,
    key: Annotated[str | None, Arg("a key file, instead of those of ssh", metavar="FILE")] = None,
    jump: Annotated[
        str | None, Arg("a host to go through, instead of those of ssh", metavar="USER@HOST")
    ] = None,
    fingerprint: Annotated[
        str | None, Arg("accept this key of the host without asking", metavar="SHA256:…")
    ] = None,
    rate: Annotated[
        str | None, Arg("what an hour of it costs, in dollars", metavar="DOLLARS")
    ] = None,
    yes: Annotated[bool, Arg("do not ask", short="-y")] = False,
) -> object:  # fmt: skip
    """List own servers, add one, look at one, check what it has and lacks, reconnect to it, or remove one.

    The key that a new host shows is shown here, and asked about once; from then on another key is refused.
    `open NAME --on HOST` opens a pod there, `deploy MODEL --on HOST` has its workers there. `rate.HOST` in the settings is what an hour of it costs.
    """
    from nbgpu import hostflows

    if action not in ACTIONS:
        raise UsageProblem(
            f"A host cannot {action}.{closest(action, ACTIONS)}",
            "There are: ls, add, show, check, reconnect, rm.",
        )
    if action != "ls" and name is None:
        raise UsageProblem("Which host?", f"Write its name behind, as in: host {action} lab1")
    if action == "add" and target is None:
        raise UsageProblem("Where is it?", f"Write it behind, as in: host add {name} user@address")
    if action != "add" and any(
        given is not None for given in (target, key, jump, fingerprint, rate)
    ):
        raise UsageProblem(
            "An address, --key, --jump, --fingerprint and --rate are for a new host.",
            "Write: host add NAME USER@HOST",
        )
    if rate is not None and not re.fullmatch(r"\$?(\d+(\.\d+)?|\.\d+)", rate):
        raise UsageProblem(
            f"--rate is dollars an hour, and {rate!r} is no amount.", "Write it as in: --rate 0.50"
        )
    return hostflows.host(
        context, action, name or "", target or "", key, jump, fingerprint, rate, yes
    )


@verb("offers", "offers H100")
def offers(
    gpu: Annotated[str | None, Arg("only GPUs of this type", metavar="GPU")] = None,
) -> Call:
    """What there is to run on: processors and GPUs of this machine and of your hosts, and what they cost."""
    return Call("GET", "/nbgpu/v1/offers", "OfferList", view="offers", about=gpu or "")


@verb("use lab1", "use local")
def use(
    place: Annotated[str, Arg("a host, or local", metavar="WHERE", complete="place")],
) -> Call:
    """Have pods and endpoints that are made without --on run there, from now on.

    What is there already stays where it is. `local` is this machine.
    """
    body = {"place": place}
    return Call("PATCH", "/nbgpu/v1/settings", "Settings", body, again=True, view="settings")
