"""The pre-imported parents of this machine: one folder under NBGPU_HOME/parents each.

Like the provider this keeps no memory of what exists: a held lock is a parent that lives, whoever
started it. What it does remember is which ones failed, so as not to wait for them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.clock import boot_id
from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.errors import DiskError, Unavailable
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import ParentSeen
from nbgpu_backend.providers.local import procfs, records
from nbgpu_backend.providers.local.locks import probe
from nbgpu_backend.providers.local.shim_client import Late, NoAnswer, ask

READY_S = 60.0  # a launch waits no longer; importing vLLM takes 8 s on a quiet machine
RETRY_S = 600.0  # after a failed start
KILLED_RETRY_S = 30.0  # … where it was killed: what kills may be done with it
STATUS_S = 1.0  # it answers in milliseconds, unless it forks just now or was stopped
APPEAR_S = 5.0  # from exec to a held lock
GRACE_S = 5.0  # between TERM and KILL
KILLED_S = 10.0
KEY = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True, slots=True)
class Forked:
    """`line` is the shim's; None: nothing was started, and `fell_back` is why."""

    line: dict[str, Any] | None = None
    fell_back: str = ""
    waited_s: float = 0.0  # for the parent to be ready


@dataclass(frozen=True, slots=True)
class _Failure:
    spec: ParentSpec
    why: str
    until: float  # CLOCK_MONOTONIC


class _Unready(Exception):
    """It did not become ready; the text says why."""

    def __init__(self, why: str, retry_s: float = RETRY_S) -> None:
        super().__init__(why)
        self.retry_s = retry_s


class Parents:
    """All calls are coroutines of one event loop. None blocks it."""

    def __init__(self, home: Home) -> None:
        self._root = home.parents
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._spawning = asyncio.Lock()  # from a parent's exec to its lock
        self._children: list[subprocess.Popen[bytes]] = []
        self._failures: dict[str, _Failure] = {}

    async def fork(
        self, spec: ParentSpec, folder: Path, request: Mapping[str, Any], timeout_s: float
    ) -> Forked:
        """Have an instance forked into `folder`; a parent that is not there is started first.

        Raises TimeoutError when a fork was begun and not confirmed: it may still come up.
        """
        began, waited = time.monotonic(), 0.0
        for _ in range(2):  # it may come to its idle end between our look and our request
            try:
                await self._ensure(spec)
            except _Unready as error:
                return Forked(None, str(error), time.monotonic() - began)
            waited = time.monotonic() - began
            try:
                line = await ask(self._folder(spec.key), dict(request), timeout_s)
            except Late:
                raise TimeoutError from None
            except NoAnswer:
                if await asyncio.to_thread(folder.exists):  # a shim began and died
                    return Forked({"error": "the shim died at once", "kind": "fault"})
                continue
            if line.get("kind") == "parent":
                why = f"The pre-imported parent refused: {line['error']}."
                return Forked(None, why, waited)
            return Forked(line, "", waited)
        return Forked(None, "The pre-imported parent died before it forked anything.", waited)

    async def list(self) -> list[ParentSeen]:
        """Those that live. The folders of dead ones are removed."""
        async with self._spawning:
            self._reap()
            keys = await asyncio.to_thread(_alive, self._root, set(self._starting))
        seen = await asyncio.gather(*(self._look(key) for key in keys))
        return [parent for parent in seen if parent is not None]

    async def stop(self, key: str) -> None:
        """Return when the parent has ended: asked, then TERM, then KILL."""
        folder = self._folder(key)
        async with self._spawning:
            pass  # its state is there now
        if not await asyncio.to_thread(_held, folder):
            await asyncio.to_thread(_clear, folder)
            return
        with contextlib.suppress(NoAnswer):
            await ask(folder, {"op": "stop"}, STATUS_S)
        began = time.monotonic()
        while await asyncio.to_thread(_held, folder):
            late = time.monotonic() - began
            if late > GRACE_S + KILLED_S:
                raise Unavailable(
                    f"The pre-imported parent {key} was killed but has not ended.",
                    "A process in a blocked system call (a hung disk) ends only with it.",
                )
            # again and again: one that lost the race for the lock may have it now
            await asyncio.to_thread(
                _signal, folder, signal.SIGKILL if late > GRACE_S else signal.SIGTERM
            )
            await asyncio.sleep(0.02)
        self._reap()
        if (task := self._starting.get(key)) is not None:
            with contextlib.suppress(_Unready):
                await asyncio.shield(task)
        self._failures.pop(key, None)  # that it ended was wanted
        await asyncio.to_thread(_clear, folder)

    # a parent that is ready

    async def _ensure(self, spec: ParentSpec) -> None:
        """Return when the parent answers. Raises _Unready."""
        folder = self._folder(spec.key)
        with contextlib.suppress(NoAnswer):
            await ask(folder, {"op": "status"}, STATUS_S)
            self._failures.pop(spec.key, None)
            return
        failed = self._failures.get(spec.key)
        if failed and failed.spec == spec and time.monotonic() < failed.until:
            left = failed.until - time.monotonic()
            soon = f"{left / 60:.0f} min" if left >= 60 else f"{left:.0f} s"
            raise _Unready(f"{failed.why} It is tried again in {soon}.")
        task = self._starting.get(spec.key)
        if task is None:
            task = asyncio.create_task(self._start(spec, folder))
            self._starting[spec.key] = task
            task.add_done_callback(lambda done: self._started(spec.key, done))
        await asyncio.shield(task)  # others wait for the same one

    def _started(self, key: str, done: asyncio.Task[None]) -> None:
        self._starting.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever waited has been told

    async def _start(self, spec: ParentSpec, folder: Path) -> None:
        try:
            await self._wait_ready(spec, folder)
        except _Unready as error:
            self._failures[spec.key] = _Failure(spec, str(error), time.monotonic() + error.retry_s)
            raise
        except (OSError, DiskError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
            why = f"The pre-imported parent could not be started: {what}."
            self._failures[spec.key] = _Failure(spec, why, time.monotonic() + RETRY_S)
            raise _Unready(why) from None
        self._failures.pop(spec.key, None)

    async def _wait_ready(self, spec: ParentSpec, folder: Path) -> None:
        end = time.monotonic() + READY_S
        child = None
        if not await asyncio.to_thread(_held, folder):
            child = await self._spawn(spec, folder)
        while time.monotonic() < end:
            with contextlib.suppress(NoAnswer):
                await ask(folder, {"op": "status"}, STATUS_S)
                return
            if not await asyncio.to_thread(_held, folder) and (child is None or _ended(child)):
                last = await asyncio.to_thread(records.tail, folder / "log", 1)
                said = f": {last[0].strip().rstrip('.')[:300]}" if last else ""
                killed = child is not None and (child.poll() or 0) < 0
                retry_s = KILLED_RETRY_S if killed else RETRY_S
                raise _Unready(f"The pre-imported parent could not start{said}.", retry_s)
            await asyncio.sleep(0.05)
        raise _Unready(f"The pre-imported parent was not ready after {READY_S:.0f} s.")

    async def _spawn(self, spec: ParentSpec, folder: Path) -> subprocess.Popen[bytes]:
        """Start it, and return once it holds its lock or has ended."""
        async with self._spawning:
            self._reap()
            child = await asyncio.to_thread(_popen, spec, folder)
            self._children.append(child)
            end = time.monotonic() + APPEAR_S
            while time.monotonic() < end and child.poll() is None:
                if (folder / "state.json").exists() and await asyncio.to_thread(_held, folder):
                    break
                await asyncio.sleep(0.01)
            return child

    # what exists

    def _folder(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key of a parent")
        return self._root / key

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]

    async def _look(self, key: str) -> ParentSeen | None:
        folder = self._folder(key)
        state = await asyncio.to_thread(_read_state, folder)
        if state is None:
            return None
        pid, ready = int(state["pid"]), False
        idle_s = max(0.0, time.time() - int(state["started_us"]) / 1e6)
        with contextlib.suppress(NoAnswer):
            status = await ask(folder, {"op": "status"}, STATUS_S)
            ready, idle_s = True, float(status["idle_s"])
            state = status
        pss = await asyncio.to_thread(procfs.pss, pid) if _same_pids(state) else None
        ready_s = state.get("ready_s")
        return ParentSeen(key, pid, int(state["started_us"]), ready, ready_s, idle_s, pss or 0)


def _alive(root: Path, starting: set[str]) -> list[str]:
    """The keys of those that live. The folders of the others are removed, but for those that start."""
    try:
        folders = sorted(root.iterdir())
    except FileNotFoundError:
        return []
    found = []
    for folder in folders:
        if not KEY.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)  # a removal that was killed half-way
        elif _held(folder):
            found.append(folder.name)
        elif folder.name not in starting:
            _clear(folder)
    return found


