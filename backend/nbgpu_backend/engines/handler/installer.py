"""Build the environment of a handler: an empty one, then what its requirements say, by pip.

Blocking: builder.py runs it in a child process.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from nbgpu_backend.engines.handler import distributions
from nbgpu_backend.engines.handler.environment import Environment
from nbgpu_backend.engines.handler.pip_failures import failure
from nbgpu_backend.engines.handler.requirements import Requirements
from nbgpu_backend.engines.pip import Pip
from nbgpu_backend.engines.venv import Report, Venv, build_once
from nbgpu_backend.errors import EngineMissing
from nbgpu_backend.home import Home

COUNT_S = 0.25  # between looks at how many packages are there
LINES = (
    (re.compile(r"\s*Collecting (\S+?)(?=[<>=!~;\[(@ ]|$)"), "collecting {}"),
    (re.compile(r"\s*(?:Downloading|Processing) (?:\S*/)?([^\s/-]+)"), "fetching {}"),
    (re.compile(r"\s*Building wheels? for (?:collected packages: )?([\w.-]+)"), "building {}"),
)
UNPACKING = re.compile(r"Installing collected packages: (.+)")


def install(home: Home, wanted: Requirements, folder: Path, told: Report) -> Environment:
    """Build the environment, or return at once if it is there.

    `folder` is the handler's, for the words of a failure; `told` gets a few words on what is done. Raises DiskError, or EngineMissing with
    the requirement that failed and pip's last words.
    """
    place = Environment.of(home, wanted)
    if not place.complete:
        place.marker.unlink(missing_ok=True)  # finished once, and its Python is gone
        build_once(
            place,
            lambda lock: _build(place, wanted, folder, lock, told),
            told,
        )
    return place


def _build(
    place: Environment, wanted: Requirements, folder: Path, lock: int, told: Report
) -> dict[str, Any]:
    began = time.monotonic()
    _sweep(place)
    try:
        with place.log.open("w") as log:
            version = _fill(place, wanted, folder, lock, log, told)
    except Exception:
        # other requirements make another environment: nobody would come back for this one
        shutil.rmtree(place.folder, ignore_errors=True)
        raise
    return {
        "engine": "handler",
        "runpod": version,
        "requirements": list(wanted.lines),
        "modules": distributions.modules(place.site, "runpod"),
        "builtAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "buildSeconds": round(time.monotonic() - began, 1),
    }


def _fill(
    place: Environment, wanted: Requirements, folder: Path, lock: int, log: IO[str], told: Report
) -> str:
    """Returns the version of the SDK that came."""
    told("an empty environment")
    venv.EnvBuilder(with_pip=True, symlinks=True).create(place.folder)
    listed = place.folder / "requirements.txt"
    listed.write_text("".join(f"{line}\n" for line in wanted.lines))
    arguments = ["--requirement", str(listed)]
    if wanted.constraints:
        limits = place.folder / "constraints.txt"
        limits.write_text("".join(f"{line}\n" for line in wanted.constraints))
        arguments += ["--constraint", str(limits)]
    with _Watch(place, log, told) as watch:
        pip = Pip(
            place.python,
            lock=lock,
            heard=watch.heard,
            failed=lambda tail: failure(tail, wanted, folder, place.log),
        )
        pip.install(*arguments)
    version = distributions.version(place.site, "runpod")
    if version is None:
        raise EngineMissing(
            f"The requirements in {folder} name runpod, but not for this Python and machine.",
            "Correct the condition behind its `;`, then deploy again.",
            code="environment",
        )
    return version


class _Watch:
    """Makes progress of pip's lines; while pip unpacks in silence, of the packages that are there."""

    def __init__(self, place: Environment, log: IO[str], told: Report) -> None:
        self._place = place
        self._log = log
        self._told = told
        self._ended = threading.Event()
        self._counter: threading.Thread | None = None

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._counter is not None:
            self._counter.join()

    def heard(self, line: str) -> None:
        self._log.write(line)
        self._log.flush()
        if found := UNPACKING.match(line):
            names = [name.strip() for name in found[1].split(",")]
            self._counter = threading.Thread(target=self._count, args=(names,), daemon=True)
            self._counter.start()
            return
        for pattern, words in LINES:
            if found := pattern.match(line):
                self._told(words.format(found[1]))
                return

    def _count(self, names: list[str]) -> None:
        """pip unpacks in the order in which it lists them."""
        before, last = distributions.count(self._place.site), -1
        while not self._ended.is_set():
            done = min(max(0, distributions.count(self._place.site) - before), len(names) - 1)
            if done != last:
                last = done
                self._told(f"unpacking {names[done]} ({done + 1} of {len(names)})")
            self._ended.wait(COUNT_S)


def _sweep(place: Environment) -> None:
    """Remove builds that were killed, unless somebody holds their lock."""
    for folder in place.folder.parent.iterdir():
        other = Environment(folder)
        if folder == place.folder or not folder.is_dir() or other.marker.exists():
            continue
        with suppress(OSError), _if_free(other):
            if not other.marker.exists():
                shutil.rmtree(folder)


@contextmanager
def _if_free(place: Venv) -> Iterator[None]:
    """Hold its lock. Raises BlockingIOError if somebody else does."""
    lock = os.open(place.lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)
