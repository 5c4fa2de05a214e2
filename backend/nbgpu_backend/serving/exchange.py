"""The client's side of one request: its body, its going away, and what was sent to it so far."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from nbgpu_backend.errors import NbgpuError, PayloadTooLarge
from nbgpu_backend.serving.problems import openai_body, openai_error
from nbgpu_backend.serving.stream import comment, event

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

ORIGIN_LIMIT = 1024
BODY_LIMIT = 20 * 1024 * 1024
WATCH_S = 0.02
GIVE_UP = 256 * 1024 * 1024  # a client that sends more is cut off
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
WHOLE = "nbgpu.whole"  # of a start: its body follows at once (front.Cycle)
TRACE_HEADERS = (b"traceparent", b"tracestate")


class ClientGone(Exception):
    """The client closed its connection."""


class Exchange:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.extra: list[tuple[bytes, bytes]] = []  # headers of the answer, whatever it will be
        self._raw: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._send = send
        self._watcher: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self.committed = False  # the status line is out
        self.gone = False

    async def body(self, limit: int = BODY_LIMIT) -> bytes:
        """At most `limit` bytes. Raises PayloadTooLarge, ClientGone."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size <= limit:
                parts.append(part)
            else:
                parts.clear()  # read to its end all the same, or the client would not hear the answer
            if size > max(limit, GIVE_UP) or (size > limit and not message.get("more_body")):
                raise _too_large(limit)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def client(self) -> str:
        """Whom the queue is fair to: the origin as it was sent, "" where the client names none."""
        return self.headers.get(b"x-nbgpu-origin", b"")[:ORIGIN_LIMIT].decode("latin-1")

    def origin(self) -> dict[str, str]:
        """notebook, session: form-encoded in one header."""
        return dict(parse_qsl(self.client))

    def trace(self) -> list[tuple[bytes, bytes]]:
        """The headers of W3C Trace Context as they came; `tracestate` may come several times."""
        if b"traceparent" not in self.headers and b"tracestate" not in self.headers:
            return []
        return [(n, value) for n, value in self._raw if n in TRACE_HEADERS and value.isascii()]

    def watch(self) -> None:
        """From now on, the client's going away cancels the task that calls this."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        async def until_gone(task: asyncio.Task[Any]) -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.gone = True
            task.cancel()

        def begin() -> None:
            self._watcher = loop.create_task(until_gone(task))

        # most answers are out before it would be of use
        self._watcher = loop.call_later(WATCH_S, begin)

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.committed = True
        if self.extra:
            headers = [*headers, *self.extra]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(
        self, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """A whole answer (JSON unless the headers say otherwise)."""
        headers = headers or [(b"content-type", b"application/json")]
        headers = [*headers, (b"content-length", b"%d" % len(body)), *self.extra]
        self.committed = True
        await self._send(
            {"type": "http.response.start", "status": status, "headers": headers, WHOLE: True}
        )
        await self.send(body, more=False)

    async def beat(self, text: str) -> None:
        """A comment line; the first one commits the answer to 200."""
        if not self.committed:
            await self.start(200, STREAM_HEADERS)
        await self.send(comment(text))

    async def fail(self, error: NbgpuError) -> None:
        """In OpenAI's shape: as the answer, or as an error event where the answer has begun."""
        if self.committed:
            await self.send(event(openai_error(error)), more=False)
            return
        headers = [(b"content-type", b"application/json")]
        if (after := getattr(error, "retry_after_s", None)) is not None:
            headers.append((b"retry-after", str(after).encode()))
        await self.answer(error.status, openai_body(error), headers)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The request's body is larger than {limit // 1_000_000} MB.", "Send less in one request."
    )
