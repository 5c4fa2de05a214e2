"""What can separate a pod from the rest of this machine: found out by running it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from nbgpu_backend.providers.base import Separation
from nbgpu_backend.providers.local.commands import ask
from nbgpu_backend.providers.sandbox import LOOKED_AT, Layout, Room, wrap

TRY_S = 10.0
BUBBLEWRAP = Separation(
    "bubblewrap",
    "a sandbox (bubblewrap): it sees its own files and processes and the system's programs, not your files",
)
HOW = "it runs as you, and can read what you can"


def here() -> Layout:
    paths = [Path(path) for path in LOOKED_AT]
    return Layout(
        links={str(path): str(path.readlink()) for path in paths if path.is_symlink()},
        folders=frozenset(str(path) for path in paths if path.is_dir()),
        files=frozenset(str(path) for path in paths if path.is_file()),
        root=os.geteuid() == 0,
    )


async def find_out() -> Separation:
    program = shutil.which("bwrap")
    if program is None:
        return Separation("process", f"no sandbox, since bubblewrap is not installed: {HOW}")
    argv = wrap(here(), Room("probe"), ["/bin/sh", "-c", "true"], program)
    answer = await ask(*argv, within_s=TRY_S)
    if answer.code == 0:
        return BUBBLEWRAP
    text = f"no sandbox, since bubblewrap does not work here ({answer.error}): {HOW}"
    return Separation("process", text)
