"""A client of streams that sees the first byte and every read: raw sockets, the same for every peer.

Each connection asks again as soon as it has its answer, until the time is over; then it waits for the
answer that it still has to come, so that what was sent and what was answered can be compared exactly.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

from tests.bench.gateway.peers import Peer
from tests.support.fast_upstream import PIECES

MARK = b'"w'  # the beginning of a chunk's content
LAST = b"0\r\n\r\n"
DONE = b"data: [DONE]"
KNOWN = 64  # bodies that were found right: most gateways answer with the same bytes each time


@dataclass
class Heard:
    sent: int = 0
    answered: int = 0
    cut: int = 0  # not answered within the grace
    wrong: list[str] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)  # from the request to the first content
    total_ms: list[float] = field(default_factory=list)
    chunks: int = 0
    merged: int = 0  # chunks that came in one read with the one before
    seconds: float = 0.0


async def streams(
    peer: Peer,
    body: bytes,
    connections: int,
    seconds: float,
    *,
    spread_s: float = 0.0,
    grace_s: float,
) -> Heard:
    """Their beginnings are spread over `spread_s`, so that paced ones are not all in step."""
    heard = Heard()
    loop = asyncio.get_running_loop()
    request = (
        f"POST {peer.path} HTTP/1.1\r\nHost: 127.0.0.1:{peer.port}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {peer.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    known: set[bytes] = set()
    opened = [
        (
            await loop.create_connection(
                lambda: _Stream(heard, request, known), "127.0.0.1", peer.port
            )
        )[1]
        for _ in range(connections)
    ]
    began = time.perf_counter()
    for number, one in enumerate(opened):
        loop.call_later(spread_s * number / connections, one.begin, began + seconds)
    _, late = await asyncio.wait([one.ended for one in opened], timeout=seconds + grace_s)
    heard.seconds = max((one.last for one in opened), default=began) - began
    heard.cut = len(late)
    for one in opened:
        one.give_up()
    return heard


class _Stream(asyncio.Protocol):
    def __init__(self, heard: Heard, request: bytes, known: set[bytes]) -> None:
        self._heard = heard
        self._request = request
        self._known = known
        self._parts: list[bytes] = []
        self._tail = b""
        self._until = self._asked = 0.0
        self._first = True
        self._transport: asyncio.Transport | None = None
        self.last = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self, until: float) -> None:
        self._until = until
        self._ask()

    def give_up(self) -> None:
        self.ended.cancel()
        self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.ended.done():
            self._heard.wrong.append(f"the connection was closed: {error}")
            self.ended.set_result(None)

    def _ask(self) -> None:
        if self._transport is None:
            return
        self._heard.sent += 1
        self._parts, self._tail, self._first = [], b"", True
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._parts and data[9:12] != b"200":
            self._heard.wrong.append(data[:400].decode("utf-8", "replace"))
            self._close()
            if not self.ended.done():
                self.ended.set_result(None)
            return
        if (marks := data.count(MARK)) > 0:
            if self._first:
                self._first = False
                self._heard.first_ms.append((time.perf_counter() - self._asked) * 1000)
            self._heard.chunks += marks
            self._heard.merged += marks - 1
        self._parts.append(data)
        self._tail = (self._tail + data[-len(LAST) :])[-len(LAST) :]
        if self._tail == LAST:
            self._end()

    def _end(self) -> None:
        self.last = now = time.perf_counter()
        self._heard.answered += 1
        self._heard.total_ms.append((now - self._asked) * 1000)
        self._look(b"".join(self._parts))
        if now < self._until:
            self._ask()
        elif not self.ended.done():
            self.ended.set_result(None)

    def _look(self, answer: bytes) -> None:
        body = answer.partition(b"\r\n\r\n")[2]
        if body in self._known:
            return
        if not whole(body):
            self._heard.wrong.append(answer[:400].decode("utf-8", "replace"))
        elif len(self._known) < KNOWN:
            self._known.add(body)


def whole(body: bytes) -> bool:
    """All words in their order, and [DONE] last; `body` is in chunks of HTTP's."""
    parts, at = [], 0
    while (end := body.find(b"\r\n", at)) > 0:
        size = int(body[at:end], 16)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    text = b"".join(parts)
    at = 0
    for piece in PIECES:
        at = text.find(b'"' + piece.encode() + b'"', at) + 1
        if at <= 0:
            return False
    words = sum(text.count(b'"' + piece.encode() + b'"') for piece in PIECES)
    return words == len(PIECES) and text.rstrip().endswith(DONE)
