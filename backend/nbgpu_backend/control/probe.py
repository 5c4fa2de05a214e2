"""Is a worker well? One question, asked of its /health."""

from __future__ import annotations

import socket

import aiohttp

SLEEP = aiohttp.ClientTimeout(total=30)  # gigabytes move between GPU and host


async def healthy(session: aiohttp.ClientSession, port: int, timeout_s: float) -> bool:
    """Whether it answers 200 in time. A refused connection, any other status and silence are no."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with session.get(f"http://127.0.0.1:{port}/health", timeout=timeout) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


async def put_to_sleep(session: aiohttp.ClientSession, port: int, key: str | None) -> bool:
    """vLLM's sleep mode, level 1: the weights go to the host's memory. False where it does not."""
    return await _post(session, port, "/sleep?level=1", key)


async def wake_up(session: aiohttp.ClientSession, port: int, key: str | None) -> bool:
    return await _post(session, port, "/wake_up", key)


async def sleeping(session: aiohttp.ClientSession, port: int, key: str | None) -> bool:
    url, headers = f"http://127.0.0.1:{port}/is_sleeping", _bearer(key)
    try:
        async with session.get(url, headers=headers, timeout=SLEEP) as answer:
            return answer.status == 200 and bool((await answer.json()).get("is_sleeping"))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False


async def _post(session: aiohttp.ClientSession, port: int, path: str, key: str | None) -> bool:
    url, headers = f"http://127.0.0.1:{port}{path}", _bearer(key)
    try:
        async with session.post(url, headers=headers, timeout=SLEEP) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
