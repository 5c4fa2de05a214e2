"""Looks at handlers and builds their environments, in child processes: both are too long for the
event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend import errors
from nbgpu_backend.children import lines
from nbgpu_backend.engines.handler.environment import Environment
from nbgpu_backend.errors import NbgpuError, UpstreamError
from nbgpu_backend.home import Home


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler's file that has been looked at. `ready`: its environment is there."""

    path: Path
    revision: str
    bytes: int
    ready: bool


class Builder:
    def __init__(self, home: Home) -> None:
        self._home = home

    async def look(self, file: str, cwd: Path) -> Handler:
        """Check the file as typed, and its folder. Raises NotFound and BadRequest, each a sentence."""
        asked = {"do": "look", "file": file, "cwd": str(cwd)}
        async with aclosing(self._child(asked)) as told:
            async for line in told:
                return Handler(Path(line["path"]), line["revision"], line["bytes"], line["ready"])
        raise UpstreamError(f"The look at {file} ended without an answer.", "Try again.")

    def ready(self, path: Path) -> bool:
        """Whether the environment is there, as the requirements beside the handler read now."""
        try:
            return Environment.beside(self._home, path).complete
        except NbgpuError:
            return False  # building it says what is wrong

    async def build(
        self, path: Path, on_progress: Callable[[str], None] = lambda text: None
    ) -> Path:
        """Build the environment of the handler at `path`; returns its folder.

        `on_progress` gets a few words on what is done just now.

        Cancelling ends pip and all that it started; nothing half-made is ever used. Raises
        BadRequest (the requirements), EngineMissing (pip) or DiskError.
        """
        async with aclosing(self._child({"do": "build", "path": str(path)})) as told:
            async for line in told:
                if line["kind"] == "done":
                    return Path(line["environment"])
                on_progress(line["text"])
        raise UpstreamError(
            f"Building the environment of {path} ended without a result.", "Try again."
        )

    async def _child(self, asked: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        request = {**asked, "home": str(self._home.root)}
        async with aclosing(lines("nbgpu_backend.engines.handler.child", request)) as told:
            async for line in told:
                if line["kind"] == "error":
                    kind: type[NbgpuError] = getattr(errors, line["error"])
                    raise kind(line["what"], line["next"], code=line["code"])
                yield line
