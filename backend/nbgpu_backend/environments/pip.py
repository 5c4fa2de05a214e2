"""pip, run quietly: its lines become progress, its failure one sentence."""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from nbgpu_backend.errors import DiskError, EngineMissing, NbgpuError

# What a user may have set for other purposes and what would send the packages elsewhere.
MISLEADING = ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PYTHONPATH",
              "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")  # fmt: skip
NEWS = re.compile(
    r"^\s*(?:Downloading|Using cached|Processing) (?:\S*/)?([^\s/]+?)(?:\.metadata)?(?: |$)"
)
TRAILING = re.compile(r"^(?:WARNING|DEPRECATION|\[notice\]|\s*$)")


class Pip:
    """`install` raises what `failed` makes of pip's last lines. `heard` gets every line.

    `index` is a further package index; `lock` a descriptor that pip inherits.
    """

    def __init__(
        self,
        python: Path,
        *,
        failed: Callable[[list[str]], NbgpuError],
        heard: Callable[[str], None] = lambda line: None,
        index: str | None = None,
        lock: int | None = None,
    ) -> None:
        self._python = python
        self._failed = failed
        self._heard = heard
        self._index = index
        self._lock = lock

    def install(self, *arguments: str) -> None:
        self.run("install", "--no-warn-script-location", *arguments)

    def run(self, verb: str, *arguments: str) -> None:
        argv = [str(self._python), "-m", "pip", verb, "--no-input", "--progress-bar", "off"]
        argv += ["--disable-pip-version-check"]
        argv += ["--extra-index-url", self._index] if self._index else []
        env = {name: value for name, value in os.environ.items() if name not in MISLEADING}
        tail: deque[str] = deque(maxlen=200)
        process = subprocess.Popen(
            [*argv, *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=() if self._lock is None else (self._lock,),
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail.append(line.rstrip())
                self._heard(line)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            process.stdout.close()
        if code != 0:
            raise self._failed(list(tail))


def progress(line: str) -> str:
    """What a line of pip's output says in a few words; "" if nothing a person waits for."""
    if found := NEWS.match(line):
        return f"fetching {found[1]}"
    if line.startswith("Installing collected packages"):
        return "unpacking"
    return ""


def last_error(tail: list[str]) -> str:
    """The last line that tells what went wrong (pip's warnings and notices do not count)."""
    said = [line for line in tail if not TRAILING.match(line)]
    errors = [line for line in said if line.lstrip().startswith("ERROR:")]
    return (errors or said or ["no output"])[-1].strip().removeprefix("ERROR:").strip()


def trouble(tail: list[str], what: str, room: str) -> EngineMissing | DiskError | None:
    """The error where it is the machine's or the network's; `what` was to be installed in `room`."""
    text = "\n".join(tail)
    if "No space left on device" in text:
        return DiskError(
            f"The disk is full: pip could not install {what}.",
            f"Free {room}, or set NBGPU_ENGINES to a folder on another disk.",
        )
    if re.search(
        r"NewConnectionError|ConnectTimeout|Name or service not known|name resolution", text
    ):
        return EngineMissing(
            f"The package index cannot be reached: {last_error(tail)}",
            "Check the network, or pip's own settings (`pip config list`), and try again.",
        )
    return None
