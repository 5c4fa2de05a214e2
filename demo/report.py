"""What the demo measured, as a short table."""

from __future__ import annotations

from statistics import median
from typing import Any

from demo.notebook import Executed


def report(client: Any, endpoint: str, done: Executed) -> str:
    """Of the requests of this run: the cold one by phase, the warm ones, the money, what to type next."""
    deployed = done.began_first("%gpu deploy")
    table = client.frame("requests", endpoint, since_us=int(deployed * 1e6))
    cold = table[table["cold"]].iloc[0]
    warm = table[~table["cold"]]
    first = cold["arrived"].timestamp() + cold["first_byte_ms"] / 1000
    rows = [("deploy to first token", f"{first - deployed:.1f} s")]
    rows += [(f"  cold start: {name}", f"{ms / 1000:.1f} s") for name, ms in cold["phases"].items()]
    rows += [
        ("first token after the worker is ready", _ms(cold["first_byte_ms"] - cold["queue_ms"])),
        (f"warm, first token (median of {len(warm)})", _ms(median(warm["first_byte_ms"]))),
        (f"warm, whole answer (median of {len(warm)})", _ms(median(warm["total_ms"]))),
        ("tokens of those answers", str(int(warm["tokens_out"].sum()))),
        ("cost of this endpoint so far", f"${client.endpoint(endpoint).data.nbgpu.cost_so_far}"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name.ljust(width)}   {value}" for name, value in rows]
    return "\n".join(
        [
            *lines,
            "",
            "Type next (with .venv/bin in PATH and this NBGPU_HOME set):",
            f"  nbgpu ask {endpoint} 'Tell me a joke'    the worker wakes up for it",
            "  nbgpu status                         what runs, and what it costs",
            f"  nbgpu delete {endpoint}",
        ]
    )


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"
