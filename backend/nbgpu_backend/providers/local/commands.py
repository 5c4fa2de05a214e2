"""Short questions to programs of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

TAIL = 200
LINE = 1 << 20  # bytes of one, at most


@dataclass(frozen=True, slots=True)
class Answer:
    """`code` is None where it did not end in time or could not be started; `error` says so, or is the last
    line of what it said on its standard error, without a full stop."""

    code: int | None
    text: str
    error: str


async def ask(*argv: str, within_s: float) -> Answer:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return Answer(None, "", str(error.strerror or error))
    try:
        out, err = await asyncio.wait_for(process.communicate(), within_s)
    except TimeoutError:
        return Answer(None, "", f"it did not answer within {within_s:.0f} s")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    lines = [line for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
    said = (lines[-1].strip() if lines else f"exit code {process.returncode}").rstrip(".")
    return Answer(process.returncode, out.decode("utf-8", "replace"), said)


async def follow(
    *argv: str, heard: Callable[[str], None], given: bytes | None = None
) -> tuple[int, list[str]]:
    """Run it to its end. -> (exit code, its last lines); `heard` gets each line of either stream.

    `given` goes to its standard input, which stays open until then. Cancelling kills it and what it
    started. Raises OSError where it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=LINE,
        start_new_session=True,
    )
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=TAIL)
    try:
        if process.stdin is not None:
            process.stdin.write(given or b"")
            with suppress(ConnectionError):  # it ended before it read: its lines say why
                await process.stdin.drain()
        async for raw in process.stdout:
            line = raw.decode("utf-8", "replace").rstrip()
            tail.append(line)
            heard(line)
        return await process.wait(), list(tail)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
