"""What processes left behind in /dev/shm."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from nbgpu_backend.providers.local import procfs

SHM = Path("/dev/shm")


def abandoned(before: frozenset[str]) -> list[str]:
    """Shared memory that came since and that no process holds: a neighbour's is mapped by it."""
    mapped: set[int] = set()  # inodes: a semaphore is mapped before it has its name
    for row in procfs.processes():
        with suppress(OSError):  # it went while we looked
            lines = Path(f"/proc/{row.pid}/maps").read_text(errors="replace").splitlines()
            mapped |= {int(line.split()[4]) for line in lines if f"{SHM}/" in line}
    left = []
    for path in SHM.iterdir():
        with suppress(FileNotFoundError):
            if path.name not in before and path.stat().st_ino not in mapped:
                left.append(path.name)
    return left
