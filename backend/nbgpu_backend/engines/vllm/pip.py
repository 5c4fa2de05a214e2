"""pip, run quietly: its lines become progress, its failure one sentence."""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from nbgpu_backend.errors import DiskError, EngineMissing

# What a user may have set for other purposes and what would send the packages elsewhere.
MISLEADING = ("PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PYTHONPATH",
              "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")  # fmt: skip
NEWS = re.compile(
    r"^\s*(?:Downloading|Using cached|Processing) (?:\S*/)?([^\s/]+?)(?:\.metadata)?(?: |$)"
)
TRAILING = re.compile(r"^(?:WARNING|DEPRECATION|\[notice\]|\s*$)")


class Pip:
    """`install` raises EngineMissing with pip's last error line, DiskError when the disk is full."""

    def __init__(
        self,
        python: Path,
        index: str | None = None,
        lock: int | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._python = python
        self._index = index
        self._lock = lock
        self._report = report

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
                if news := progress(line):
                    self._report(news)
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            process.stdout.close()
        if code != 0:
            raise failure(list(tail))


def progress(line: str) -> str:
    """What a line of pip's output says in a few words; "" if nothing a person waits for."""
    if found := NEWS.match(line):
        return f"fetching {found[1]}"
    if line.startswith("Installing collected packages"):
        return "unpacking"
    return ""


def failure(tail: list[str]) -> EngineMissing | DiskError:
    """The error for pip's last output lines (its warnings and notices do not count)."""
    said = [line for line in tail if not TRAILING.match(line)]
    errors = [line for line in said if line.lstrip().startswith("ERROR:")]
    last = (errors or said or ["no output"])[-1].strip().removeprefix("ERROR:").strip()
    text = "\n".join(tail)
    if "No space left on device" in text:
        return DiskError(
            "The disk is full: pip could not install the engine.",
            "Free about 3.5 GB, or set NBGPU_ENGINES to a folder on another disk.",
        )
    if re.search(r"(No matching distribution found for|satisfies the requirement) torch\b", text):
        return EngineMissing(
            f"The package index does not carry torch's CPU build: {last}",
            "Set NBGPU_TORCH_INDEX to the address of PyTorch's CPU wheel index and try again.",
        )
    if re.search(
        r"NewConnectionError|ConnectTimeout|Name or service not known|name resolution", text
    ):
        return EngineMissing(
            f"The package index cannot be reached: {last}",
            "Check the network, or pip's own settings (`pip config list`), and try again.",
        )
    return EngineMissing(
        f"pip could not install the engine: {last}",
        "Try again: what has been downloaded is kept in pip's cache.",
    )
