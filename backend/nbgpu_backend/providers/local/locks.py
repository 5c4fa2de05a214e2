"""The lock that proves a life: probed, and held while its finder looks or cleans up."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nbgpu_backend.errors import DiskError


@contextmanager
def probe(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock if it is free; the life of its shim (or parent) is what it proves."""
    try:
        fd = os.open(folder / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        yield True  # the folder went; the caller looks again
        return
    except OSError as error:
        raise DiskError(
            f"{folder / 'lock'} cannot be opened: {error.strerror}.",
            "See that NBGPU_HOME is yours, and that its disk is neither full nor broken.",
        ) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                raise
            yield False
        else:
            yield True
    finally:
        os.close(fd)
