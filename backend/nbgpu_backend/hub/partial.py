"""One file of the hub, resumed where a killed fetch left it.

huggingface_hub gives every attempt a new temporary file and drops it on failure, so that a killed
fetch of a 5 GB shard begins anew. Here the partial file has a stable name beside the blob that it
becomes, is locked by the process that writes it, and is checked by its SHA-256 when it was resumed.
It runs on hosts, too, with Python 3.10 or newer.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    name: str  # in the repository
    size: int  # bytes
    blob: str  # what the cache calls it: the SHA-256 of an LFS file, else its git id
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Blob:
    """Where a file lies in the cache, finished or not."""

    path: Path

    @property
    def partial(self) -> Path:
        return self.path.with_name(f"{self.path.name}.nbgpu.incomplete")

    def cached(self, size: int) -> int:
        """Bytes of `size` that need not be fetched again."""
        if self.path.exists():
            return size
        try:
            return min(self.partial.stat().st_size, size)
        except OSError:
            return 0


class CorruptFile(OSError):
    """A resumed file whose checksum is wrong; it has been removed."""


def fetch(
    url: str,
    file: RemoteFile,
    blob: Blob,
    headers: dict[str, str],
    on_bytes: Callable[[int], None],
) -> None:
    """Complete `blob`. `on_bytes` takes how many bytes of the file are there, whenever it changes.

    Raises huggingface_hub's errors, OSError (disk) and CorruptFile.
    """
    from huggingface_hub.file_download import http_get

    blob.path.parent.mkdir(parents=True, exist_ok=True)
    with blob.partial.open("ab", buffering=0) as opened:
        _lock(opened, lambda: on_bytes(blob.cached(file.size)))
        if blob.path.exists():  # the holder before us has finished the file
            if not _same(opened, blob.path):  # and we made a new partial one
                blob.partial.unlink(missing_ok=True)
            on_bytes(file.size)
            return
        there = os.fstat(opened.fileno()).st_size
        if there > file.size:
            opened.truncate(file.size)
            there = file.size
        on_bytes(there)
        if there < file.size:
            http_get(
                url,
                _Counted(opened, on_bytes),
                resume_size=there,
                headers=headers,
                expected_size=file.size,
            )
        if there and file.sha256 and _sha256(blob.partial) != file.sha256:
            blob.partial.unlink()
            raise CorruptFile(f"{file.name} did not arrive intact.")
        blob.partial.replace(blob.path)


def _lock(opened: BinaryIO, waiting: Callable[[], None]) -> None:
    """Two endpoints may want the same model: one fetches it, the other looks on."""
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            time.sleep(0.2)
        else:
            return


def _same(opened: BinaryIO, path: Path) -> bool:
    return os.path.samestat(os.fstat(opened.fileno()), path.stat())


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            found.update(block)
    return found.hexdigest()


class _Counted:
    """What http_get needs of a file; tells how much of it is there."""

    def __init__(self, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._there = os.fstat(file.fileno()).st_size

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:  # an unbuffered file may take less than all
            taken = self._file.write(view)
            view = view[taken:]
            self._there += taken
        self._on_bytes(self._there)
        return len(data)

    def tell(self) -> int:
        return self._there

    def seek(self, position: int) -> int:
        return position  # the file appends: truncate decides where it goes on

    def truncate(self, size: int | None = None) -> int:
        """http_get comes back to the file's start when a server ignores its range."""
        self._there = size or 0
        self._file.truncate(self._there)
        self._on_bytes(self._there)
        return self._there
