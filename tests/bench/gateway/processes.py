"""Programs that are started for a bench, and what they use, from /proc."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbgpu_backend.providers.local import procfs

from tests.bench.idle import cpu_s, status

Argv = Sequence[str | Path]

END_S = 10.0
IDLE_SHARE, IDLE_LOOK_S = 0.1, 0.3


class NotStarted(Exception):
    """It ended, or did not answer in time; the message has its last words."""


@contextlib.contextmanager
def program(
    argv: Argv,
    log: Path,
    ready: Callable[[], bool],
    *,
    within_s: float,
    env: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Its pid, once `ready`; ended with all of its session. Raises NotStarted."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in argv],
            env={**os.environ, **(env or {})},
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + within_s
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                what = "it ended" if process.poll() is not None else f"no answer in {within_s:g} s"
                raise NotStarted(f"{what}: {_last_words(log)}")
            time.sleep(0.05)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True)
class Tree:
    """A process and all below it, but for `without` (the workers behind a gateway)."""

    root: int
    without: frozenset[int] = frozenset()

    def pids(self) -> list[int]:
        children: dict[int, list[int]] = {}
        for row in procfs.processes():
            if row.alive:
                children.setdefault(row.ppid, []).append(row.pid)
        found, look = [], [self.root]
        while look:
            pid = look.pop()
            if pid not in self.without:
                found.append(pid)
                look += children.get(pid, ())
        return found

    def alive(self) -> bool:
        found = procfs.stat(self.root)
        return found is not None and found.alive

    def cpu_s(self) -> float:
        used = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                used += cpu_s(pid)
        return used

    def rss_mb(self) -> float:
        """Pages that several of them share count for each."""
        size = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError, LookupError):
                size += status(pid, "VmRSS") / 1024
        return size

    def settle(self, within_s: float) -> None:
        """Wait until it has nothing more to do: what one peer has left may not cost the next."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            before = self.cpu_s()
            time.sleep(IDLE_LOOK_S)
            if self.cpu_s() - before < IDLE_SHARE * IDLE_LOOK_S:
                return


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"
