"""Secrets: a file that only its owner reads, beside the databases. Values go into pods and nowhere else."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from nbgpu_backend.errors import BadRequest, DiskError, NotFound

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


@dataclass(frozen=True, slots=True)
class Stored:
    value: str
    changed_us: int


class Secrets:
    """Read at every use, so that nothing is held; written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> dict[str, Stored]:
        """Raises DiskError where the file cannot be read."""
        try:
            data = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise DiskError(
                f"{self._path} cannot be read: {error}.", "Mend or remove that file."
            ) from None
        return {name: Stored(row["value"], row["changed_us"]) for name, row in data.items()}

    def put(self, name: str, value: str, now_us: int) -> Stored:
        """Raises BadRequest, DiskError."""
        if not NAME.fullmatch(name):
            raise BadRequest(
                f"'{name}' is no name for a variable.", "Use letters, digits and _, as in HF_TOKEN."
            )
        if "\0" in value:
            raise BadRequest("A secret cannot hold a zero byte.", "Store it as text.")
        stored = Stored(value, now_us)
        self._write({**self.all(), name: stored})
        return stored

    def remove(self, name: str) -> None:
        """Raises NotFound, DiskError."""
        found = self.all()
        if name not in found:
            raise unknown(name)
        del found[name]
        self._write(found)

    def _write(self, found: dict[str, Stored]) -> None:
        text = json.dumps(
            {n: {"value": s.value, "changed_us": s.changed_us} for n, s in found.items()}
        )
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self._path)
        except OSError as error:
            raise DiskError(
                f"{self._path} cannot be written: {error.strerror}.", "Free some space on its disk."
            ) from None
        finally:
            fresh.unlink(missing_ok=True)


def unknown(name: str) -> NotFound:
    return NotFound(
        f"There is no secret '{name}'.", f"Store it with: nbgpu secret add {name}", code="no_secret"
    )
