"""Where something is asked for: the notebook, if it can be known, and the folder (stdlib only)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from nbgpu import live


def notebook() -> str | None:
    """The notebook's path: Jupyter Server names it in the environment, VS Code in the namespace."""
    if found := os.environ.get("JPY_SESSION_NAME"):
        return found
    shell = live.shell()
    names = getattr(shell, "user_ns", {})
    found = names.get("__session__") or names.get("__vsc_ipynb_file__")
    return str(found) if found else None


def header() -> str:
    """The origin of one request, form-encoded; also what the queue is fair between."""
    return urlencode({"notebook": notebook() or "", "session": str(os.getpid())})


def stamp(body: dict[str, Any], *, folder: bool = True) -> dict[str, Any]:
    """A create request's body with its origin, and its folder, in it."""
    extras: dict[str, Any] = {**body.get("nbgpu", {})}
    if (path := notebook()) is not None:
        extras["origin"] = {"notebook": path}
    if folder:
        extras["cwd"] = str(Path.cwd())
    return {**body, "nbgpu": extras}
