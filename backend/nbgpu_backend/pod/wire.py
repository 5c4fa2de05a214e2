"""One connection of the agent's socket: JSON lines, and raw bytes between them."""

from __future__ import annotations

import asyncio
import json
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

    Json = Dict[str, Any]

LINE_LIMIT = 64 << 20  # a cell may be long
CHUNK = 256 << 10


class Refusal(Exception):
    """What the client is told: `kind` is bad_request, not_found, conflict, refused, io, kernel,
    too_large or closing; `more` goes beside it."""

    def __init__(self, kind: str, text: str, **more: Any) -> None:
        super().__init__(text)
        self.kind, self.more = kind, more


def io_refusal(error: OSError, path: str) -> Refusal:
    """An error of the file system as a sentence."""
    kind = "not_found" if isinstance(error, FileNotFoundError) else "io"
    return Refusal(kind, "%s: %s" % (path, error.strerror or error))


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.rest = b""

    async def read(self, limit: int = CHUNK) -> bytes:
        """At most `limit` bytes; b"" at the end."""
        if self.rest:
            data, self.rest = self.rest[:limit], self.rest[limit:]
            return data
        return await self.reader.read(limit)

    async def line(self) -> bytes:
        """A line with its end; b"" when there is none any more. Raises Refusal for one too long."""
        parts, total = [], 0
        while True:
            data = await self.read()
            end = data.find(b"\n") + 1
            if end:
                parts.append(data[:end])
                self.rest = data[end:] + self.rest
                return b"".join(parts)
            if not data:
                return b"".join(parts)
            parts.append(data)
            total += len(data)
            if total > LINE_LIMIT:
                raise Refusal("too_large", "a request has at most %d MB" % (LINE_LIMIT >> 20))

    async def request(self) -> Json:
        """The next line as an object, {} at the end."""
        line = await self.line()
        if not line:
            return {}
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise Refusal("bad_request", "a request is one JSON object on a line")
        return value

    async def discard(self) -> None:
        while await self.read():
            pass

    async def send(self, data: bytes) -> None:
        """Returns once little of it waits: a client that does not read costs no memory."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, value: Json) -> None:
        """With the clock that its instants are of."""
        value = dict(value, now_us=time.time_ns() // 1000)
        await self.send(json.dumps(value, separators=(",", ":")).encode() + b"\n")
