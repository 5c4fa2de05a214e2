"""End what is left of an instance whose shim is dead.

Its lock is free, so nobody enforces its lease any more. PDEATHSIG has killed the first process;
others of its session may live, and one that left the session may still write to its log. Both are
proof that a process is ours; a command line or an environment is not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from nbgpu_backend.clock import boot_id
from nbgpu_backend.providers.local import procfs
from nbgpu_backend.providers.local.records import State

PATIENCE_S = 10.0  # a process in an uninterruptible call dies when the call ends


def sweep(folder: Path, state: State) -> bool:
    """KILL until none is left. Blocks: call it in a thread. False if some would not die in time.

    Pids mean nothing after a reboot or in another PID namespace: then there is nothing to do.
    """
    if state.boot_id != boot_id() or state.pid_ns != procfs.pid_namespace():
        return True
    end = time.monotonic() + PATIENCE_S
    empty = 0
    while empty < 2:  # one look may miss a fork that happens behind it
        left = _left(folder, state)
        empty = 0 if left else empty + 1
        for row in left:
            _kill(row)
        if left:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
    return True


def _left(folder: Path, state: State) -> list[procfs.Stat]:
    rows = procfs.processes()
    found = {row.pid: row for row in procfs.session_members(rows, state.pid, state.start)}
    with contextlib.suppress(OSError):
        log = (folder / "log").stat()
        for row in rows:
            if row.alive and row.start >= state.start and procfs.writes_to(row.pid, log):
                found[row.pid] = row
    found.pop(os.getpid(), None)
    return list(found.values())


def _kill(row: procfs.Stat) -> None:
    """By pidfd, so that the pid cannot have become another process's between look and signal."""
    try:
        fd = os.pidfd_open(row.pid)
    except OSError:
        return
    try:
        again = procfs.stat(row.pid)
        if again is not None and again.start == row.start:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(fd)
