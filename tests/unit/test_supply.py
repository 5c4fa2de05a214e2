"""What is copied to a host for supply.py is all that it imports there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from nbgpu_backend.control.hosts import code


def test_the_modules_that_are_copied_import_nothing_that_is_not(tmp_path: Path) -> None:
    names = []
    for name, path in code().items():
        if name.startswith("lib/"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / name)
            names.append(name.removeprefix("lib/"))
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in names
        if name.endswith(".py")
    ]
    assert "nbgpu_backend.engines.vllm.installer" in modules
    program = f"import sys; sys.path.insert(0, {str(tmp_path / 'lib')!r})\n"
    program += "".join(f"import {module}\n" for module in modules)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
