"""The environment that is made in an image: what is there is seen, what is lacking installed or said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import nbgpu_backend

from tests.support.wheels import index, wheel

FURNISH = Path(nbgpu_backend.__file__).parent / "pod" / "furnish.py"
KERNEL = "ipykernel>=6.29,<8"


def furnish(python: str, place: Path, **asked: Any) -> list[dict[str, Any]]:
    """Its lines; its input stays open until it ends."""
    given = {"venv": str(place), "kernel": KERNEL, "requirements": [], "env": {}, "whole": "1"}
    process = subprocess.Popen(
        [python, str(FURNISH)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        process.stdin.write(json.dumps({**given, **asked}) + "\n")
        process.stdin.flush()
        return [json.loads(line) for line in process.stdout]


def printed(place: Path, code: str) -> str:
    argv = [str(place / "bin" / "python"), "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_what_the_image_has_is_seen_and_nothing_is_installed(tmp_path: Path) -> None:
    """This Python is that of an environment, too, as in many an image."""
    place = tmp_path / "venv"
    assert furnish(sys.executable, place) == [{"done": True}]
    assert printed(place, "import ipykernel, sys; print(sys.prefix)") == f"{place}\n"
    assert (place / "furnished").read_text() == "1"


def test_what_it_lacks_is_installed_and_stays(tmp_path: Path) -> None:
    place = tmp_path / "venv"
    wheel(tmp_path / "nbgpu-tiny", "nbgpu-tiny", "1.0", {"nbgpu_tiny.py": "SIZE = 3"})
    with index(tmp_path) as url:
        nothing_else = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": url}
        wanted = {"requirements": ["nbgpu-tiny"], "env": nothing_else}
        assert furnish(sys.executable, place, **wanted)[-1] == {"done": True}
        said = furnish(sys.executable, place, **{**wanted, "requirements": ["nbgpu-none"]})
    assert said[-1] == {"failed": True} and any(
        "nbgpu-none" in line.get("pip", "") for line in said
    )
    assert furnish(sys.executable, place) == [{"done": True}]
    assert printed(place, "import nbgpu_tiny; print(nbgpu_tiny.SIZE)") == "3\n"


def test_a_python_without_pip_says_so(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True, with_pip=False)
    (line,) = furnish(str(tmp_path / "bare" / "bin" / "python"), tmp_path / "venv")
    assert line["refused"] == f"its Python has no pip to install {KERNEL} with"


def test_it_ends_with_its_input(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(FURNISH)], input="", timeout=20, check=False)
    assert done.returncode == 1
