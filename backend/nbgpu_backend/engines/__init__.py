"""How workers are started and spoken to.

    base.py     what an engine is
    vllm/       vLLM's CPU edition
    handler/    a Python file that calls runpod.serverless.start
    command/    any OpenAI-compatible server, by its command line

An engine turns a WorkerSpec into a command line and a complete environment, checks the user's
options before anything starts, and reads its own logs. It starts nothing itself: providers do.
"""

from __future__ import annotations

from nbgpu_backend.engines.base import Engine
from nbgpu_backend.errors import NotFound
from nbgpu_backend.home import Home

NAMES = ("vllm", "handler", "command")


def engine(name: str, home: Home) -> Engine:
    """The engine called `name`. Raises NotFound naming those that exist."""
    if name == "vllm":
        from nbgpu_backend.engines.vllm.engine import VllmEngine

        return VllmEngine(home)
    if name == "handler":
        from nbgpu_backend.engines.handler.engine import HandlerEngine

        return HandlerEngine(home)
    if name == "command":
        from nbgpu_backend.engines.command.engine import CommandEngine

        return CommandEngine(home)
    raise NotFound(
        f"There is no engine {name!r}.", f"There are {', '.join(NAMES[:-1])} and {NAMES[-1]}."
    )