def _popen(spec: ParentSpec, folder: Path) -> subprocess.Popen[bytes]:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in ("state.json", "sock"):
        (folder / name).unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC
    log = os.open(folder / "log", flags, 0o600)  # it opens the same, but may die before
    try:
        return subprocess.Popen(
            [*spec.argv, "--dir", str(folder), "--idle", str(spec.idle_s)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(spec.env),
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(log)


def _ended(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() is not None


def _held(folder: Path) -> bool:
    """Whether the parent lives. Creates nothing."""
    if not (folder / "lock").exists():
        return False
    with probe(folder) as free:
        return not free


def _read_state(folder: Path) -> dict[str, Any] | None:
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _same_pids(state: Mapping[str, Any]) -> bool:
    """Pids mean nothing after a reboot or in another PID namespace."""
    known = (state.get("boot_id"), state.get("pid_ns"))
    return known == (boot_id(), procfs.pid_namespace())


def _signal(folder: Path, number: int) -> None:
    """By pidfd and start time, so that it can reach no other process with its number."""
    state = _read_state(folder)
    if state is None or not _same_pids(state):
        return
    with contextlib.suppress(OSError):
        fd = os.pidfd_open(int(state["pid"]))
        try:
            row = procfs.stat(int(state["pid"]))
            if row is not None and row.start == state["start"]:
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)


def _clear(folder: Path) -> None:
    """Remove the folder of a dead parent; one that is just being started keeps it."""
    if not folder.is_dir():
        return
    with probe(folder) as free:
        if free:
            away = folder.with_name(f".{folder.name}.{os.getpid()}")
            with contextlib.suppress(FileNotFoundError):
                folder.rename(away)
            shutil.rmtree(away, ignore_errors=True)
