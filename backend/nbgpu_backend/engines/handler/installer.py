"""Build the environment of a handler: an empty one, then what its requirements say, by pip.

Blocking: builder.py runs it in a child process.
"""

from __future__ import annotations

import shutil
import time
import venv
from pathlib import Path
from typing import IO, Any

from nbgpu_backend.engines.handler.environment import Environment
from nbgpu_backend.engines.handler.pip_failures import failure
from nbgpu_backend.engines.handler.requirements import Requirements
from nbgpu_backend.environments import distributions
from nbgpu_backend.environments.pip import Pip
from nbgpu_backend.environments.pip_venv import Watch, sweep
from nbgpu_backend.environments.venv import Report, build_once
from nbgpu_backend.errors import EngineMissing
from nbgpu_backend.home import Home


def install(home: Home, wanted: Requirements, folder: Path, told: Report) -> Environment:
    """Build the environment, or return at once if it is there.

    `folder` is the handler's, for the words of a failure; `told` gets a few words on what is done. Raises DiskError, or EngineMissing with
    the requirement that failed and pip's last words.
    """
    place = Environment.of(home, wanted)
    if not place.complete:
        place.marker.unlink(missing_ok=True)  # finished once, and its Python is gone
        build_once(
            place,
            lambda lock: _build(place, wanted, folder, lock, told),
            told,
        )
    return place


def _build(
    place: Environment, wanted: Requirements, folder: Path, lock: int, told: Report
) -> dict[str, Any]:
    began = time.monotonic()
    sweep(place)
    try:
        with place.log.open("w") as log:
            version = _fill(place, wanted, folder, lock, log, told)
    except Exception:
        # other requirements make another environment: nobody would come back for this one
        shutil.rmtree(place.folder, ignore_errors=True)
        raise
    return {
        "engine": "handler",
        "runpod": version,
        "requirements": list(wanted.lines),
        "modules": distributions.modules(place.site, "runpod"),
        "builtAt": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "buildSeconds": round(time.monotonic() - began, 1),
    }


def _fill(
    place: Environment, wanted: Requirements, folder: Path, lock: int, log: IO[str], told: Report
) -> str:
    """Returns the version of the SDK that came."""
    told("an empty environment")
    venv.EnvBuilder(with_pip=True, symlinks=True).create(place.folder)
    listed = place.folder / "requirements.txt"
    listed.write_text("".join(f"{line}\n" for line in wanted.lines))
    arguments = ["--requirement", str(listed)]
    if wanted.constraints:
        limits = place.folder / "constraints.txt"
        limits.write_text("".join(f"{line}\n" for line in wanted.constraints))
        arguments += ["--constraint", str(limits)]
    with Watch(place, log, told) as watch:
        pip = Pip(
            place.python,
            lock=lock,
            heard=watch.heard,
            failed=lambda tail: failure(tail, wanted, folder, place.log),
        )
        pip.install(*arguments)
    version = distributions.version(place.site, "runpod")
    if version is None:
        raise EngineMissing(
            f"The requirements in {folder} name runpod, but not for this Python and machine.",
            "Correct the condition behind its `;`, then deploy again.",
            code="environment",
        )
    return version
