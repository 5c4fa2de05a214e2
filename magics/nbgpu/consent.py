"""Asking before something goes that does not come back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from nbgpu import errors, live

if TYPE_CHECKING:
    from nbgpu.client import Client


def can_ask() -> bool:
    """Is somebody there to answer? A notebook says so with each cell; nbclient and papermill say no."""
    if live.in_notebook():
        return bool(getattr(live.shell().kernel, "_allow_stdin", False))
    return sys.stdin is not None and sys.stdin.isatty()


def ask(client: Client, told: str, question: str, how: str = "Add --yes.") -> None:
    """Tell what goes, and ask. Raises UsageProblem where the answer is no, or nobody can answer."""
    if not can_ask():
        raise errors.UsageProblem(f"{told} Nobody can be asked here.".strip(), how)
    if live.in_notebook():
        answer = input(f"{told} {question} [y/N] ")
    else:
        print(f"{told} {question} [y/N] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise errors.UsageProblem("Nothing was done.")
