"""Child processes for what must not hold up the event loop: one JSON object in, JSON lines out.

The child leads a process group of its own and ends with all of it, when its lines are no longer
read and when its parent dies (see childside.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from typing import Any


async def lines(module: str, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """Run `python -m module` with `request` on its stdin; its stdout's JSON objects, one by one.

    Closing the generator ends the child. One that dies yields no further line and raises nothing:
    the caller knows which line it is missing.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(os.environ),
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        # stdin stays open: its end ends the child
        await process.stdin.drain()
        async for raw in process.stdout:
            yield json.loads(raw)
    except ConnectionError:
        return  # the child died before it read
    finally:
        process.stdin.close()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
