"""The client's side of a request that is passed on: its body, as the worker takes it, and its going away.

A little of the body is read ahead, so that the end of a client that waits for a worker is seen: whatever
fits into `AHEAD` bytes is taken, and then nothing more comes but the end of the connection. Of a longer
body no more is read until a worker takes it (the client feels the backpressure); its going away is seen
only then. A client that said Expect: 100-continue is asked for its body once the worker asks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from nbgpu_backend.serving.exchange import Receive

AHEAD = 64 << 10


class Intake:
    def __init__(self, receive: Receive, *, patient: bool) -> None:
        """`patient`: read nothing before somebody takes it."""
        self.gone = False
        self.begun = False  # a part of the body was given away
        self._receive = receive
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._whole = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        if not patient:
            self._room.set()

    def watch(self) -> None:
        """From now on, the client's going away cancels the task that calls this."""
        task = asyncio.current_task()
        assert task is not None
        self._reader = asyncio.create_task(self._read(task))

    def unwatch(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    async def parts(self) -> AsyncIterator[bytes]:
        """The body from its beginning; to be called again only while nothing has `begun`."""
        self._room.set()
        while True:
            while self._parts:
                part = self._parts.popleft()
                self._size -= len(part)
                self._room.set()
                self.begun = True
                yield part
            if self._whole:
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def _read(self, task: asyncio.Task[Any]) -> None:
        while True:
            await self._room.wait()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                task.cancel()
                return
            if self._whole:
                continue
            if part := message.get("body", b""):
                self._parts.append(part)
                self._size += len(part)
            self._whole = not message.get("more_body", False)
            if self._size >= AHEAD and not self._whole:
                self._room.clear()
            self._arrived.set()
