"""Is a worker well? One question, asked of its /health."""

from __future__ import annotations

import socket

import aiohttp


async def healthy(session: aiohttp.ClientSession, port: int, timeout_s: float) -> bool:
    """Whether it answers 200 in time. A refused connection, any other status and silence are no."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with session.get(f"http://127.0.0.1:{port}/health", timeout=timeout) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
