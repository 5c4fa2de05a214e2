"""Where the environment of a handler lies: NBGPU_ENGINES/handlers/KEY (see environments/venv.py).

KEY is that of its requirements. Beside it, KEY.log holds all that pip said in the last build. The
engine.json of a finished one gives the SDK's version (`runpod`), the lines it was made of
(`requirements`) and the names of the modules that came with the SDK (`modules`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.engines.handler import requirements
from nbgpu_backend.engines.handler.requirements import Requirements
from nbgpu_backend.environments.pip_venv import PipVenv
from nbgpu_backend.home import Home


@dataclass(frozen=True, slots=True)
class Environment(PipVenv):
    """One environment, finished or not."""

    @classmethod
    def of(cls, home: Home, wanted: Requirements) -> Environment:
        return cls(home.engines / "handlers" / wanted.key)

    @classmethod
    def beside(cls, home: Home, handler: Path) -> Environment:
        """That of a handler's file, as its requirements read now. Raises BadRequest."""
        return cls.of(home, requirements.read(handler.parent))

    def facts(self) -> dict[str, Any]:
        """engine.json; empty where there is none yet."""
        try:
            found: dict[str, Any] = json.loads((self.folder / "engine.json").read_text())
        except (OSError, ValueError):
            return {}
        return found
