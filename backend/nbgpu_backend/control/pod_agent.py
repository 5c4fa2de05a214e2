"""The backend's side of a pod's agent: one JSON line there, lines or bytes back (see pod/__init__.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from nbgpu_backend.errors import (
    BadRequest,
    Conflict,
    DiskError,
    NbgpuError,
    NotFound,
    PayloadTooLarge,
    Unavailable,
    UpstreamError,
)
from nbgpu_backend.providers.base import PodHost

ANSWER_S = 10.0
CHUNK = 1 << 20
STEADY_US = 5_000_000  # it may be the answer that is late
KINDS: Mapping[str, type[NbgpuError]] = {
    "bad_request": BadRequest,
    "not_found": NotFound,
    "conflict": Conflict,
    "io": DiskError,
    "too_large": PayloadTooLarge,
    "closing": Unavailable,
}


class Silent(Unavailable):
    """It does not answer: it starts, it ends, or the machine is drowning."""

    code = "agent_silent"


class Talk:
    """One connection, after its first line was answered with `head`."""

    def __init__(
        self, head: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.head = head
        self.reader = reader
        self.writer = writer

    async def chunks(self, size: int | None = None) -> AsyncIterator[bytes]:
        """What comes, until `size` bytes have. Raises UpstreamError where it ends early."""
        left = size
        while left is None or left > 0:
            got = await self.reader.read(CHUNK if left is None else min(CHUNK, left))
            if not got:
                if left:
                    raise UpstreamError("The pod broke off in the middle.", "Try again.")
                return
            left = None if left is None else left - len(got)
            yield got

    def close(self) -> None:
        self.writer.close()


class PodAgent:
    """Raises Silent where nobody answers, and what the agent's answer means."""

    def __init__(self, host: PodHost, pod_id: str, name: str, now: Callable[[], int]) -> None:
        self._host = host
        self._now = now
        self._pod = pod_id
        self._name = name

    async def ask(self, op: str, *, timeout_s: float = ANSWER_S, **values: Any) -> dict[str, Any]:
        talk = await self.open(op, timeout_s=timeout_s, **values)
        talk.close()
        return talk.head

    async def open(self, op: str, *, timeout_s: float = ANSWER_S, **values: Any) -> Talk:
        """Send the line, read the first line of the answer."""
        reader, writer = await self._connect({"op": op, **values})
        return await self._head(reader, writer, timeout_s)

    async def stream(self, op: str, **values: Any) -> Talk:
        """One whose answer has no head."""
        reader, writer = await self._connect({"op": op, **values})
        return Talk({}, reader, writer)

    async def upload(
        self, op: str, body: AsyncIterator[bytes], *, timeout_s: float, **values: Any
    ) -> Talk:
        """Bytes after the line, then the answer. What the agent refuses ends the upload."""
        reader, writer = await self._connect({"op": op, **values})
        answer = asyncio.create_task(reader.readline())
        try:
            async for chunk in body:
                if answer.done():
                    break
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass  # what it said before tells why
        except BaseException:
            answer.cancel()
            writer.close()
            raise
        try:
            line = await asyncio.wait_for(answer, timeout_s)
        except (TimeoutError, OSError):
            writer.close()
            raise self._silent() from None
        return self._read(line, reader, writer)

    async def _connect(
        self, request: dict[str, Any]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            reader, writer = await self._host.connect(self._pod)
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
        except OSError:
            raise self._silent() from None
        return reader, writer

    async def _head(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float
    ) -> Talk:
        try:
            line = await asyncio.wait_for(reader.readline(), timeout_s)
        except (TimeoutError, OSError):
            writer.close()
            raise self._silent() from None
        except BaseException:
            writer.close()
            raise
        return self._read(line, reader, writer)

    def _read(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Talk:
        try:
            head = json.loads(line)
        except ValueError:
            head = None
        if not isinstance(head, dict):
            writer.close()
            raise self._silent()
        head = self._by_our_clock(head)
        if "error" in head:
            writer.close()
            kind = KINDS.get(str(head.get("kind")), UpstreamError)
            raise kind(str(head["error"]), "", code=str(head.get("kind") or "pod"))
        return Talk(head, reader, writer)

    def _by_our_clock(self, head: dict[str, Any]) -> dict[str, Any]:
        """What it answered: its instants are of its own clock, which may be off."""
        theirs = head.pop("now_us", None)
        late = 0 if theirs is None else self._now() - int(theirs)
        return head if abs(late) < STEADY_US else shifted(head, late)

    def _silent(self) -> Silent:
        return Silent(
            f"'{self._name}' does not answer.", f"See what it does with: nbgpu why {self._name}"
        )


def shifted(value: Any, by_us: int) -> Any:
    """JSON with its instants (numbers whose names end in `_us`, and 0 is none) moved."""
    if isinstance(value, dict):
        return {
            key: inner + by_us
            if key.endswith("_us") and isinstance(inner, int) and inner
            else shifted(inner, by_us)
            for key, inner in value.items()
        }
    return [shifted(inner, by_us) for inner in value] if isinstance(value, list) else value


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until its end, which is passed on."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
