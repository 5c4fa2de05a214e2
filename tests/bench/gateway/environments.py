"""The other gateways from PyPI, each in a virtual environment of its own beside the engines.

<NBGPU_ENGINES>/peers/<name>-<version>     pinned; `.complete` is written last
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbgpu_backend.environments.pip import Pip, last_error, trouble
from nbgpu_backend.environments.venv import Venv, build_once
from nbgpu_backend.errors import EngineMissing, NbgpuError
from nbgpu_backend.home import Home

VERSIONS = {"vllm-router": "0.1.17", "litellm": "1.106.12"}
LIST = """
import json
from importlib.metadata import distributions
print(json.dumps({found.name: found.version for found in distributions()}))
"""
EXTRAS = {"litellm": "[proxy]"}


def ensure(name: str) -> Path:
    """The folder of its programs; installed on the first call. Raises NbgpuError with the reason."""
    version = VERSIONS[name]
    place = Venv(Home.default().engines / "peers" / f"{name}-{version}")
    if not place.complete:
        build_once(place, lambda lock: _build(place, name, version, lock), _say)
    return place.folder / "bin"


def _build(place: Venv, name: str, version: str, lock: int) -> Mapping[str, Any]:
    _say(f"installing {name} {version} …")
    venv.EnvBuilder(with_pip=True, symlinks=True).create(place.folder)
    pip = Pip(place.python, lock=lock, failed=lambda tail: _failure(name, tail))
    pip.install(f"{name}{EXTRAS.get(name, '')}=={version}")
    said = subprocess.run([place.python, "-c", LIST], capture_output=True, text=True, check=True)
    return {"engine": name, "version": version, "packages": json.loads(said.stdout)}


def _failure(name: str, tail: list[str]) -> NbgpuError:
    return trouble(tail, name, "about 1 GB") or EngineMissing(
        f"pip could not install {name}: {last_error(tail)}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
