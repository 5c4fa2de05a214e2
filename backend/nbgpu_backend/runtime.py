"""Locate the one backend of an installation, or start it (stdlib only).

`backend.json` names the backend; it stays after its death, so that the next one can take the same port
and token. Before the token is sent anywhere, the pid, its start time and the boot id are checked: the
port may belong to somebody else by now. Starting is guarded by `start.lock`; the child writes one byte
to a pipe once it is bound, and the pipe's end of file means that it died, so that nothing is guessed
from a time-out. The backend itself holds `backend.lock` for life.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.errors import BackendError, DiskError, NbgpuError
from nbgpu_backend.home import Home

if sys.platform == "win32":  # pragma: no cover
    import msvcrt
else:
    import fcntl

__all__ = [
    "API_VERSION",
    "Backend",
    "Home",
    "NbgpuError",
    "ensure_running",
    "given",
    "locate",
    "lock",
    "read",
]

API_VERSION = 1
START_TIMEOUT_S = 60.0
DYING_S = (
    2.0  # how long a killed process may still count as alive, refuse connections, hold its lock
)
LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Backend:
    """How to reach it. `start` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    url: str
    token: str
    pid: int
    start: int
    boot_id: str
    version: str
    api_version: int

    def dump(self) -> dict[str, Any]:
        return asdict(self)


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_time(pid: int) -> int | None:
    """When the process began; None if it is dead (a zombie counts as dead). 0 where there is no /proc."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None if Path("/proc/self/stat").exists() or not _exists(pid) else 0
    fields = raw[raw.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _exists(pid: int) -> bool:
    if sys.platform == "win32":  # pragma: no cover
        return True  # os.kill(pid, 0) would end it there; the health check decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read(home: Home) -> Backend | None:
    """What `backend.json` says, alive or not; None if there is none or it is torn."""
    try:
        return Backend(**json.loads(home.backend_json.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def alive(backend: Backend) -> bool:
    """Is the process that wrote backend.json still the one of that pid?"""
    return backend.boot_id == boot_id() and start_time(backend.pid) == backend.start


def locate(home: Home | None = None, timeout_s: float = 5.0) -> Backend | None:
    """The running backend, or None.

    Raises BackendError where one runs that speaks another API version, or does not answer.
    """
    home = home or Home.default()
    backend = read(home)
    if backend is None or not alive(backend):
        return None
    import urllib.request  # half of what importing this module would take

    if backend.api_version != API_VERSION:
        raise BackendError(
            f"The running backend is nbgpu {backend.version} and speaks another API than this one.",
            "Restart it with: nbgpu shutdown, then nbgpu serve (endpoints run on meanwhile).",
            code="api_mismatch",
        )
    request = urllib.request.Request(
        backend.url + "/nbgpu/v1/health", headers={"Authorization": "Bearer " + backend.token}
    )
    # a proxy of the environment must not see the token, nor stand between this machine and itself
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + DYING_S
    while True:
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                health = json.load(answer)
            return backend if health.get("pid") == backend.pid else None
        except (OSError, ValueError) as error:
            if not alive(backend):
                return None
            if time.monotonic() >= end:
                raise BackendError(
                    f"The backend (pid {backend.pid}, {backend.url}) runs but does not answer: {error}.",
                    f"Its log is {home.backend_log}; end it with: kill {backend.pid}",
                    code="backend_silent",
                ) from None
        time.sleep(LOOK_S)


def given() -> Backend | None:
    """The backend that the environment names, as it does inside a pod; None elsewhere.

    It is another machine's matter, or another name space's: neither its pid nor its files are seen here.
    """
    url, token = os.environ.get("NBGPU_URL"), os.environ.get("NBGPU_TOKEN")
    if not url or not token:
        return None
    return Backend(url.rstrip("/"), token, 0, 0, "", "", API_VERSION)


def lock(path: Path, *, wait: bool) -> int | None:
    """An exclusive lock on `path`: the open descriptor, never inherited; None if held and not waited for."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if sys.platform == "win32":  # pragma: no cover
            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        if wait:
            raise
        return None
    return handle


def ensure_running(home: Home | None = None) -> Backend:
    """Connect to the backend, starting it if need be. Safe to call from many processes at once.

    Where NBGPU_URL and NBGPU_TOKEN name one, and no other `home` is asked for, nothing is started.
    Raises DiskError if NBGPU_HOME cannot be used, BackendError if the backend does not start.
    """
    if home is None and (backend := given()):
        return backend
    home = home or Home.default()
    if backend := locate(home):
        return backend
    home.prepare()
    handle = lock(home.run / "start.lock", wait=True)
    assert handle is not None
    try:
        return locate(home) or _start(home)
    finally:
        os.close(handle)


def _start(home: Home) -> Backend:
    reader, writer = os.pipe()
    environment = {**os.environ, "NBGPU_HOME": str(home.root), "PYTHONUNBUFFERED": "1"}
    argv = [sys.executable, "-m", "nbgpu_backend"]
    if sys.platform != "win32":
        argv += ["--ready-fd", str(writer)]
    with _open_log(home) as log:
        process = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(writer,) if sys.platform != "win32" else (),
            cwd=home.root,
        )
    os.close(writer)
    try:
        ready = os.read(reader, 1) if sys.platform != "win32" else _poll_ready(home, process)
    finally:
        os.close(reader)
    backend = locate(home) if ready else None
    if backend is not None:
        return backend
    process.poll()
    raise BackendError(
        "The backend did not start: " + _last_words(home),
        f"Its log is {home.backend_log}",
        code="backend_start",
    )


def _poll_ready(home: Home, process: subprocess.Popen[bytes]) -> bytes:  # pragma: no cover
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        found = read(home)
        if found is not None and found.pid == process.pid:
            return b"1"
        time.sleep(0.05)
    return b""


def _open_log(home: Home) -> Any:
    try:
        return open(home.backend_log, "ab")
    except OSError as error:
        raise DiskError(
            f"NBGPU_HOME ({home.root}) cannot be written: {error.strerror}.",
            "Free some space, or set NBGPU_HOME to another folder.",
        ) from None


def _last_words(home: Home) -> str:
    try:
        lines = [line for line in home.backend_log.read_text(errors="replace").splitlines() if line]
    except OSError:
        return "it left no log."
    return lines[-1][:400] if lines else "it left no log."
