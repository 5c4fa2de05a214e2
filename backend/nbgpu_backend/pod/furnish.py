"""Make the environment of a pod in a container: `python3 furnish.py`, in the image's Python (3.8 or newer).

One JSON line on its standard input: {"venv": its folder, "kernel": a requirement, or "" where the others
name one, "requirements", "env": to be added, "whole": text for the file `furnished` in it}. What is in the
image is seen from the environment; what it lacks, the image's pip installs there. The end of that input ends
this. It prints lines of JSON: {"pip": a line of pip's} …, and last {"done": true}, {"refused": why} or, where
pip has told why, {"failed": true}.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    from nbgpu_backend.pod.contained import first_line
else:
    from contained import first_line

OLDEST = (3, 9)
KERNELS = ((6, 29), (8,))  # from, to below
PTH = "nbgpu-image.pth"
MARKER = "furnished"


def say(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def kernel_there() -> bool:
    """Can this Python run a kernel as it is?"""
    from importlib import metadata

    try:
        import zmq  # noqa: F401

        words = metadata.version("ipykernel").split(".")[:2]
        return KERNELS[0] <= tuple(int(word) for word in words) < KERNELS[1]
    except (ImportError, ValueError):
        return False


def make(venv: str) -> str:
    """The environment, unless it is there; what was installed in it stays. -> its interpreter

    It is made by hand, for many a system's Python has no `venv`.
    """
    version = "%d.%d" % sys.version_info[:2]
    # the image's own Python may be that of an environment
    base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    config = "home = %s\ninclude-system-site-packages = false\nversion = %s\nnbgpu = image\n"
    config %= (os.path.dirname(base), version)
    settings = os.path.join(venv, "pyvenv.cfg")
    try:
        with open(settings) as file:
            same = file.read() == config
    except OSError:
        same = False
    packages = os.path.join(venv, "lib", "python" + version, "site-packages")
    python = os.path.join(venv, "bin", "python")
    if not same:
        shutil.rmtree(venv, ignore_errors=True)
        os.makedirs(packages)
        os.makedirs(os.path.dirname(python))
        for name in ("python", "python3", "python" + version):
            os.symlink(base, os.path.join(venv, "bin", name))
        pip = os.path.join(venv, "bin", "pip")
        with open(pip, "w") as file:
            file.write('#!/bin/sh\nexec "%s" -m pip "$@"\n' % python)
        os.chmod(pip, 0o755)
        with open(settings, "w") as file:
            file.write(config)
    folders = [
        *site.getsitepackages(),
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    ]
    with open(os.path.join(packages, PTH), "w") as file:
        for folder in dict.fromkeys(folders):
            file.write("import site; site.addsitedir(%r)\n" % folder)
    return python


def install(python: str, wanted: List[str]) -> bool:
    argv = [python, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    argv += ["--disable-pip-version-check", "--no-warn-script-location", *wanted]
    pip = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert pip.stdout is not None
    for line in pip.stdout:
        say(pip=line.rstrip("\n"))
    return pip.wait() == 0


def furnish(asked: Dict[str, Any]) -> Dict[str, Any]:
    """-> the last line to say. Raises OSError."""
    if sys.version_info < OLDEST:
        ours = sys.version_info[:2]
        return {"refused": "its Python is %d.%d, and a pod needs %d.%d or newer" % (*ours, *OLDEST)}
    python = make(asked["venv"])
    wanted = list(asked["requirements"])
    if asked["kernel"] and not kernel_there():
        wanted.insert(0, asked["kernel"])
    if wanted:
        look = subprocess.run(
            [python, "-c", "import pip"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if look.returncode:
            return {"refused": "its Python has no pip to install %s with" % ", ".join(wanted)}
        if not install(python, wanted):
            return {"failed": True}
    with open(os.path.join(asked["venv"], MARKER), "w") as file:
        file.write(asked["whole"])
    return {"done": True}


def main() -> int:
    line = first_line(0)
    if not line:
        return 1
    asked = json.loads(line.decode())
    threading.Thread(target=end_with_input, daemon=True).start()
    os.environ.update(asked["env"])
    try:
        last = furnish(asked)
    except OSError as error:
        last = {"refused": "%s: %s" % (error.filename or "its home", error.strerror or error)}
    say(**last)
    return 0


if __name__ == "__main__":
    os._exit(main())
