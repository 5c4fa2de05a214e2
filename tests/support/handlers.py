"""A handler's folder, and a stand-in for the runpod package that installs in a moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from nbgpu_backend.engines.handler.sdk import VERSION

from tests.support.wheels import pip_looks_only_in, wheel

HANDLER = """import runpod

def handler(job):
    return job["input"]

runpod.serverless.start({"handler": handler})
"""
SDK = {
    "runpod/__init__.py": "from . import serverless",
    "runpod/serverless.py": "def start(config): pass",
}


def handler_folder(folder: Path, requirements: str = "", source: str = HANDLER) -> Path:
    """Returns the path of handler.py in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.txt").write_text(requirements)
    (folder / "handler.py").write_text(source)
    return folder / "handler.py"


def tiny_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environments go below `folder`; pip finds the tiny SDK and what is added to the folder that
    is returned."""
    wheels = folder / "wheels"
    wheel(wheels, "runpod", VERSION, SDK, ["small-need>=1"])
    wheel(wheels, "small-need", "1.0", {"small_need/__init__.py": "", "tests/__init__.py": ""})
    pip_looks_only_in(wheels, monkeypatch)
    monkeypatch.setenv("NBGPU_ENGINES", str(folder / "engines"))
    return wheels
