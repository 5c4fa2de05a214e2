"""Raw bytes between a local socket and a direct-tcpip channel: a thread for each direction."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

CHUNK = 1 << 17


async def pump(local: socket.socket, channel: Any) -> None:
    """Return when both directions have ended, or the link has. Closes both ends."""
    loop = asyncio.get_running_loop()
    done = [loop.create_future() for _ in range(2)]
    local.setblocking(True)
    channel.settimeout(None)

    def here_to_there() -> None:
        with suppress(Exception):
            while data := local.recv(CHUNK):
                channel.sendall(data)
        with suppress(Exception):
            channel.shutdown_write()
        tell(done[0])

    def there_to_here() -> None:
        with suppress(Exception):
            while data := channel.recv(CHUNK):
                local.sendall(data)
        # after a mere end of file the other direction lives on
        half = channel.eof_received and not channel.closed
        with suppress(OSError):
            local.shutdown(socket.SHUT_WR if half else socket.SHUT_RDWR)
        tell(done[1])

    def tell(future: asyncio.Future[None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end, future)

    def end(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)

    for work in (here_to_there, there_to_here):
        threading.Thread(target=work, daemon=True, name="port").start()
    try:
        await asyncio.gather(*done)
    finally:
        with suppress(OSError):
            local.shutdown(socket.SHUT_RDWR)
        local.close()
        with suppress(Exception):
            channel.close()
