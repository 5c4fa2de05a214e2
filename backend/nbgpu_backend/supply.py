"""Gets onto a host what a worker needs there. `python3 supply.py`, one JSON object on stdin, JSON lines on stdout.

It lies beside host.py, which runs it. `lib` beside it holds the modules of nbgpu_backend that install and
fetch on the backend's own machine; they do the same here. They want Python 3.10 or newer: an older one
looks for such a one and becomes it.

{"do": "bring", "engine", "version", "source", "repo", "commit", "name", "requirements", "constraints",
 "folder", "copied", "keep", "token"}
    -> {"kind": "progress", "text", "done", "total"} …, {"kind": "done", …} with the fields of Premises
    Engine environment, weights of the hub, a handler's environment: what is there already is used.
    `folder` is where the backend has it, `copied` its copy below ROOT, or null. `keep`: names of variables.
{"do": "unpack", "archive", "folder"} -> {"kind": "done"}
    below ROOT; the archive is removed
{"do": "hold", "folder"} -> {"kind": "held"}, and then nothing
    whoever copies into that folder, below ROOT, holds it for as long as this runs
{"kind": "error", "error": a class of errors.py, "code", "what", "next"} in place of the last line
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]

HERE = os.path.dirname(os.path.abspath(__file__))
LIB = os.path.join(HERE, "lib")
ROOT = os.path.realpath(os.path.expanduser("~/.nbgpu"))
OLDEST, NEWEST = (3, 10), (3, 13)  # of Python; vLLM takes no newer one
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
VENV_TEST = "import venv, ensurepip"


class Failed(Exception):
    def __init__(self, error: str, what: str, then: str = "", code: str = "") -> None:
        super().__init__(what)
        self.line = {"kind": "error", "error": error, "what": what, "next": then}
        if code:
            self.line["code"] = code


def say(value: Json) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def told(text: str, done: int = 0, total: int = 0) -> None:
    say({"kind": "progress", "text": text, "done": done, "total": total})


def bring(asked: Json) -> Json:
    hub = os.path.expanduser(os.environ.get("HF_HOME") or os.path.join(ROOT, "huggingface"))
    copied = os.path.join(ROOT, asked["copied"]) if asked["copied"] else None
    os.makedirs(ROOT + "/cache/home", mode=0o700, exist_ok=True)
    found: Json = {
        "environment": "", "python": sys.executable, "code": HERE, "home": ROOT, "hub": hub,
        "model": None, "cwd": None, "weights": None, "flags": [],
        "cores": len(os.sched_getaffinity(0)),
        "has_gpu": any(os.path.exists(device) for device in GPU_DEVICES),
        "env": {name: os.environ[name] for name in asked["keep"] if name in os.environ},
    }  # fmt: skip
    if asked["source"] == "command":
        return dict(found, cwd=copied)
    fitting(asked)
    sys.path[0] = LIB  # in place of HERE, where the modules of a pod's agent lie
    if asked["source"] == "handler":
        assert copied is not None
        found["environment"] = handler(asked, copied)
        return dict(found, model=os.path.join(copied, asked["name"]))
    found["environment"] = environment = vllm(asked["version"])
    model = fetch(asked, environment, hub) if asked["source"] == "hub" else copied
    from pathlib import Path

    from nbgpu_backend.engines.vllm import sizing

    found["flags"] = sorted(sizing.cpu_flags())
    if model is not None:
        weights = sizing.weights(Path(model))
        found["weights"] = {"bytes": weights.bytes, "dtype": weights.dtype}
    return dict(found, model=model)


def fitting(asked: Json) -> None:
    """Return, or go on as a Python that our modules (and vLLM) can use."""
    version = sys.version_info[:2]
    if version >= OLDEST and (version <= NEWEST or asked["engine"] != "vllm"):
        return
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        other = shutil.which("python3.%d" % minor)
        if (
            other
            and not subprocess.run([other, "-c", VENV_TEST], stderr=subprocess.DEVNULL).returncode
        ):
            with tempfile.TemporaryFile() as again:
                again.write(json.dumps(asked).encode())
                again.seek(0)
                os.dup2(again.fileno(), 0)
            os.execv(other, [other, os.path.abspath(__file__)])
    range_ = "%d.%d to %d.%d" % (OLDEST + NEWEST)
    what = "The engine %s needs Python %s, and the host has %d.%d."
    raise Failed(
        "EngineMissing",
        what % (asked["engine"], range_, version[0], version[1]),
        "Install one there, with its venv module (on Debian: apt install python3-venv).",
    )


def check_venv() -> None:
    if subprocess.run([sys.executable, "-c", VENV_TEST], stderr=subprocess.DEVNULL).returncode:
        raise Failed(
            "EngineMissing",
            "The host's Python cannot make environments: its venv module is not installed.",
            "Install it there (on Debian: apt install python3-venv).",
        )


def vllm(version: str) -> str:
    """The folder of the environment: ours, or one that nbgpu made here for this machine."""
    from pathlib import Path

    from nbgpu_backend.engines.vllm.environment import Environment
    from nbgpu_backend.home import Home

    home = Home(Path(ROOT))
    for place in (Environment.of(home, version), Environment.of(Home.default(), version)):
        if place.complete:
            place.engine_json()  # raises EngineMissing where it is damaged
            return str(place.folder)
    check_venv()
    from nbgpu_backend.engines.vllm.installer import install

    return str(install(home, version=version, report=lambda line: told("installing vLLM: " + line)))


def handler(asked: Json, folder: str) -> str:
    """The folder of the environment that these requirements have."""
    from pathlib import Path

    from nbgpu_backend.engines.handler.environment import Environment
    from nbgpu_backend.engines.handler.installer import install
    from nbgpu_backend.engines.handler.requirements import Requirements
    from nbgpu_backend.errors import NbgpuError
    from nbgpu_backend.home import Home

    home = Home(Path(ROOT))
    wanted = Requirements(tuple(asked["requirements"]), tuple(asked["constraints"]))
    if not Environment.of(home, wanted).complete:
        check_venv()
    try:
        place = install(
            home, wanted, Path(folder), lambda text: told("installing packages: " + text)
        )
    except NbgpuError as error:  # the file to be corrected is the user's own, not our copy
        error.what = error.what.replace(folder, asked["folder"])
        error.next_step = error.next_step.replace(folder, asked["folder"])
        raise
    return str(place.folder)


def fetch(asked: Json, environment: str, hub: str) -> str:
    """The folder of the weights, fetched by the engine's Python, which has the hub's client."""
    from nbgpu_backend.hub.refusals import ERRORS

    child = subprocess.Popen(
        [environment + "/bin/python", "-m", "nbgpu_backend.hub.fetch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=LIB, HF_HOME=hub),
        cwd=ROOT,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    request = {
        "repo": asked["repo"], "revision": asked["commit"] or "main", "cache_dir": hub + "/hub",
        "token": None if has_token(hub) else asked["token"],
    }  # fmt: skip
    try:
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()  # it stays open: its end ends the child
        for raw in child.stdout:
            line = json.loads(raw)
            if line["kind"] == "plan":
                told("fetching the weights", line["bytesCached"], line["bytesTotal"])
            elif line["kind"] == "progress":
                told("fetching the weights", line["bytesDone"], line["bytesTotal"])
            elif line["kind"] == "error":
                kind = ERRORS[line["code"]].__name__ if line["code"] in ERRORS else "UpstreamError"
                raise Failed(kind, line["what"], line["next"], line["code"])
            else:
                return str(line["path"])
    finally:
        child.stdin.close()
        child.kill()
        child.wait()
    raise Failed(
        "UpstreamError", "Fetching %s ended without a result." % asked["repo"], "Try again."
    )


def has_token(hub: str) -> bool:
    return any(os.environ.get(name) for name in TOKENS) or os.path.exists(hub + "/token")


def unpack(asked: Json) -> Json:
    archive, folder = os.path.join(ROOT, asked["archive"]), os.path.join(ROOT, asked["folder"])
    fresh = "%s.%d" % (folder, os.getpid())
    shutil.rmtree(fresh, ignore_errors=True)
    os.makedirs(fresh, mode=0o700)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.isfile() or ".." in member.name.split("/") or member.name[0] == "/":
                    raise Failed("BadRequest", "%s is no file that can be copied." % member.name)
                path = os.path.join(fresh, member.name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                with open(path, "wb") as file:
                    shutil.copyfileobj(source, file)
                os.chmod(path, member.mode & 0o700)
        if not os.path.isdir(folder):
            os.rename(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        os.unlink(archive)
    return {}


def hold(asked: Json) -> Json:
    folder = os.path.join(ROOT, asked["folder"])
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(folder + "/.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told("something else is copied there: waiting for that")
            fcntl.flock(lock, fcntl.LOCK_EX)
        say({"kind": "held"})
        while True:
            signal.pause()


def main() -> None:
    os.umask(0o077)
    asked = json.loads(sys.stdin.read())
    try:
        done = {"bring": bring, "unpack": unpack, "hold": hold}[asked["do"]](asked)
        say(dict(done, kind="done"))
    except Failed as error:
        say(error.line)
    except OSError as error:
        kind = "DiskError" if error.errno in DISK_ERRORS else "EngineMissing"
        where = "%s: " % error.filename if error.filename else ""
        say({"kind": "error", "error": kind, "what": "%s%s." % (where, error.strerror), "next": ""})
    except Exception as error:
        what = getattr(error, "what", None)
        if what is None:  # none of errors.py
            raise
        kind, code = type(error).__name__, getattr(error, "code", "")
        then = getattr(error, "next_step", "")
        say({"kind": "error", "error": kind, "code": code, "what": what, "next": then})


if __name__ == "__main__":
    main()
