"""Starts and ends a pre-imported parent (see parent.py) on a host. `python3 nursery.py`, one JSON object on
stdin, one JSON line on stdout.

It lies beside host.py, which runs it, and parents below ~/.nbgpu/parents there, a folder for each key.
{"do": "start", "key", "argv", "env", "idle_s", "ready_s"} -> {"kind": "done", "why", "killed"}
    once it answers, or does not come up: then `why` says so, without a full stop. One that is there is waited for.
    A parent outlives this program, whatever ends it.
{"do": "stop", "key"} -> {"kind": "done", "why"}
    asked, then TERM, then KILL; the workers that it forked live on
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    Json = Dict[str, Any]

PARENTS = os.path.realpath(os.path.expanduser("~/.nbgpu/parents"))
KEY = re.compile(r"[a-z0-9][a-z0-9-]*")
STATUS_S = 1.0  # it answers in milliseconds, unless it forks just now or was stopped
GRACE_S, KILLED_S = 5.0, 10.0
LOOK_S = 0.05


def held(folder: str) -> bool:
    """Whether the parent lives. Creates nothing."""
    try:
        fd = os.open(os.path.join(folder, "lock"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def ask(folder: str, op: str) -> Optional[Json]:
    """Its answer; None where there is none."""
    here = os.getcwd()
    link = socket.socket(socket.AF_UNIX)
    try:
        os.chdir(folder)  # the path of a socket has 107 bytes at most
        link.settimeout(STATUS_S)
        link.connect("sock")
        link.sendall(json.dumps({"op": op}).encode() + b"\n")
        with link.makefile("rb") as reader:
            value = json.loads(reader.readline().decode())
        return value if isinstance(value, dict) else None
    except (OSError, ValueError):
        return None
    finally:
        link.close()
        os.chdir(here)


def start(asked: Json) -> Json:
    folder = folder_of(asked["key"])
    end = time.monotonic() + float(asked["ready_s"])
    child = None if held(folder) else spawn(folder, asked)
    while time.monotonic() < end:
        if ask(folder, "status") is not None:
            return {"why": "", "killed": False}
        if not held(folder) and (child is None or child.poll() is not None):
            said = last_line(os.path.join(folder, "log"))
            why = "The pre-imported parent could not start" + (": %s" % said if said else "")
            killed = child is not None and (child.returncode or 0) < 0
            return {"why": why, "killed": killed}
        time.sleep(LOOK_S)
    why = "The pre-imported parent was not ready after %d s" % asked["ready_s"]
    return {"why": why, "killed": False}


def spawn(folder: str, asked: Json) -> subprocess.Popen[bytes]:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for name in ("state.json", "sock"):
        if os.path.lexists(os.path.join(folder, name)):
            os.unlink(os.path.join(folder, name))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC
    log = os.open(
        os.path.join(folder, "log"), flags, 0o600
    )  # it opens the same, but may die before
    try:
        return subprocess.Popen(
            [*asked["argv"], "--dir", folder, "--idle", str(asked["idle_s"])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=asked["env"],
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(log)


def stop(asked: Json) -> Json:
    folder = folder_of(asked["key"])
    began = time.monotonic()
    if held(folder):
        ask(folder, "stop")
    while held(folder):
        late = time.monotonic() - began
        if late > GRACE_S + KILLED_S:
            return {"why": "it was killed and has not ended"}
        if late > STATUS_S:
            signal_to(folder, signal.SIGKILL if late > GRACE_S else signal.SIGTERM)
        time.sleep(LOOK_S)
    shutil.rmtree(folder, ignore_errors=True)
    return {"why": ""}


def signal_to(folder: str, number: int) -> None:
    """By its start time, too: its number may be another's by now, or of another boot."""
    try:
        with open(os.path.join(folder, "state.json")) as file:
            state = json.load(file)
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        if (state["boot_id"], state["pid_ns"]) != (boot, os.readlink("/proc/self/ns/pid")):
            return
        with open("/proc/%d/stat" % state["pid"], "rb") as file:
            raw = file.read()
        if int(raw[raw.rindex(b")") + 2 :].split()[19]) == state["start"]:
            os.kill(state["pid"], number)
    except (OSError, ValueError, KeyError):
        pass


def folder_of(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError("%r is no key of a parent" % key)
    return os.path.join(PARENTS, key)


def last_line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return lines[-1].strip().rstrip(".")[:300] if lines else ""


def main() -> None:
    os.umask(0o077)
    asked = json.loads(sys.stdin.read())
    try:
        done = {"start": start, "stop": stop}[asked["do"]](asked)
    except OSError as error:
        where = "%s: " % error.filename if error.filename else ""
        why = "The pre-imported parent could not be started: %s%s" % (where, error.strerror)
        done = {"why": why, "killed": False}
    sys.stdout.write(json.dumps(dict(done, kind="done")) + "\n")


if __name__ == "__main__":
    main()
