"""What pods run in: NBGPU_ENGINES/pods/KEY, shared by all pods with the same requirements, and on top of it
a small environment of each pod's own, into which `%pip install` goes.

KEY is that of the requirements and the Python version. A pod sees the shared one through a .pth file, and
cannot write it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nbgpu_backend.environments.pip import Pip, trouble
from nbgpu_backend.environments.pip_failures import cause
from nbgpu_backend.environments.pip_venv import PipVenv, Watch, sweep
from nbgpu_backend.environments.venv import Report, build_once
from nbgpu_backend.errors import BadRequest, EngineMissing, NbgpuError
from nbgpu_backend.home import Home

LAYOUT = "1"
KERNEL = "ipykernel>=6.29,<8"
PTH = "nbgpu-shared.pth"
OURS = re.compile(r"ipykernel(?![\w-])", re.IGNORECASE)


def check(lines: Sequence[str]) -> tuple[str, ...]:
    """Lines as pip takes them, without comments. Raises BadRequest for what cannot be shared."""
    found = []
    for raw in lines:
        line = re.sub(r"(?:^|\s+)#.*$", "", raw).strip()
        if not line:
            continue
        if "\n" in line or line.startswith(
            ("-r", "--requirement", "-c", "--constraint", "-e", "--editable")
        ):
            raise BadRequest(
                f"A pod cannot be made from the line '{line}'.",
                "Write packages by name, as in: pandas==2.3.1",
            )
        target = line.partition(" @ ")[2] or line
        if target.startswith((".", "/", "~", "file:")):
            raise BadRequest(
                f"A pod cannot see the path in '{line}'.",
                "Put the files into the pod with `nbgpu put`, and install them there with %pip.",
            )
        found.append(line)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class PodEnvironment(PipVenv):
    @classmethod
    def of(cls, home: Home, requirements: Sequence[str]) -> PodEnvironment:
        python = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
        text = "\n".join([LAYOUT, python, KERNEL, *requirements])
        return cls(home.engines / "pods" / hashlib.sha256(text.encode()).hexdigest()[:16])


def install(home: Home, requirements: Sequence[str], told: Report) -> PodEnvironment:
    """Build the shared one, or return at once if it is there. Blocks. Raises EngineMissing, DiskError."""
    place = PodEnvironment.of(home, requirements)
    if not place.complete:
        place.marker.unlink(missing_ok=True)
        build_once(place, lambda lock: _build(place, requirements, lock, told), told)
    return place


def _build(
    place: PodEnvironment, requirements: Sequence[str], lock: int, told: Report
) -> dict[str, Any]:
    began = time.monotonic()
    sweep(place)
    try:
        told("an empty environment")
        venv.EnvBuilder(with_pip=True, symlinks=True).create(place.folder)
        lines = [] if any(OURS.match(line) for line in requirements) else [KERNEL]
        listed = place.folder / "requirements.txt"
        listed.write_text("".join(f"{line}\n" for line in [*lines, *requirements]))
        with place.log.open("w") as log, Watch(place, log, told) as watch:
            pip = Pip(
                place.python,
                lock=lock,
                heard=watch.heard,
                failed=lambda tail: _failure(tail, place),
            )
            pip.install("--requirement", str(listed))
    except Exception:
        shutil.rmtree(place.folder, ignore_errors=True)
        raise
    return {
        "engine": "pod",
        "requirements": list(requirements),
        "builtAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "buildSeconds": round(time.monotonic() - began, 1),
    }


def _failure(tail: list[str], place: PodEnvironment) -> NbgpuError:
    if found := trouble(tail, "the pod's environment", "about 200 MB"):
        return found
    return EngineMissing(
        f"The pod's environment could not be installed: {cause(tail)}.",
        f"Correct the requirements, then open it again. All that pip said: {place.log}",
        code="environment",
    )


def own(shared: PodEnvironment, folder: Path, inside: str) -> None:
    """The pod's own environment in `folder`, which it calls `inside`; what was installed there stays.

    Its interpreter is that of `shared`: another Python makes it anew.
    """
    base = Path(os.path.realpath(shared.python)).parent
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    site = folder / "lib" / f"python{version}" / "site-packages"
    config = "\n".join(
        [f"home = {base}", "include-system-site-packages = false", f"version = {version}", ""]
    )
    settings = folder / "pyvenv.cfg"
    if not settings.is_file() or settings.read_text() != config:
        shutil.rmtree(folder, ignore_errors=True)
        site.mkdir(parents=True)
        (folder / "bin").mkdir()
        python = os.path.realpath(shared.python)
        for name in ("python", "python3", f"python{version}"):
            (folder / "bin" / name).symlink_to(python)
        _script(folder / "bin" / "pip", f"{inside}/bin/python", "pip")
        settings.write_text(config)
    (site / PTH).write_text(f"{shared.site}\n")


def _script(path: Path, python: str, module: str) -> None:
    path.write_text(f'#!/bin/sh\nexec "{python}" -m {module} "$@"\n')
    path.chmod(0o755)
