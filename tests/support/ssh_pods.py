"""A backend with hosts that are reached over a real SSH server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbgpu_backend
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


def build_engines(folder: Path) -> Path:
    """One environment of pods, as a host makes it: a host in a network of its own reaches no package index."""
    folder.mkdir(exist_ok=True)
    room = Path(nbgpu_backend.__file__).parent / "providers" / "ssh" / "room.py"
    wanted = {"do": "make", "pod": "none", "volume": "none", "inside": "", "requirements": []}
    done = subprocess.run(
        [sys.executable, str(room)], env={**os.environ, "HOME": str(folder)}, capture_output=True,
        input=json.dumps(wanted), text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["kind"] == "done", done.stdout
    return folder / ".nbgpu" / "engines"
