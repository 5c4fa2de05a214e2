"""What is copied to a host: the files of a folder here, and the name that they have there together."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

from nbgpu_backend.domain.supplies import Need
from nbgpu_backend.domain.weight_files import needed
from nbgpu_backend.errors import BadRequest, NotFound
from nbgpu_backend.folders import code_files

MOST_FILES = 2000
MOST_CODE = 256 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Cargo:
    """`files`: (relative name, bytes, mtime in ns). Another size or time is another cargo."""

    folder: Path
    files: tuple[tuple[str, int, int], ...]

    @property
    def bytes(self) -> int:
        return sum(size for _, size, _ in self.files)

    @property
    def key(self) -> str:
        return hashlib.sha256(repr(self.files).encode()).hexdigest()[:16]


def of(need: Need) -> Cargo | None:
    """None where nothing is copied. Looks at every file, and reads none. Raises NotFound, BadRequest."""
    if need.folder is None:
        return None
    if not need.folder.is_dir():
        raise NotFound(f"There is no folder {need.folder}.", "Deploy it from where it is now.")
    return _weights(need.folder) if need.source == "directory" else _code(need.folder)


def pack(cargo: Cargo, archive: Path) -> None:
    """Raises OSError."""
    with tarfile.open(archive, "w") as tar:
        for name, _, _ in cargo.files:
            tar.add(cargo.folder / name, arcname=name, recursive=False)


def _weights(folder: Path) -> Cargo:
    """The files that an engine loads."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = [str(path) for path in found if not any(part.startswith(".") for part in path.parts)]
    return _cargo(folder, needed(names) or sorted(names))


def _code(folder: Path) -> Cargo:
    """All but hidden files and environments."""
    names = []
    for entry in code_files(folder, MOST_FILES * 10):
        if entry.is_file():
            names.append(str(Path(entry.path).relative_to(folder)))
        if len(names) > MOST_FILES:
            raise BadRequest(
                f"{folder} has more than {MOST_FILES} files, and all of it is copied to the host.",
                "Put the program into a folder of its own.",
            )
    cargo = _cargo(folder, sorted(names))
    if cargo.bytes > MOST_CODE:
        largest = max(cargo.files, key=lambda file: file[1])
        raise BadRequest(
            f"{folder} has {cargo.bytes / 1e6:.0f} MB, and at most {MOST_CODE / 1e6:.0f} MB of code are "
            f"copied to a host; the largest file is {largest[0]} ({largest[1] / 1e6:.0f} MB).",
            "Move data elsewhere, or let the program fetch it.",
        )
    return cargo


def _cargo(folder: Path, names: list[str]) -> Cargo:
    files = []
    for name in names:
        seen = (folder / name).stat()
        files.append((name, seen.st_size, seen.st_mtime_ns))
    return Cargo(folder, tuple(files))
