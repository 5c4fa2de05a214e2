"""Kernel specs of the pods that run: NBGPU_HOME/kernels/NAME/kernel.json, which Jupyter's kernel picker shows.

The format is that of Jupyter's kernel specs; the kernel is not started by its argv but by the provisioner
`nbgpu-pod`, which asks this backend.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

PREFIX = "nbgpu-"
PROVISIONER = "nbgpu-pod"


def spec_name(pod: str) -> str:
    return PREFIX + pod


class KernelSpecs:
    """`folder` holds one folder for each. A disk that cannot be written costs the picker's entry only."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        self._home = home

    def add(self, pod: str, hardware: str) -> None:
        spec = {
            "argv": [],
            "display_name": f"Python 3 · {pod} ({hardware})",
            "language": "python",
            "interrupt_mode": "signal",
            "metadata": {
                "debugger": True,
                "kernel_provisioner": {
                    "provisioner_name": PROVISIONER,
                    "config": {"pod": pod, "home": str(self._home)},
                },
            },
        }
        place = self._folder / spec_name(pod)
        fresh = place / f".kernel.json.{os.getpid()}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(spec, indent=1, ensure_ascii=False))
            fresh.rename(place / "kernel.json")
        except OSError as error:
            log.warning("%s has no entry in the kernel picker: %s", pod, error)

    def remove(self, pod: str) -> None:
        shutil.rmtree(self._folder / spec_name(pod), ignore_errors=True)

    def keep_only(self, pods: Iterable[str]) -> None:
        """Those of pods that ended while no backend was there go."""
        kept = {spec_name(pod) for pod in pods}
        if self._folder.is_dir():
            for place in self._folder.iterdir():
                if place.name not in kept:
                    shutil.rmtree(place, ignore_errors=True)
