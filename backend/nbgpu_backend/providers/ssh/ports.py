"""Raw bytes between a local socket and a direct-tcpip channel: a thread for each direction.

Of what comes from there, most needs neither: see Shortcut.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

CHUNK = 1 << 17
COUNTED = 1 << 16  # bytes that took the shortcut before the other end is told to send more


class Shortcut:
    """Gives what arrives to the socket in the transport's own thread, as long as the socket takes it.

    To wake a thread for each small packet, as streams of tokens are, costs more than the rest of its
    way. What the socket does not take waits in the channel's buffer as ever, and all that follows
    behind it. The channel counts what is read from it, and opens its window by that: for bytes that
    took the shortcut as many blank ones are put there, for the reading thread to drop. It alone may
    send, since the transport's thread must not wait.
    """

    def __init__(self, channel: Any, local: socket.socket) -> None:
        self._local = local
        self._buffer = channel.in_buffer
        self._append = self._buffer.feed
        self._guard = threading.Lock()
        self._behind = True  # until the thread has sent what had come before
        self._called = self._over = False
        self._uncounted = self._blank = 0
        self._buffer.feed = self._feed

    def _feed(self, data: bytes) -> None:
        """In place of the buffer's own."""
        with self._guard:
            self._called = True
            if not self._behind:
                sent = self._send(data)
                self._uncounted += sent
                if self._uncounted >= COUNTED:
                    self._append(bytes(self._uncounted))
                    self._blank += self._uncounted
                    self._uncounted = 0
                data = data[sent:]
                self._behind = bool(data)
            if data:
                self._append(data)

    def _send(self, data: bytes) -> int:
        try:
            return self._local.send(data, socket.MSG_DONTWAIT)
        except OSError:  # it is full, or gone: that is for the thread to find
            return 0

    def real(self, data: bytes) -> bytes:
        """What was read, without the blank bytes that it begins with."""
        with self._guard:
            blank = min(self._blank, len(data))
            self._blank -= blank
        return data[blank:]

    def sent(self) -> None:
        """All that was read is sent."""
        with self._guard:
            # a call of the buffer's own feed() may be under way until ours has been called
            if self._called and not self._over and len(self._buffer) == self._blank:
                self._behind = False

    def close(self) -> None:
        """Before the socket is closed: its number may be another's at once."""
        with self._guard:
            self._behind = self._over = True


async def pump(local: socket.socket, channel: Any) -> None:
    """Return when both directions have ended, or the link has. Closes both ends."""
    loop = asyncio.get_running_loop()
    done = [loop.create_future() for _ in range(2)]
    local.setblocking(True)
    channel.settimeout(None)
    shortcut = Shortcut(channel, local)

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
                local.sendall(shortcut.real(data))
                shortcut.sent()
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
        shortcut.close()
        with suppress(OSError):
            local.shutdown(socket.SHUT_RDWR)
        local.close()
        with suppress(Exception):
            channel.close()
