"""What can separate a pod from the rest of this machine: found out by running it."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from nbgpu_backend.providers.base import Separation
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
    said = await said_by(*wrap(here(), Room("probe"), ["/bin/sh", "-c", "true"], program))
    if said is None:
        return BUBBLEWRAP
    return Separation("process", f"no sandbox, since bubblewrap does not work here ({said}): {HOW}")


async def no_images() -> str:
    """Why no container image can be run."""
    tried = []
    for program in ("docker", "podman"):
        if shutil.which(program) is None:
            continue
        said = await said_by(program, "info")
        if said is None:
            return f"{program} runs here, and pods from images are not supported yet"
        tried.append(f"{program} does not run ({said})")
    return "; ".join(tried) or "neither docker nor podman is installed"


async def said_by(*argv: str) -> str | None:
    """None where it ended well; else the last line of what it said, without a full stop."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return str(error.strerror or error)
    try:
        _, raw = await asyncio.wait_for(process.communicate(), TRY_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"it did not answer within {TRY_S:.0f} s"
    if process.returncode == 0:
        return None
    lines = [line for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    return (lines[-1].strip() if lines else f"exit code {process.returncode}").rstrip(".")
