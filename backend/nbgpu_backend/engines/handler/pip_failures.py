"""The error for a handler whose environment could not be installed. Pure."""

from __future__ import annotations

from pathlib import Path

from nbgpu_backend.engines.handler.requirements import FILE, Requirements
from nbgpu_backend.environments.pip import trouble
from nbgpu_backend.environments.pip_failures import cause
from nbgpu_backend.errors import EngineMissing, NbgpuError


def failure(tail: list[str], wanted: Requirements, folder: Path, log: Path) -> NbgpuError:
    """The error for pip's last output lines. `folder` is the handler's."""
    if found := trouble(tail, "the environment", "about 500 MB"):
        return found
    named = folder / FILE if (folder / FILE).exists() else None
    mend = (
        f"Correct {named}, then deploy again"
        if named
        else "Look at pip's settings (`pip config list`)"
    )
    return EngineMissing(
        f"The environment of the handlers in {folder} could not be installed: {cause(tail)}.",
        f"{mend}. All that pip said: {log}",
        code="environment",
    )
