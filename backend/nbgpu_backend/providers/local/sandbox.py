"""How a process is put into a sandbox: the command line of bubblewrap. Pure but for looks at what exists.

Inside there are the system's programs and its settings (without what only root may read), the Python of the
pod, and the folders that it is given. Everything else of this machine is not there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")
MASKED = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers")
EMPTIED = ("/etc/ssh", "/etc/sudoers.d", "/etc/ssl/private", "/root")
RESOLV = ("/run/systemd/resolve", "/run/resolvconf")
GPU_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps")


@dataclass(frozen=True, slots=True)
class Room:
    """`shown`: (here, inside), read only; `owned`: (here, inside), to be written."""

    hostname: str
    shown: Sequence[tuple[str, str]]
    owned: Sequence[tuple[str, str]]
    network: bool = True
    gpus: Sequence[int] = ()
    cwd: str = "/"


def wrap(room: Room, argv: Sequence[str], program: str = "bwrap") -> list[str]:
    """The environment passes as it is: it may hold secrets, which belong on no command line."""
    words = [program, "--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-ipc"]
    words += ["--unshare-uts", "--hostname", room.hostname, "--unshare-cgroup-try"]
    words += ["--cap-drop", "ALL"] if os.geteuid() == 0 else []
    words += [] if room.network else ["--unshare-net"]
    for path in SYSTEM:
        if Path(path).is_symlink():
            words += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            words += ["--ro-bind", path, path]
    words += ["--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev"]
    for path in MASKED:
        words += ["--ro-bind", "/dev/null", path] if Path(path).is_file() else []
    for path in EMPTIED:
        words += ["--tmpfs", path] if Path(path).is_dir() else []
    for path in RESOLV:  # what /etc/resolv.conf may point to
        words += ["--ro-bind", path, path] if Path(path).is_dir() else []
    for index in room.gpus:
        words += ["--dev-bind-try", f"/dev/nvidia{index}", f"/dev/nvidia{index}"]
    for name in GPU_DEVICES if room.gpus else ():
        words += ["--dev-bind-try", f"/dev/{name}", f"/dev/{name}"]
    mounts = [("--ro-bind", *mount) for mount in room.shown]
    mounts += [("--bind", *mount) for mount in room.owned]
    for mount in sorted(
        mounts, key=lambda mount: mount[2].count("/")
    ):  # what is inside of another, later
        words += mount
    return [*words, "--chdir", room.cwd, "--", *argv]
