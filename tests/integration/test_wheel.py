"""The wheel, in a clean environment on a machine without Node."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.backend import CLONE

BUILT = CLONE / "extension" / "nbgpu_lab" / "labextension" / "package.json"


def run(*argv: str | Path, path: str | None = None) -> str:
    environment = {**os.environ, "PATH": path} if path else None
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_brings_the_panel_to_a_machine_without_node(tmp_path: Path) -> None:
    if not BUILT.exists():
        pytest.skip("the front end is not built: run `make front-end` where npm is")
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, CLONE
    )
    (wheel,) = tmp_path.glob("nbgpu-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(n.endswith("nbgpu_backend/shim.py") for n in names)
    assert any(n.endswith("nbgpu/verbs.json") for n in names)
    assert any(n.endswith("migrations/state/versions/0001_first.py") for n in names)
    assert any(n.endswith("share/jupyter/labextensions/nbgpu/package.json") for n in names)
    assert not any("nbgpu_lab/labextension" in n for n in names)  # once is enough
    assert not any("tests/" in n or n.endswith(".tsx") for n in names)
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=True)
    python, without_node = clean / "bin/python", f"{clean}/bin:/bin"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, path=without_node)
    # what it depends on is what this environment has; its own nbgpu is not on the path of a .pth
    (site,) = clean.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert "No broken requirements" in run(python, "-m", "pip", "check", path=without_node)
    assert str(site) in run(python, "-c", "import nbgpu; print(nbgpu.__file__)", path=without_node)
    front = run(python, "-m", "jupyterlab.labextensions", "list", path=without_node)
    assert "nbgpu v0.1.0" in front and "enabled" in front and "OK" in front
    server = run(python, "-m", "jupyter_server.extension.serverextension", "list", path=without_node)  # fmt: skip
    assert "nbgpu_lab enabled" in server and "nbgpu_lab 0.1.0 OK" in server
    assert "0.1.0" in run(clean / "bin/nbgpu", "--version", path=without_node)
