"""Is a worker well? One question, asked of its health path."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import aiohttp

from nbgpu_backend.errors import BadRequest
from nbgpu_backend.schema.endpoints import CreateEndpoint
from nbgpu_backend.serving.forwarding import WORKER_KEY

SLEEP = aiohttp.ClientTimeout(total=30)  # gigabytes move between GPU and host


DEFAULT_PATH = "/ping"


class Health(Enum):
    WELL = "well"
    INITIALISING = "initialising"  # 204, of a load balancer: on its way, not at fault
    SICK = "sick"  # any other answer
    SILENT = "silent"  # none in time: it may be busy, or gone


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What is asked. `balanced`: as RunPod's load balancer means the answers."""

    path: str = "/health"
    port_offset: int = 0  # from the worker's own port, where its health has another
    balanced: bool = False


def health_check(spec: CreateEndpoint) -> HealthCheck:
    """Raises BadRequest."""
    if spec.type != "LOAD_BALANCER":
        return HealthCheck()
    path = spec.env.get("HEALTH_CHECK_PATH") or DEFAULT_PATH
    if not path.startswith("/") or not path.isascii() or any(c.isspace() for c in path):
        raise BadRequest(
            f"HEALTH_CHECK_PATH cannot be {path!r}.",
            "It is a path, such as /ping.",
            code="bad_path",
        )
    apart = spec.env.get("PORT_HEALTH") not in (None, "", spec.env.get("PORT"))
    return HealthCheck(path, int(apart), balanced=True)


async def health(
    session: aiohttp.ClientSession, port: int, timeout_s: float, check: HealthCheck, key: str | None
) -> Health:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    """`port` is that of its health."""
    url = f"http://127.0.0.1:{port}{check.path}"
    headers = {WORKER_KEY: key} if check.balanced and key else None
    try:
        async with session.get(
            url, timeout=timeout, headers=headers, allow_redirects=not check.balanced
        ) as answer:
            if answer.status == 200:
                return Health.WELL
            initialising = check.balanced and answer.status == 204
            return Health.INITIALISING if initialising else Health.SICK
    except (aiohttp.ClientError, OSError, TimeoutError):
        return Health.SILENT


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
