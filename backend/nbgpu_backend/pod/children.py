"""The agent's child processes, and what their children leave behind.

The agent is a subreaper: whatever escapes its parent in the pod becomes its child, so that it is
counted, and reaped when it ends. Children are spawned by the main thread alone, since a child that
asked to die with its parent dies with the thread that spawned it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """In a child: be killed when the parent is gone."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)


def describe(status: int) -> str:
    """How a process ended, for people. `status` is waitpid's."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return "killed by %s" % signal.Signals(number).name
        except ValueError:
            return "killed by signal %d" % number
    return "exit code %d" % os.WEXITSTATUS(status)


class Children:
    """Made once, in the running event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.waited: Dict[int, Tuple[subprocess.Popen[bytes], asyncio.Future[int]]] = {}
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def spawn(self, argv: List[str], **how: Any) -> Tuple[int, asyncio.Future[int]]:
        """Start a process; the arguments are those of Popen. -> (pid, its wait status to come)

        Raises OSError."""
        process: subprocess.Popen[bytes] = subprocess.Popen(argv, **how)
        ended: asyncio.Future[int] = self.loop.create_future()
        self.waited[process.pid] = (process, ended)
        return process.pid, ended

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            found = self.waited.pop(pid, None)
            if found is not None:
                process, ended = found
                process.returncode = status  # Popen shall not look for it
                if not ended.done():
                    ended.set_result(status)


async def within(ended: asyncio.Future[int], seconds: float) -> bool:
    """Whether a process ended within so long."""
    done, _ = await asyncio.wait([ended], timeout=max(0.0, seconds))
    return bool(done)


def signal_group(pid: int, number: int) -> None:
    """To all of a group; nothing if it is gone."""
    try:
        os.killpg(pid, number)
    except OSError:
        pass
