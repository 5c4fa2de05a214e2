"""A TCP port of the pod through the agent's socket: raw bytes both ways."""

from __future__ import annotations

import asyncio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict

    from nbgpu_backend.pod.files import whole
    from nbgpu_backend.pod.wire import CHUNK, Refusal, Wire

    Json = Dict[str, Any]
else:
    from files import whole
    from wire import CHUNK, Refusal, Wire

CONNECT_S = 10.0


async def forward(wire: Wire, request: Json, used: Callable[[], None]) -> None:
    """Until both ends have closed, or one is gone. Raises Refusal if nothing listens."""
    port = whole(request, "port")
    if not 1 <= port <= 65535:
        raise Refusal("bad_request", "a port is a number from 1 to 65535")
    there = None
    for host in ("127.0.0.1", "::1"):
        try:
            there = await asyncio.wait_for(
                asyncio.open_connection(host, port, limit=CHUNK), CONNECT_S
            )
            break
        except (OSError, asyncio.TimeoutError):
            continue
    if there is None:
        raise Refusal("refused", "nothing listens on port %d of the pod" % port)
    other = Wire(*there)
    used()
    loop = asyncio.get_running_loop()
    tasks = []
    try:
        await wire.answer({})
        tasks = [
            loop.create_task(pump(wire, other, used)),
            loop.create_task(pump(other, wire, used)),
        ]
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        other.writer.close()


async def pump(source: Wire, target: Wire, used: Callable[[], None]) -> None:
    while True:
        data = await source.read()
        if not data:
            break
        used()
        await target.send(data)
    if target.writer.can_write_eof():
        try:
            target.writer.write_eof()
        except OSError:
            pass  # it is gone
