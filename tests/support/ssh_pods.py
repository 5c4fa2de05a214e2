"""A backend with hosts that are reached over a real SSH server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nbgpu_backend.control.hosts import code

from tests.support.backend import BackendProcess
from tests.support.sshd import Sshd, write_settings


def add_host(backend: BackendProcess, server: Sshd, name: str = "lab1") -> None:
    """As if it had been added and its key accepted; before the backend starts."""
    settings = replace(server.settings(), name=name, code=code())
    write_settings(backend.home.hosts, settings)


def share_engines(server: Sshd, folder: Path) -> None:
    """Environments of pods there are those of this test run: building one takes ten seconds."""
    server.nbgpu.mkdir(mode=0o700)
    (server.nbgpu / "engines").symlink_to(folder)
