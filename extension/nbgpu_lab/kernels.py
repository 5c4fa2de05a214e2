"""Pods in Jupyter itself: their kernels in its list, and the command that a terminal attaches with."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from pathlib import Path

log = logging.getLogger(__name__)


def offer(manager: object, folder: Path) -> bool:
    """Let a kernel spec manager look in `folder` too, which need not exist yet.

    Any manager that keeps a list of folders will do. False where it keeps none (one that asks a gateway
    for its kernels still has the list, and does not read it): its picker has no pods then.
    """
    dirs = getattr(manager, "kernel_dirs", None)
    if not isinstance(dirs, list):
        log.warning("nbgpu: %s lists no kernels of pods", type(manager).__name__)
        return False
    if str(folder) not in dirs:
        # behind what is there: a kernel of the same name that somebody installed comes first
        manager.kernel_dirs = [*dirs, str(folder)]  # type: ignore[attr-defined]
    return True


def terminal_command(home: Path) -> str:
    """What a shell is to run, with a pod's name behind it: nbgpu of this environment, with this home.

    A module rather than the script `nbgpu`, which need not be on the PATH of a login shell. `-P`: a file of
    the shell's folder must not be taken for a module.
    """
    words = [sys.executable, "-P", "-m", "nbgpu_lab.attach", str(home)]
    return "exec " + shlex.join(words) if os.name == "posix" else ""
