"""A virtual environment that pip fills, with a log of all that pip said beside it, and what is told of it
while that goes on.

A folder of such environments holds KEY/, KEY.log and .KEY.lock (see venv.py).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nbgpu_backend.environments import distributions
from nbgpu_backend.environments.venv import Report, Venv

COUNT_S = 0.25  # between looks at how many packages are there
LINES = (
    (re.compile(r"\s*Collecting (\S+?)(?=[<>=!~;\[(@ ]|$)"), "collecting {}"),
    (re.compile(r"\s*(?:Downloading|Processing) (?:\S*/)?([^\s/-]+)"), "fetching {}"),
    (re.compile(r"\s*Building wheels? for (?:collected packages: )?([\w.-]+)"), "building {}"),
)
UNPACKING = re.compile(r"Installing collected packages: (.+)")


@dataclass(frozen=True, slots=True)
class PipVenv(Venv):
    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def site(self) -> Path:
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return self.folder / "lib" / python / "site-packages"

    @property
    def complete(self) -> bool:
        """Not, either, when the Python that it was made with is gone."""
        return self.marker.is_file() and self.python.exists()


class Watch:
    """Makes progress of pip's lines; while pip unpacks in silence, of the packages that are there."""

    def __init__(self, place: PipVenv, log: IO[str], told: Report) -> None:
        self._place = place
        self._log = log
        self._told = told
        self._ended = threading.Event()
        self._counter: threading.Thread | None = None

    def __enter__(self) -> Watch:
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


def sweep(place: PipVenv) -> None:
    """Remove builds beside it that were killed, unless somebody holds their lock."""
    for folder in place.folder.parent.iterdir():
        other = PipVenv(folder)
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
