"""Verbs about this machine: engines, and the backend itself."""

from __future__ import annotations

from typing import Annotated

from nbgpu.verbs.call import Context, verb
from nbgpu.verbs.spec import Arg


@verb("engine ls", "engine add vllm", local=True)
def engine(
    context: Context,
    action: Annotated[
        str, Arg("ls or add", metavar="ls|add", choices=("ls", "add"), complete="action")
    ] = "ls",
    name: Annotated[str | None, Arg("the engine", metavar="ENGINE", complete="managed")] = None,
) -> object:
    """List the engines, or install one into an environment of its own."""
    from nbgpu import engines

    return engines.add(context, name) if action == "add" else engines.listing()


@verb("serve", faces=("cli",), local=True)
def serve(context: Context) -> object:
    """Run the backend in the foreground; otherwise it starts by itself when needed."""
    from nbgpu import machine

    return machine.serve()


@verb("shutdown", "shutdown --all --yes", faces=("cli",), local=True)
def shutdown(
    context: Context,
    *,
    all: Annotated[bool, Arg("stop the workers too; without it they run on")] = False,
    yes: Annotated[bool, Arg("do not ask", short="-y")] = False,
) -> object:
    """End the backend."""
    from nbgpu import machine

    return machine.shutdown(context, everything=all, sure=yes)
