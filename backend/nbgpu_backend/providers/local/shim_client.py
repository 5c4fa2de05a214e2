"""One question to a shim (or a parent): a connection of its own, one line there, one line back."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

ANSWER_S = 5.0  # a shim answers in milliseconds, unless it is stopped or the machine is drowning


class NoAnswer(Exception):
    """The shim is dead, is about to be, or is stopped. The lock tells which."""


class Late(NoAnswer):
    """It was asked and did not answer in time: it may yet do what it was asked for."""


async def ask(folder: Path, request: dict[str, Any], timeout_s: float | None) -> dict[str, Any]:
    """The answer of whoever listens on `folder`/sock. Raises NoAnswer, and nothing else."""
    try:
        async with asyncio.timeout(timeout_s):
            line = await _exchange(folder, json.dumps(request).encode() + b"\n")
        answer = json.loads(line)
    except TimeoutError as error:
        raise Late(str(error)) from None
    except (OSError, ValueError) as error:
        raise NoAnswer(str(error)) from None
    if not isinstance(answer, dict):
        raise NoAnswer("an answer that is no object")
    return answer


async def _exchange(place: Path, line: bytes) -> bytes:
    folder = os.open(place, os.O_PATH | os.O_DIRECTORY)
    try:
        # the path of a socket has 107 bytes at most, a folder's any number
        path = f"/proc/self/fd/{folder}/sock"
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    finally:
        os.close(folder)
    try:
        writer.write(line)
        await writer.drain()
        return await reader.readline()  # b"" when it went: no JSON
    finally:
        writer.close()


class ShimClient:
    """`folder` is the instance's. Raises NoAnswer, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def status(self) -> dict[str, Any]:
        """state.json with lease_s (seconds left), stopping (a reason, or None) and paused."""
        return await ask(self._folder, {"op": "status"}, ANSWER_S)

    async def renew(self, ttl_s: float, until_us: int | None) -> bool:
        """False when the instance is already ending."""
        request = {"op": "renew", "ttl_s": ttl_s, "until_us": until_us}
        return "error" not in await ask(self._folder, request, ANSWER_S)

    async def pause(self, stop: bool, oom_score_adj: int) -> bool:
        """Stop the process group, or let it go on. False when the instance is already ending."""
        request = {"op": "pause" if stop else "resume", "oom_score_adj": oom_score_adj}
        return "error" not in await ask(self._folder, request, ANSWER_S)

    async def stop(self, grace_s: float) -> dict[str, Any]:
        """The exit record, when no process is left."""
        return await ask(self._folder, {"op": "stop", "grace_s": grace_s}, None)

    async def wait(self) -> dict[str, Any]:
        """The exit record, when no process is left."""
        return await ask(self._folder, {"op": "wait"}, None)
