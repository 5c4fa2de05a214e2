"""Makes room for a pod on a host. `python3 room.py`, one JSON object on stdin, JSON lines on stdout.

One file, the standard library of Python 3.8 or newer; it lies beside host.py, which runs it.

{"do": "look", "paths"} -> {"kind": "done", "links", "folders", "files", "root", "env", "code"}
    which of the paths are what; what of this environment a pod gets; where our code lies
{"do": "make", "pod", "volume", "requirements"}
    -> {"kind": "progress", "text"} …, {"kind": "done", "shared", "site", "base"}
    the folders, the environment that pods with these requirements share, and the pod's own
{"kind": "error", "error": BadRequest|EngineMissing|DiskError, "what"} in place of the last line
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Json = dict[str, Any]

LAYOUT = "1"
KERNEL = "ipykernel>=6.29,<8"
PTH = "nbgpu-shared.pth"
ROOT = os.path.realpath(os.path.expanduser("~/.nbgpu"))
# how this machine reaches the network and package indexes; a pod reaches them so, too
PASSED = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"),
    *("PIP_DEFAULT_TIMEOUT", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL"),
    *("PIP_CONSTRAINT", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
)
MISLEADING = ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PYTHONPATH")
NEWS = (
    (re.compile(r"\s*Collecting (\S+?)(?=[<>=!~;\[(@ ]|$)"), "collecting %s"),
    (re.compile(r"\s*(?:Downloading|Processing) (?:\S*/)?([^\s/-]+)"), "fetching %s"),
    (re.compile(r"\s*Building wheels? for (?:collected packages: )?([\w.-]+)"), "building %s"),
    (re.compile(r"(Installing) collected packages"), "unpacking"),
)
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


class Failed(Exception):
    def __init__(self, error: str, what: str) -> None:
        super().__init__(what)
        self.error = error


def say(value: Json) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def told(text: str) -> None:
    say({"kind": "progress", "text": text})


def look(asked: Json) -> Json:
    paths: list[str] = asked["paths"]
    return {
        "links": {path: os.readlink(path) for path in paths if os.path.islink(path)},
        "folders": [path for path in paths if os.path.isdir(path)],
        "files": [path for path in paths if os.path.isfile(path)],
        "root": os.geteuid() == 0,
        "env": {name: os.environ[name] for name in PASSED if name in os.environ},
        "code": os.path.dirname(os.path.abspath(__file__)),
        "pip": pip_settings(),
        "shell": shutil.which("bash") or "/bin/sh",
    }


def pip_settings() -> str:
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    for path in (config + "/pip/pip.conf", os.path.expanduser("~/.pip/pip.conf")):
        if os.path.isfile(path):
            return path
    return ""


def make(asked: Json) -> Json:
    pod = os.path.join(ROOT, "pods", asked["pod"])
    volume = os.path.join(ROOT, "volumes", asked["volume"])
    shutil.rmtree(pod + "/tmp", ignore_errors=True)
    for folder in (pod + "/home", pod + "/run", pod + "/tmp", volume):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    shared = build(asked["requirements"])
    python = os.path.realpath(shared + "/bin/python")
    version = "python%d.%d" % sys.version_info[:2]
    site = os.path.join(shared, "lib", version, "site-packages")
    own(pod + "/home/venv", asked["inside"] or pod + "/home/venv", python, version, site)
    base = os.path.dirname(os.path.dirname(python))
    return {"shared": shared, "site": site, "base": base, "pod": pod, "volume": volume}


def build(requirements: list[str]) -> str:
    """The shared environment's folder."""
    version = "%s %d.%d" % (sys.implementation.name, sys.version_info[0], sys.version_info[1])
    text = "\n".join([LAYOUT, version, KERNEL, *requirements])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = os.path.join(ROOT, "engines", "pods", key)
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    with open(folder + ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            told("another pod's environment is made: waiting for that")
            fcntl.flock(lock, fcntl.LOCK_EX)
        complete = os.path.join(folder, ".complete")
        if os.path.exists(complete) and os.path.exists(folder + "/bin/python"):
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        try:
            fill(folder, requirements)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with open(complete, "w") as file:
            file.write("complete\n")
    return folder


def fill(folder: str, requirements: list[str]) -> None:
    told("an empty environment")
    env = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    made = subprocess.run(
        [sys.executable, "-m", "venv", folder], env=env, capture_output=True, text=True
    )
    if made.returncode:
        said = (made.stdout + made.stderr).strip().splitlines()
        lacks = "ensurepip" in made.stdout + made.stderr
        raise Failed(
            "EngineMissing",
            "The host's Python cannot make environments: its venv module is not installed "
            "(on Debian: apt install python3-venv)."
            if lacks
            else "The host's Python could not make an environment: %s." % (said or ["?"])[-1],
        )
    named = any(re.match(r"ipykernel(?![\w-])", line, re.IGNORECASE) for line in requirements)
    listed = os.path.join(folder, "requirements.txt")
    with open(listed, "w") as file:
        file.write("".join(line + "\n" for line in [*([] if named else [KERNEL]), *requirements]))
    argv = [folder + "/bin/python", "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    argv += ["--disable-pip-version-check", "--no-warn-script-location", "--requirement", listed]
    pip = subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert pip.stdout is not None
    lines: list[str] = []
    for raw in pip.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        lines = [*lines[-200:], line]
        for pattern, words in NEWS:
            found = pattern.match(line)
            if found:
                told(words % found.group(1) if "%s" in words else words)
                break
    if pip.wait():
        if any("No space left on device" in line for line in lines):
            raise Failed("DiskError", "The host's disk is full: pip could not install.")
        errors = [line for line in lines if line.lstrip().startswith("ERROR:")]
        last = (errors or lines or ["no output"])[-1].strip().replace("ERROR: ", "")
        raise Failed(
            "EngineMissing",
            "The pod's environment could not be installed on the host: %s." % last.rstrip("."),
        )


def own(folder: str, inside: str, python: str, version: str, site: str) -> None:
    """The pod's own environment, on top of the shared one; what was installed there stays."""
    mine = os.path.join(folder, "lib", version, "site-packages")
    config = "home = %s\ninclude-system-site-packages = false\nversion = %s\n" % (
        os.path.dirname(python),
        version.replace("python", ""),
    )
    settings = os.path.join(folder, "pyvenv.cfg")
    try:
        with open(settings) as file:
            same = file.read() == config
    except OSError:
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(mine)
        os.makedirs(folder + "/bin")
        for name in ("python", "python3", version):
            os.symlink(python, os.path.join(folder, "bin", name))
        with open(folder + "/bin/pip", "w") as file:
            file.write('#!/bin/sh\nexec "%s/bin/python" -m pip "$@"\n' % inside)
        os.chmod(folder + "/bin/pip", 0o755)
        with open(settings, "w") as file:
            file.write(config)
    with open(os.path.join(mine, PTH), "w") as file:
        file.write(site + "\n")


def main() -> None:
    os.umask(0o077)
    asked = json.loads(sys.stdin.read())
    try:
        found = {"look": look, "make": make}[asked["do"]](asked)
        say(dict(found, kind="done"))
    except Failed as error:
        say({"kind": "error", "error": error.error, "what": str(error)})
    except OSError as error:
        kind = "DiskError" if error.errno in DISK_ERRORS else "EngineMissing"
        where = "%s: " % error.filename if error.filename else ""
        say(
            {"kind": "error", "error": kind, "what": "On the host: %s%s." % (where, error.strerror)}
        )


if __name__ == "__main__":
    main()
