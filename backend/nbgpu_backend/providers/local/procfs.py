"""What /proc and cgroups tell. Plain functions, quick, and safe against processes that vanish."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Stat:
    """/proc/PID/stat. `start` is in clock ticks since boot; with the boot id it is an identity."""

    pid: int
    state: str
    ppid: int
    group: int
    session: int
    threads: int
    start: int

    @property
    def alive(self) -> bool:
        """A zombie counts as dead, unless other threads go on without the main one."""
        return self.state not in "ZX" or self.threads > 1


def parse_stat(raw: bytes) -> Stat:
    """Parse the file's content. The command's name may hold blanks and brackets."""
    fields = raw[raw.rindex(b")") + 2 :].split()
    return Stat(
        pid=int(raw[: raw.index(b" ")]),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        threads=int(fields[17]),
        start=int(fields[19]),
    )


def stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        return parse_stat((PROC / str(pid) / "stat").read_bytes())
    except (OSError, ValueError):
        return None


def processes() -> list[Stat]:
    """Every process of this PID namespace, zombies included."""
    try:
        names = [path.name for path in PROC.iterdir()]
    except OSError:
        return []
    return [found for name in names if name.isdigit() and (found := stat(int(name)))]


def pid_namespace() -> str:
    """Pids mean nothing in another one (a container that was restarted, with the same boot id)."""
    try:
        return str((PROC / "self/ns/pid").readlink())
    except OSError:
        return ""


def session_members(rows: list[Stat], session: int, start: int) -> list[Stat]:
    """Living members of the session whose leader was process `session`, started at `start`.

    The number is not given out again while the session has members. If it has been since, its new
    holder has another start time, and nothing of the old session is left.
    """
    members = [row for row in rows if row.session == session]
    if any(row.pid == session and row.start != start for row in members):
        return []
    return [row for row in members if row.alive and row.start >= start]


def pss(pid: int) -> int | None:
    """Proportional set size in bytes; None where the kernel does not tell."""
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def writes_to(pid: int, path: os.stat_result) -> bool:
    """True if standard output or error of `pid` appends to that file."""
    for fd in ("1", "2"):
        try:
            found = (PROC / str(pid) / "fd" / fd).stat()
            if (found.st_dev, found.st_ino) != (path.st_dev, path.st_ino):
                continue
            for line in (PROC / str(pid) / "fdinfo" / fd).read_text().splitlines():
                if line.startswith("flags:") and int(line.split()[1], 8) & os.O_APPEND:
                    return True
        except (OSError, ValueError):
            continue
    return False


def available_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes a new process could take: MemAvailable, or less where a cgroup limits us."""
    available = 0
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for folder in _cgroup_folders(proc, cgroups):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            available = min(available, max(0, limit - used + _reclaimable(folder)))
    return available


def _cgroup_folders(proc: Path, cgroups: Path) -> list[Path]:
    """Our cgroup and those above it, in version 2 and in version 1's memory controller."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = cgroups
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
        else:
            continue
        inner = root / path.lstrip("/")
        folders += [inner, *(p for p in inner.parents if p == root or root in p.parents)]
    return folders


def _number(path: Path) -> int | None:
    """None where the file is missing or says `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _reclaimable(folder: Path) -> int:
    """Page cache that counts as used but is given up first."""
    try:
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.startswith(("inactive_file ", "total_inactive_file ")):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
