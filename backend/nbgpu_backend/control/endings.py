"""How a worker ended, in one sentence."""

from __future__ import annotations

import signal

from nbgpu_backend.engines.base import Engine
from nbgpu_backend.providers.base import Exit

HINTS = {
    signal.SIGKILL: " (killed, perhaps for lack of memory)",
    signal.SIGTERM: " (asked to end)",
    signal.SIGSEGV: " (crashed)",
    signal.SIGILL: " (illegal instruction)",
    signal.SIGBUS: " (crashed, perhaps /dev/shm is full)",
}


def certain(engine: Engine, ended: Exit) -> bool:
    """Would it end the same way again? The engine said why, or it never came to run."""
    return ended.reason in ("launch", "fault") or bool(engine.explain(ended.tail))


def words(engine: Engine, ended: Exit) -> str:
    """Of an end that nobody asked for; no full stop."""
    if explained := engine.explain(ended.tail):
        return explained.rstrip(".")
    if ended.reason in ("launch", "fault", "no_capacity"):
        return (ended.tail[0] if ended.tail else "it could not be launched").rstrip(".")
    if ended.signal is not None:
        return (
            f"it was killed by signal {ended.signal}{HINTS.get(signal.Signals(ended.signal), '')}"
        )
    if ended.reason == "lost":
        return "its process is gone, and nothing says why (its parent was killed, or the machine restarted)"
    if ended.reason == "lease":
        return "its lease ran out while no backend was there"
    last = next((line for line in reversed(ended.tail) if line.strip()), "")
    return f"it ended by itself with exit code {ended.code}" + (f": {last[:200]}" if last else "")
