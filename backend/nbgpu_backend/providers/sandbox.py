"""How a process is put into a sandbox: the command line of bubblewrap. Pure: what the machine looks like is
given, for it may be another one.

Inside there are the system's programs and its settings (without what only root may read), the Python of the
pod, and the folders that it is given. Everything else of the machine is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")
MASKED = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers")
EMPTIED = ("/etc/ssh", "/etc/sudoers.d", "/etc/ssl/private", "/root")
RESOLV = ("/run/systemd/resolve", "/run/resolvconf")
LOOKED_AT = (*SYSTEM, *MASKED, *EMPTIED, *RESOLV)
GPU_DEVICES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps")


@dataclass(frozen=True, slots=True)
class Layout:
    """What is where, of LOOKED_AT. `links`: path to target."""

    links: Mapping[str, str] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    root: bool = False  # the user is


@dataclass(frozen=True, slots=True)
class Room:
    """`shown`: (here, inside), read only; `owned`: (here, inside), to be written."""

    hostname: str
    shown: Sequence[tuple[str, str]] = ()
    owned: Sequence[tuple[str, str]] = ()
    network: bool = True
    gpus: Sequence[int] = ()
    cwd: str = "/"


def wrap(layout: Layout, room: Room, argv: Sequence[str], program: str = "bwrap") -> list[str]:
    """The environment passes as it is: it may hold secrets, which belong on no command line."""
    words = [program, "--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-ipc"]
    words += ["--unshare-uts", "--hostname", room.hostname, "--unshare-cgroup-try"]
    words += ["--cap-drop", "ALL"] if layout.root else []
    words += [] if room.network else ["--unshare-net"]
    for path in SYSTEM:
        if path in layout.links:
            words += ["--symlink", layout.links[path], path]
        elif path in layout.folders:
            words += ["--ro-bind", path, path]
    words += ["--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev"]
    for path in MASKED:
        words += ["--ro-bind", "/dev/null", path] if path in layout.files else []
    for path in EMPTIED:
        words += ["--tmpfs", path] if path in layout.folders else []
    for path in RESOLV:  # what /etc/resolv.conf may point to
        words += ["--ro-bind", path, path] if path in layout.folders else []
    for index in room.gpus:
        words += ["--dev-bind-try", f"/dev/nvidia{index}", f"/dev/nvidia{index}"]
    for name in GPU_DEVICES if room.gpus else ():
        words += ["--dev-bind-try", f"/dev/{name}", f"/dev/{name}"]
    mounts = [("--ro-bind", *mount) for mount in room.shown]
    mounts += [("--bind", *mount) for mount in room.owned]
    for mount in sorted(mounts, key=lambda mount: mount[2].count("/")):  # the inner ones later
        words += mount
    return [*words, "--chdir", room.cwd, "--", *argv]
