"""Pre-imported parents on this machine: started when first needed, asked to fork, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.clock import boot_id
from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.providers.base import ParentSeen
from nbgpu_backend.providers.local import procfs, records

START_S = 90.0  # imports on a slow disk
FORK_S = 30.0
ANSWER_S = 2.0
STOP_S = 5.0
POLL_S = 0.02
FORGIVE_S = 600.0  # one that failed to start is not tried again so soon


class NoParent(Exception):
    """Why it cannot fork: the plain start serves."""


class Unsure(Exception):
    """It was asked to fork and has not answered: it may still do so."""


@dataclass(frozen=True, slots=True)
class Forked:
    """`line` is the shim's; `waited_s` went into the parent's own start."""

    line: dict[str, Any]
    waited_s: float


class Parents:
    """`folder` holds one folder for each key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[str, asyncio.Lock] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._failed: dict[str, tuple[float, str]] = {}  # key -> until, why

    async def fork(
        self,
        spec: ParentSpec,
        shim: Path,
        folder: Path,
        document: Mapping[str, Any],
        env: Mapping[str, str],
    ) -> Forked:
        """Start the parent if need be and fork an instance of it. Raises NoParent and Unsure."""
        until, why = self._failed.get(spec.key, (0.0, ""))
        if time.monotonic() < until:
            raise NoParent(
                f"{why} (it is tried again in {(until - time.monotonic()) / 60:.0f} min)"
            )
        began = time.monotonic()
        async with self._locks.setdefault(spec.key, asyncio.Lock()):
            waited = await self._ready(spec)
        request = {
            "op": "fork", "python": sys.executable, "shim": str(shim), "folder": str(folder),
            "spec": dict(document), "env": dict(env),
        }  # fmt: skip
        try:
            line = await _ask(self._folder / spec.key, request, FORK_S)
        except TimeoutError:
            raise Unsure("the pre-imported parent has not answered") from None
        except (OSError, ValueError) as error:
            raise NoParent(f"the pre-imported parent went away ({error or 'no answer'})") from None
        if "refused" in line:
            raise NoParent(f"the pre-imported parent refuses: {line['refused']}")
        return Forked(line, time.monotonic() - began if waited else 0.0)

    async def seen(self) -> Sequence[ParentSeen]:
        """Those that live; what dead ones left is removed."""
        return await asyncio.to_thread(self._seen)

    async def stop(self, key: str) -> None:
        """Return when it has ended."""
        folder = self._folder / key
        with contextlib.suppress(OSError, ValueError):
            await _ask(folder, {"op": "stop"}, ANSWER_S)
        await asyncio.to_thread(self._end, folder)
        self._reap(key)

    async def _ready(self, spec: ParentSpec) -> bool:
        """Return once it answers: whether it had to be waited for. Raises NoParent."""
        folder, end = self._folder / spec.key, time.monotonic() + START_S
        waited = False
        self._reap(spec.key)  # one that ended since has nothing to say about the next
        while True:
            with contextlib.suppress(OSError, ValueError):
                await _ask(folder, {"op": "status"}, ANSWER_S)
                return waited
            if time.monotonic() > end:
                raise self._give_up(spec.key, f"it was not ready within {START_S:.0f} s")
            if self._reap(spec.key) is not None and not _lives(folder):
                raise self._give_up(spec.key, _last_words(folder))
            if spec.key not in self._processes and not _lives(folder):
                self._start(spec, folder)
            waited = True
            await asyncio.sleep(POLL_S)

    def _start(self, spec: ParentSpec, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        argv = [*spec.argv, "--dir", str(folder), "--idle", str(spec.idle_s)]
        try:
            with (folder / "log").open("wb") as log:
                self._processes[spec.key] = subprocess.Popen(
                    argv, env=dict(spec.env), cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,  # it outlives this backend
                )  # fmt: skip
        except OSError as error:
            raise self._give_up(spec.key, str(error)) from None

    def _reap(self, key: str) -> int | None:
        """The exit code of a parent that this object started and that has ended."""
        process = self._processes.get(key)
        code = process.poll() if process is not None else None
        if code is not None:
            del self._processes[key]
        return code

    def _give_up(self, key: str, why: str) -> NoParent:
        text = f"the pre-imported parent did not start: {why}"
        self._failed[key] = (time.monotonic() + FORGIVE_S, text)
        return NoParent(text)

    def _seen(self) -> Sequence[ParentSeen]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(self._folder.iterdir()):
                self._reap(folder.name)
                if _lives(folder):
                    if (seen := _look(folder)) is not None:
                        found.append(seen)
                elif folder.name not in self._processes:
                    shutil.rmtree(folder, ignore_errors=True)
        return found

    def _end(self, folder: Path) -> None:
        end = time.monotonic() + STOP_S
        while _lives(folder):
            if time.monotonic() > end:
                _kill(folder)
                end = time.monotonic() + STOP_S
            self._reap(folder.name)
            time.sleep(POLL_S)
        shutil.rmtree(folder, ignore_errors=True)


async def _ask(folder: Path, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """Raises OSError (TimeoutError is one) and ValueError."""
    async with asyncio.timeout(timeout_s):
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            # the path of a socket has 107 bytes at most, a folder's any number
            reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/sock")
        finally:
            os.close(fd)
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            answer = json.loads(await reader.readline())
        finally:
            writer.close()
    if not isinstance(answer, dict):
        raise ValueError("an answer that is no object")
    return answer


def _lives(folder: Path) -> bool:
    """Its lock is held for as long as it lives."""
    try:
        fd = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _look(folder: Path) -> ParentSeen | None:
    state = _state(folder)
    if state is None:
        return None
    idle = time.time() - (folder / "state.json").stat().st_mtime
    return ParentSeen(
        key=folder.name,
        pid=state["pid"],
        started_us=state["started_us"],
        ready="ready_s" in state,
        ready_s=state.get("ready_s"),
        idle_s=max(0.0, round(idle, 1)),
        pss=procfs.pss(state["pid"]) or 0,
    )


def _state(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _kill(folder: Path) -> None:
    """By pidfd, once it is sure that the number is still that process's."""
    state = _state(folder)
    if state is None or state["boot_id"] != boot_id() or state["pid_ns"] != procfs.pid_namespace():
        return
    with contextlib.suppress(OSError):
        fd = os.pidfd_open(state["pid"])
        try:
            row = procfs.stat(state["pid"])
            if row is not None and row.start == state["start"]:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)


def _last_words(folder: Path) -> str:
    lines = [line for line in records.tail(folder / "log", 20) if line.strip()]
    return lines[-1].strip()[:300] if lines else "it left no log"
