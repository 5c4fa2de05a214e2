"""The files of a user's program: what is looked at before a deploy, and what is copied to a host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PASSED_OVER = frozenset({"__pycache__", "node_modules", "site-packages", "venv", "env"})


def code_files(folder: Path, most: int) -> Iterator[os.DirEntry[str]]:
    """What is no folder, nearest first, by name. Hidden ones and environments are left out, links to
    folders are not followed, and no more than `most` entries are looked at. Blocks."""
    looked, level = 0, [folder]
    while level:
        below: list[Path] = []
        for here in level:
            for entry in entries(here):
                looked += 1
                if looked > most:
                    return
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir(follow_symlinks=False):
                    yield entry
                elif entry.name not in PASSED_OVER and not Path(entry.path, "pyvenv.cfg").exists():
                    below.append(Path(entry.path))
        level = below


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """By name; [] where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError:
        return []
