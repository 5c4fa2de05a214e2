"""The front: uvicorn's HTTP protocol with the limits that it lacks.

What a client may cost before anything is known about it is bounded here, for all routes:

    a request's head         64 KiB, 128 lines, 20 s from its first byte; a connection that says nothing, 60 s
    a request's body         60 s without a byte, unless we are the ones who do not read
    chunk headers, trailers  64 KiB without a byte of the body between
    connections              half of the open files that the process may have; beyond, the one that has been
                             idle the longest goes

Of a request that might be read in two ways (a second Host, a length beside chunks, bare line feeds …) there
is no forwarding: httptools refuses most of them, and the rest is refused here. Trailers are dropped; uvicorn
would add them to the headers.
"""

from __future__ import annotations

import asyncio
import enum
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from nbgpu_backend.serving.exchange import WHOLE

HEAD_LIMIT = 64 << 10
HEADER_LINES = 128
QUIET_S, HEAD_S, BODY_S = 60.0, 20.0, 60.0
# websockets reads the head of a handshake once more, with limits of its own
SOCKET_LINE = 8000

FEW = 256  # connections are allowed in any case


class Phase(enum.Enum):
    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    WHOLE = enum.auto()


class Crowd:
    """The connections without a request, the longest idle first."""

    def __init__(self, limit: int) -> None:
        self.limit = max(FEW, limit)
        self._idle: dict[Front, None] = {}

    def idle(self, connection: Front) -> None:
        self._idle.pop(connection, None)
        self._idle[connection] = None

    def busy(self, connection: Front) -> None:
        self._idle.pop(connection, None)

    def make_room(self, count: int) -> None:
        if count > self.limit and self._idle:
            oldest = next(iter(self._idle))
            self.busy(oldest)
            oldest.transport.abort()


class Cork:
    """A transport that gathers what is written."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def out(self) -> None:
        if self._parts:
            self._transport.writelines(self._parts)
            self._parts = []

    def close(self) -> None:
        self.out()
        self._transport.close()


class Cycle(RequestResponseCycle):
    """The head of a whole answer goes out with its body, in one call of the system instead of two."""

    _head: Any = None

    async def send(self, message: Any) -> None:
        if WHOLE in message:
            self._head = message
        elif self._head is None:
            await super().send(message)
        else:
            head, self._head = self._head, None
            transport, cork = self.transport, Cork(self.transport)
            self.transport = cast(asyncio.Transport, cork)
            try:
                await super().send(head)
                await super().send(message)
            finally:
                self.transport = transport
                cork.out()


class Front(HttpToolsProtocol):
    crowd: ClassVar[Crowd]

    _phase = Phase.IDLE
    _due = 0.0  # of the loop's time; 0: nothing is waited for
    _timer: asyncio.TimerHandle | None = None
    _head = 0  # bytes of the head so far
    _stray = 0  # bytes since the last one that was of use
    _fresh = False  # the head began, or a byte of the body came, with what was received last
    _verdict: tuple[int, str] | None = None

    # --- connection -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.crowd.idle(self)
        self.crowd.make_room(len(self.connections))
        self._expect(QUIET_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        self.crowd.busy(self)
        self._due = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._fresh = False
        super().data_received(data)
        if self.parser is None or self.transport.is_closing() or self._phase is Phase.WHOLE:
            return
        self._stray = 0 if self._fresh else self._stray + len(data)
        if self._stray > HEAD_LIMIT:
            what = "headers are" if self._phase is Phase.HEAD else "request is"
            self._refuse(431, f"The {what} too large.")
        elif self._phase is Phase.BODY:
            self._due = self.loop.time() + BODY_S
        elif not self._due or (self._phase is Phase.HEAD and self._fresh):
            self._expect(HEAD_S)

    # --- what httptools finds -----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase, self._fresh, self._head, self._stray = Phase.HEAD, True, 0, 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is not Phase.HEAD:
            return  # a trailer
        self._count(len(name) + len(value) + 4)
        if len(self.headers) >= HEADER_LINES:
            self._object(431, "There are too many headers.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._object(400, "A request has one Host.")
        self._phase, self._stray = Phase.BODY, 0
        self._expect(BODY_S)
        self.crowd.busy(self)
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.__class__ = Cycle  # uvicorn makes its own, and has no setting for it

    def on_body(self, body: bytes) -> None:
        self._fresh = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase, self._due = Phase.WHOLE, 0.0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self.crowd.idle(self)

    def handle_websocket_upgrade(self) -> None:
        if any(len(name) + len(value) > SOCKET_LINE for name, value in self.headers):
            self._refuse(431, "A header is too large for a websocket.")
            return
        self._leave()
        super().handle_websocket_upgrade()

    # --- refusals -----------------------------------------------------------------------------------

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_LIMIT:
            self._object(431, "The headers are too large.")

    def _object(self, status: int, text: str) -> None:
        """Inside of the parser: it ends with `send_400_response`."""
        self._verdict = (status, text)
        raise ValueError(text)

    def send_400_response(self, msg: str) -> None:
        self._refuse(*(self._verdict or (400, msg)))

    def _refuse(self, status: int, text: str) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            body = text.encode()
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
                + b"content-length: %d\r\n\r\n" % len(body)
                + body
            )
        self._due = 0.0
        self.transport.close()

    # --- time ---------------------------------------------------------------------------------------

    def _expect(self, seconds: float) -> None:
        """Something within so long. The timer is left to run where it comes sooner."""
        self._due = self.loop.time() + seconds
        if self._timer is None:
            self._timer = self.loop.call_at(self._due, self._look)
        elif self._timer.when() > self._due + 1:
            self._timer.cancel()
            self._timer = self.loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._due or self.transport.is_closing():
            return
        left = self._due - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
        elif self._phase is Phase.BODY and self._is_ours():
            self._expect(BODY_S)
        elif self._phase is Phase.IDLE:
            self.transport.close()
        else:
            self._refuse(408, "The request did not come in time.")

    def _is_ours(self) -> bool:
        """The body does not come because nobody reads it, or because we have not asked for it."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue


def front(open_files: int) -> type[Front]:
    """The protocol of one server, in a process that may have so many files open."""
    found: dict[str, Any] = {"crowd": Crowd(open_files // 2)}
    return type("ThisFront", (Front,), found)
