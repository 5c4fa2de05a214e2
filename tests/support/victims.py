"""What a run may kill: the backend, and shim, relay and handler of each worker, by their pids."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from nbgpu_backend import relay
from nbgpu_backend.providers.local import procfs, records
from nbgpu_backend.providers.local.procfs import Stat

PARTS = ("shim", "relay", "handler")


@dataclass(frozen=True)
class Instance:
    """A worker as it is on the disk; `spool` is the hard link that outlives its folder."""

    name: str
    worker: str
    spool: Path

    def held(self) -> set[str]:
        """The jobs that its handler was given and had not answered when it died."""
        held: dict[str, None] = {}
        if self.spool.exists():  # else it died before its relay had one
            for head, _ in relay.read_spool(str(self.spool)):
                relay.replay(held, head)
        return set(held)


@dataclass
class Victims:
    """The instances of one home. `dead` are those that this object killed."""

    instances: Path
    spools: Path
    random: Random
    dead: dict[str, Instance] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)  # sessions of all instances that ever were
    _young: int = 0  # kills in a row of workers that had not taken a job yet

    def kill(self, part: str) -> str | None:
        """KILL that part of a random worker; its name, or None when there is none to kill."""
        folders = list(self._folders())
        self.random.shuffle(folders)
        for folder in folders:
            if (name := self._kill(folder, part)) is not None:
                return name
        return None

    def look(self) -> None:
        """Remember what runs now, to know at the end whether it is gone."""
        for folder in self._folders():
            if (state := records.read_state(folder)) is not None:
                self.seen.add(state.pid)

    def _folders(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            yield from sorted(p for p in self.instances.iterdir() if p.name.startswith("nbgpu-"))

    def _kill(self, folder: Path, part: str) -> str | None:
        state = records.read_state(folder)
        if state is None or folder.name in self.dead or (folder / "exit.json").exists():
            return None
        spool = folder / relay.SPOOL
        young = not (spool.exists() and spool.stat().st_size)
        if young and self._young >= 2:  # three starts that fail in a row hold the endpoint down
            return None
        self.seen.add(state.pid)
        leader = procfs.stat(state.pid)
        if leader is None or leader.start != state.start or not leader.alive:
            return None
        found = {"shim": procfs.stat(leader.ppid), "relay": leader, "handler": _child(state.pid)}
        victim = found[part]
        if victim is None or (part == "shim" and victim.pid != state.shim):
            return None
        kept = self.spools / folder.name
        with contextlib.suppress(FileNotFoundError):
            os.link(spool, kept)
        worker = "-".join(folder.name.split("-")[-3:-1])
        self.dead[folder.name] = Instance(folder.name, worker, kept)
        self._young = self._young + 1 if young else 0
        return folder.name if end(victim) else None


def _child(pid: int) -> Stat | None:
    """The handler: the one child of its relay."""
    rows = [row for row in procfs.processes() if row.ppid == pid and row.alive]
    return rows[0] if rows else None


def end(victim: Stat) -> bool:
    """KILL this process and no other that may have its number by now."""
    try:
        handle = os.pidfd_open(victim.pid)
    except OSError:
        return False
    try:
        again = procfs.stat(victim.pid)
        if again is None or again.start != victim.start:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def left(home: Path, sessions: set[int]) -> list[str]:
    """Processes that are still there: of these sessions, or with this home in their environment."""
    found = []
    for row in procfs.processes():
        if not row.alive or row.pid == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{row.pid}/environ").read_bytes()
            command = Path(f"/proc/{row.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if row.session in sessions or str(home).encode() in environment + command:
            found.append(f"{row.pid} {command.replace(bytes(1), b' ').decode(errors='replace')}")
    return found
