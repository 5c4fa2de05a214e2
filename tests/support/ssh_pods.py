"""A backend with hosts that are reached over a real SSH server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nbgpu_backend

from tests.support.pods import PodBackend
from tests.support.sshd import Sshd, write_settings


def code() -> dict[str, str]:
    """What is copied to a host."""
    package = Path(nbgpu_backend.__file__).parent
    files = [p for p in (package / "pod").glob("*.py") if p.name != "__init__.py"]
    files += [package / "schema" / "parcel.py", package / "providers" / "ssh" / "room.py"]
    return {path.name: str(path) for path in files}


def add_host(backend: PodBackend, server: Sshd, name: str = "lab1") -> None:
    """As if it had been added and its key accepted; before the backend starts."""
    settings = replace(server.settings(), name=name, code=code())
    write_settings(backend.home.hosts, settings)
