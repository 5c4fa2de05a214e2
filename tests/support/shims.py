"""Start shims by hand, find what they run, and leave nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nbgpu_backend.providers.local import procfs
from nbgpu_backend.providers.local.provider import SHIM

# the interpreter of the shims that tests start by hand: any from 3.8 on
PYTHON = os.environ.get("NBGPU_TEST_SHIM_PYTHON", sys.executable)
PATH = "/usr/local/bin:/usr/bin:/bin"

# Ignores TERM, has children in its group, in groups and sessions of their own, and orphans of
# each kind: a new session, a double fork, both.
STUBBORN_TREE = """
trap "" TERM
sleep 1000 &
(sleep 1001 &)
setsid sh -c 'trap "" TERM; (setsid sleep 1002 &); sleep 1003' &
(setsid sh -c 'trap "" TERM; sleep 1004 & (setsid sleep 1005 &); sleep 1006' &)
echo up
while :; do sleep 1007; done
"""


def until(happens: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value of `happens()`; fails the test when the time is over."""
    end = time.monotonic() + seconds
    while not (value := happens()):
        assert time.monotonic() < end, f"not within {seconds} s: {happens}"
        time.sleep(0.005)
    return value


class Yard:
    """A home for one test. Whatever carries its path in the environment is of this test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instances = root / "instances"

    def folder(self, name: str = "nbgpu-t-w-1") -> Path:
        return self.instances / name

    def env(self, **more: str) -> dict[str, str]:
        return {"PATH": PATH, "ENGINE_OF": f"<{self.root}>", **more}

    def spec(self, script: str, **more: Any) -> dict[str, Any]:
        """A shim's spec that runs `script` in sh."""
        return {
            "argv": ["sh", "-c", script],
            "env": self.env(),
            "generation": 1,
            "ttl_s": 60,
            "grace_s": 5,
            **more,
        }

    def begin(self, folder: Path, spec: dict[str, Any], **popen: Any) -> subprocess.Popen[bytes]:
        """Start a shim and return at once."""
        source = os.memfd_create("spec")
        os.write(source, json.dumps(spec).encode())
        os.lseek(source, 0, os.SEEK_SET)
        try:
            return subprocess.Popen(
                [PYTHON, "-I", "-S", "-E", str(SHIM), str(folder)],
                stdin=source,
                stdout=subprocess.PIPE,
                env={"NBGPU_HOME": str(self.root), "PATH": PATH},
                **popen,
            )
        finally:
            os.close(source)

    def start(self, folder: Path, spec: dict[str, Any], **popen: Any) -> tuple[int, dict[str, Any]]:
        """Start a shim. -> (the exit code of the launch, the line)"""
        child = self.begin(folder, spec, **popen)
        out, _ = child.communicate(timeout=30)
        assert out.count(b"\n") == 1 and out.endswith(b"\n")
        return child.returncode, json.loads(out)

    def up(self, folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
        """Start a shim that must come up, and wait for the engine's first line."""
        code, line = self.start(folder, spec)
        assert code == 0, line
        until(lambda: (folder / "log").exists() and (folder / "log").stat().st_size)
        return line

    def engines(self) -> list[int]:
        """Living processes that were exec'ed with this test's environment."""
        return _carrying(b"ENGINE_OF=<%s>" % os.fsencode(self.root))

    def everything(self) -> list[int]:
        return _carrying(os.fsencode(self.root))

    def end(self) -> None:
        def rest() -> bool:
            left = self.everything()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        until(rest)


def _carrying(mark: bytes) -> list[int]:
    found = []
    for row in procfs.processes():
        if row.alive:
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{row.pid}/environ").read_bytes():
                    found.append(row.pid)
    return found


@contextlib.contextmanager
def yard(root: Path) -> Iterator[Yard]:
    made = Yard(root)
    made.instances.mkdir(parents=True, mode=0o700)
    try:
        yield made
    finally:
        made.end()


class Line:
    """A connection to a shim's socket."""

    def __init__(self, folder: Path, timeout_s: float = 15.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        fd = os.open(folder, os.O_PATH)
        try:
            self.socket.connect(f"/proc/self/fd/{fd}/sock")
        finally:
            os.close(fd)
        self.reader = self.socket.makefile("rb")

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.socket.close()

    def send(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def read(self) -> dict[str, Any]:
        answer = json.loads(self.reader.readline())
        assert isinstance(answer, dict)
        return answer


def ask(folder: Path, **request: Any) -> dict[str, Any]:
    with Line(folder) as line:
        line.send(json.dumps(request).encode() + b"\n")
        return line.read()


def exit_of(folder: Path, seconds: float = 10.0) -> dict[str, Any]:
    """exit.json, once it is there."""
    path = folder / "exit.json"
    until(path.exists, seconds)
    record = json.loads(path.read_bytes())
    assert isinstance(record, dict)
    return record


def broken_json(root: Path) -> list[Path]:
    """Files called *.json below `root` that do not parse."""
    broken = []
    for path in root.rglob("*.json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            broken.append(path)
    return broken


def child_of(pid: int) -> int | None:
    """A child that was forked a moment ago: pids close behind, so that the look is quick."""
    for near in range(pid + 1, pid + 100):
        row = procfs.stat(near)
        if row is not None and row.ppid == pid:
            return near
    return None
