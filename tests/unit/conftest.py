"""One way to start each part of the faces: a stand-in backend, a shell, a command line."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api, started


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A running stand-in, which is this process's installation."""
    monkeypatch.setenv("NBGPU_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with started(tmp_path / "home") as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fresh IPython with the extension loaded."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from IPython.core.interactiveshell import InteractiveShell
    from nbgpu import completion

    InteractiveShell.clear_instance()
    made = InteractiveShell.instance()
    made.run_line_magic("load_ext", "nbgpu")
    completion._cache.clear()
    yield made
    made.atexit_operations()  # now, while its folder is there
    atexit.unregister(made.atexit_operations)
    InteractiveShell.clear_instance()


@pytest.fixture
def nbgpu(api: Api) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`nbgpu("ls", "--json")` on a command line of its own."""

    def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        return subprocess.run(
            [sys.executable, "-m", "nbgpu", *words], text=True, capture_output=True, timeout=60,
            env=dict(os.environ), check=False, **options,
        )  # fmt: skip

    return run
