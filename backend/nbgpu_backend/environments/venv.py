"""A virtual environment of an engine: built once, in place, whoever asks first.

NBGPU_ENGINES/…/NAME/    the environment
    .complete            written last; without it the folder is a build that did not end
    engine.json          what is known of it
NBGPU_ENGINES/…/.NAME.lock   held by who builds it, and by its pip
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.errors import DiskError

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Venv:
    """One environment, finished or not. It cannot be moved: its scripts hold its path."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def marker(self) -> Path:
        return self.folder / ".complete"

    @property
    def lock(self) -> Path:
        """Beside the folder, because a rebuild empties the folder."""
        return self.folder.with_name(f".{self.folder.name}.lock")

    @property
    def complete(self) -> bool:
        return self.marker.is_file()


def build_once(place: Venv, fill: Callable[[int], Mapping[str, Any]], report: Report) -> None:
    """Build `place` unless it is there; another process that builds it is waited for.

    `fill` makes the environment and returns what engine.json shall say. It gets the descriptor of
    the lock, for its children to inherit: one that outlives its parent still holds it. Raises
    DiskError, and what `fill` raises.
    """
    engines = place.folder.parent
    try:
        engines.mkdir(parents=True, exist_ok=True)
        with _locked(place, report) as lock:
            if place.complete:  # built while this one waited
                return
            if place.folder.exists():
                report(f"removing a build that did not end: {place.folder}")
                shutil.rmtree(place.folder)
            facts = fill(lock)
            (place.folder / "engine.json").write_text(json.dumps(facts, indent=1) + "\n")
            _write_last(place.marker)
    except OSError as error:
        raise DiskError(
            f"{engines} cannot be written: {error.strerror or error}.",
            "Free some space, or set NBGPU_ENGINES to a folder that you can write.",
        ) from error


@contextmanager
def _locked(place: Venv, report: Report) -> Iterator[int]:
    """Hold the build lock; yields its descriptor. Waits for another build to end."""
    lock = os.open(place.lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is building it: waiting for that")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _write_last(marker: Path) -> None:
    """The marker counts only if all before it is on disk."""
    os.sync()
    with marker.open("w") as file:
        file.write("complete\n")
        file.flush()
        os.fsync(file.fileno())
