"""state.json and exit.json as values. They are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.providers.base import Exit


@dataclass(frozen=True, slots=True)
class State:
    """What the shim wrote before the engine was exec'ed. `start` is in clock ticks since boot."""

    generation: int
    pid: int
    start: int
    shim: int
    boot_id: str
    pid_ns: str
    started_us: int
    meta: Mapping[str, object]

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> State:
        return cls(
            generation=int(data["generation"]),
            pid=int(data["pid"]),
            start=int(data["start"]),
            shim=int(data["shim"]),
            boot_id=str(data["boot_id"]),
            pid_ns=str(data["pid_ns"]),
            started_us=int(data["started_us"]),
            meta=dict(data.get("meta") or {}),
        )


def parse_exit(data: Mapping[str, Any]) -> Exit:
    """From exit.json, or the shim's answer at the end. What failed an exec ends the tail."""
    tail = [str(line) for line in data.get("tail") or ()]
    if data.get("error"):
        tail.append(str(data["error"]))
    return Exit(
        code=data["code"],
        signal=data["signal"],
        reason=str(data["reason"]),
        ended_us=int(data["ended_us"]),
        tail=tuple(tail),
        estimated=bool(data.get("estimated")),
    )


def read_state(folder: Path) -> State | None:
    data = _read(folder / "state.json")
    return State.parse(data) if data else None


def read_exit(folder: Path) -> Exit | None:
    data = _read(folder / "exit.json")
    return parse_exit(data) if data else None


def lost(folder: Path, now_us: int) -> Exit:
    """The record of an instance whose shim was killed: it lived at least until it last wrote."""
    seen = 0.0
    for name in ("state.json", "log"):
        with contextlib.suppress(OSError):
            seen = max(seen, (folder / name).stat().st_mtime)
    return Exit(
        code=None,
        signal=None,
        reason="lost",
        ended_us=min(now_us, int(seen * 1e6)) if seen else now_us,
        tail=tuple(line[:1000] for line in tail(folder / "log", 40)),
        estimated=True,
    )


def write_exit(folder: Path, ended: Exit) -> None:
    """Raises OSError, and then leaves nothing behind."""
    temporary = folder / f"exit.json.{os.getpid()}.tmp"
    try:
        temporary.touch(mode=0o600)
        with temporary.open("w") as file:
            json.dump(asdict(ended), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / "exit.json")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, decoded with replacement; [] when it is missing."""
    if lines <= 0:
        return []
    step, data = 64 * 1024, b""
    try:
        with path.open("rb") as file:
            start = file.seek(0, os.SEEK_END)
            while start > 0 and data.count(b"\n") <= lines:
                size = min(step, start)
                start = file.seek(start - size)
                data = file.read(size) + data
                step *= 2
    except OSError:
        return []
    return data.decode("utf-8", "replace").splitlines()[-lines:]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
