"""A handler's folder, and a stand-in for the runpod package that installs in a moment."""

from __future__ import annotations

from pathlib import Path

from nbgpu_backend.engines.handler.sdk import VERSION

from tests.support.wheels import wheel

HANDLER = """import runpod

def handler(job):
    return job["input"]

runpod.serverless.start({"handler": handler})
"""
# a wheel that unpacks in a moment, and a name that says whether it came
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


def sdk_wheel(folder: Path) -> None:
    wheel(folder, "runpod", VERSION, SDK, ["small-need>=1"])
    wheel(folder, "small-need", "1.0", {"small_need/__init__.py": "", "tests/__init__.py": ""})
