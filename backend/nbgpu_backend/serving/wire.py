"""HTTP/1.1 to the workers, for the data path: a pool of connections over asyncio's transports and the
parser of httptools. It does what a gateway needs and nothing else, at a fifth of a general client's cost.

A request is one write. The answer's head comes as a future, its body in pieces as they arrive, with
reading paused while nobody takes them. A connection that breaks raises ConnectionError; it is never tried
again here, since only the gateway knows what that would mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools

# vLLM's server closes an idle connection after 5 s; ours goes first, so that none is used while it dies.
KEEPALIVE_S = 4.0
CONNECT_S = 10.0
PAUSE_BYTES = 1 << 20  # of a body that nobody takes
IDLE_MAX = 256  # connections kept to one worker


class Broken(ConnectionError):
    """The worker closed the connection, or said what is no HTTP."""


class Answer:
    """One answer. `head` resolves to it once status and headers are there."""

    __slots__ = (
        "_connection",
        "_done",
        "_error",
        "_parts",
        "_size",
        "_waiter",
        "headers",
        "status",
    )

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}  # names in lower case
        self._connection: _Connection | None = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._done = False
        self._error: Broken | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def content_type(self) -> str:
        return self.headers.get(b"content-type", b"application/json").decode("latin-1")

    def more(self) -> asyncio.Future[None] | None:
        """A future that resolves when there is something to `take`; None: there is now."""
        if self._parts or self._done or self._error is not None:
            return None
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def take(self) -> bytes:
        """What has arrived; b"" at the end. Raises Broken where the body ended before its end."""
        if not self._parts:
            if self._error is not None:
                raise self._error
            return b""
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if self._size > PAUSE_BYTES and self._connection is not None:
            self._connection.transport.resume_reading()
        self._size = 0
        return data

    def close(self) -> None:
        """Nobody wants the rest: the connection goes with it, unless it has come to its end."""
        if self._connection is not None and not self._done:
            self._connection.transport.abort()
            self._connection = None

    # from the connection

    def _arrived(self, data: bytes) -> None:
        self._parts.append(data)
        before, self._size = self._size, self._size + len(data)
        if before <= PAUSE_BYTES < self._size and self._connection is not None:
            self._connection.transport.pause_reading()

    def _ended(self, error: Broken | None) -> None:
        self._done, self._error = error is None, error
        self._connection = None

    def _tell(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class _Connection(asyncio.Protocol):
    __slots__ = ("_head", "_pool", "answer", "parser", "transport", "used")

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._head: asyncio.Future[Answer] | None = None
        self.answer: Answer | None = None
        self.used = 0.0

    def ask(self, request: bytes, head: asyncio.Future[Answer]) -> None:
        self.answer, self._head = Answer(self), head
        self.parser = httptools.HttpResponseParser(self)
        head.add_done_callback(self._given_up)
        self.transport.write(request)

    def _given_up(self, head: asyncio.Future[Answer]) -> None:
        if head.cancelled():
            self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None:  # it speaks unasked
            self.transport.abort()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lose(Broken(f"the worker's answer is no HTTP: {error}"))
            self.transport.abort()
        answer._tell()

    def eof_received(self) -> None:
        return None  # the transport closes; connection_lost tells the rest

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.lost(self)
        if self.answer is not None and self._by_end() and self._head is None:
            self._finish(reusable=False)  # an answer whose end is the connection's
        else:
            self._lose(Broken(str(error) if error else "the worker closed the connection"))

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self.answer is not None
        self.answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        answer, head = self.answer, self._head
        assert answer is not None
        answer.status = self.parser.get_status_code()
        if answer.status < 200:  # 100 Continue, 103 Early Hints: the answer follows
            answer.headers.clear()
            return
        self._head = None
        if head is not None and not head.done():
            head.set_result(answer)

    def on_body(self, data: bytes) -> None:
        assert self.answer is not None
        self.answer._arrived(data)

    def on_message_complete(self) -> None:
        if self.answer is not None and self.answer.status >= 200:
            self._finish(reusable=bool(self.parser.should_keep_alive()))

    def _by_end(self) -> bool:
        assert self.answer is not None
        headers = self.answer.headers
        return b"content-length" not in headers and b"transfer-encoding" not in headers

    def _finish(self, *, reusable: bool) -> None:
        answer, self.answer = self.answer, None
        assert answer is not None
        answer._ended(None)
        answer._tell()
        if reusable and not self.transport.is_closing():
            self._pool.free(self)
        else:
            self.transport.close()

    def _lose(self, error: Broken) -> None:
        answer, self.answer = self.answer, None
        head, self._head = self._head, None
        if head is not None and not head.done():
            head.set_exception(error)
        if answer is not None:
            answer._ended(error)
            answer._tell()


class _Pool:
    """The idle connections to one worker, the last used first."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._idle: list[_Connection] = []

    def get(self) -> _Connection | None:
        oldest = self._now() - KEEPALIVE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.used >= oldest and not connection.transport.is_closing():
                return connection
            connection.transport.close()
        return None

    def free(self, connection: _Connection) -> None:
        connection.used = self._now()
        if len(self._idle) < IDLE_MAX:
            self._idle.append(connection)
        else:
            connection.transport.close()

    def lost(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def close_old(self) -> None:
        """Close those that are too old to be used."""
        oldest = self._now() - KEEPALIVE_S
        for connection in [c for c in self._idle if c.used < oldest]:
            self._idle.remove(connection)
            connection.transport.close()

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()
        self._idle = []


class Wire:
    """Of one event loop. `post` returns at once; nothing is connected before it is needed."""

    def __init__(self) -> None:
        self._pools: dict[int, _Pool] = {}
        self._sweeping = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def post(self, port: int, head: bytes, body: bytes) -> asyncio.Future[Answer]:
        """Send to 127.0.0.1:`port`. `head` is the request line and all headers but Content-Length, each
        line with its end. The future raises ConnectionError or TimeoutError."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        request = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        pool = self._pools.get(port)
        if pool is None:
            pool = self._pools[port] = _Pool(loop.time)
        if (connection := pool.get()) is not None:
            connection.ask(request, answer)
        else:
            task = loop.create_task(_connect(pool, port, request, answer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(KEEPALIVE_S, self._sweep)
        return answer

    def _sweep(self) -> None:
        self._sweeping = False  # the next request asks for the next one
        for pool in self._pools.values():
            pool.close_old()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


async def _connect(pool: _Pool, port: int, request: bytes, answer: asyncio.Future[Answer]) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, made = await loop.create_connection(lambda: _Connection(pool), "127.0.0.1", port)
    except (OSError, TimeoutError) as error:
        if not answer.done():
            answer.set_exception(Broken(str(error) or "the worker takes no connection"))
        return
    if answer.done():  # given up meanwhile
        made.transport.close()
    else:
        made.ask(request, answer)
