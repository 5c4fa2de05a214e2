"""HTTP to the workers, against servers that say exactly what a test has them say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbgpu_backend.serving.wire import PAUSE_BYTES, Answer, Broken, Wire

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: h\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n"
LENGTH = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\nhello world"
)
BY_END = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello world"

Say = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(say: Say) -> AsyncIterator[tuple[int, list[bytes]]]:
    """(its port, the requests that it has read); `say` answers each."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                seen.append(head + await reader.readexactly(size))
                await say(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            seen.append(b"gone")
        finally:
            writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with made:
        yield made.sockets[0].getsockname()[1], seen


def saying(*pieces: bytes, end: bool = False) -> Say:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if end:
            writer.close()

    return say


async def whole(answer: Answer) -> bytes:
    body = b""
    while True:
        if (more := answer.more()) is not None:
            await more
        if not (part := answer.take()):
            return body
        body += part


@pytest.mark.parametrize(
    "text", [CHUNKED, LENGTH, BY_END, b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH]
)
async def test_every_framing_gives_the_body(text: bytes) -> None:
    async with server(saying(text, end=text is BY_END)) as (port, seen):
        wire = Wire()
        answer = await wire.post(port, HEAD, b"{}")
        assert answer.status == 200 and await whole(answer) == b"hello world"
        assert seen[0] == HEAD + b"Content-Length: 2\r\n\r\n{}"
        wire.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, len(CHUNKED) - 1), max_size=8), st.booleans())
def test_it_does_not_matter_how_it_is_cut(cuts: list[int], chunked: bool) -> None:
    text = CHUNKED if chunked else LENGTH
    edges = sorted({0, len(text), *(c for c in cuts if c < len(text))})
    pieces = [text[a:b] for a, b in pairwise(edges)]

    async def main() -> None:
        async with server(saying(*pieces)) as (port, _):
            wire = Wire()
            for _ in range(2):  # the second on the connection of the first
                assert await whole(await wire.post(port, HEAD, b"{}")) == b"hello world"
            wire.close()

    asyncio.run(main())


async def test_a_connection_is_used_again_and_several_are_made_for_several() -> None:
    connections = set()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        writer.write(LENGTH)

    async with server(say) as (port, _):
        wire = Wire()
        for _ in range(3):
            await whole(await wire.post(port, HEAD, b"{}"))
        assert len(connections) == 1
        answers = [wire.post(port, HEAD, b"{}") for _ in range(4)]
        for one in answers:
            await whole(await one)
        assert len(connections) == 4
        wire.close()


@pytest.mark.parametrize("text", [b"", b"HTTP/1.1 200 OK\r\nConte", b"no http at all\r\n\r\n"])
async def test_what_is_no_answer_breaks(text: bytes) -> None:
    async with server(saying(text, end=True)) as (port, _):
        with pytest.raises(Broken):
            await Wire().post(port, HEAD, b"{}")


@pytest.mark.parametrize("text", [CHUNKED[:-5], CHUNKED[:-20], LENGTH[:-3]])
async def test_a_body_that_ends_early_breaks_after_what_came_of_it(text: bytes) -> None:
    async with server(saying(text, end=True)) as (port, _):
        answer = await Wire().post(port, HEAD, b"{}")
        with pytest.raises(Broken):
            await whole(answer)


async def test_nobody_listens() -> None:
    async with server(saying(LENGTH)) as (port, _):
        pass
    with pytest.raises(Broken):
        await Wire().post(port, HEAD, b"{}")


async def test_who_gives_up_hangs_up() -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED[:-5])
        await reader.read(1)

    async with server(never) as (port, seen):
        waiting = Wire().post(port, HEAD, b"{}")
        while not seen:
            await asyncio.sleep(0.005)
        waiting.cancel()
        async with asyncio.timeout(5):
            while seen[-1] != b"gone":
                await asyncio.sleep(0.005)
    async with server(endless) as (port, seen):
        answer = await Wire().post(port, HEAD, b"{}")
        answer.close()
        async with asyncio.timeout(5):
            while seen[-1] != b"gone":
                await asyncio.sleep(0.005)


async def test_a_body_that_nobody_takes_is_not_gathered() -> None:
    size, written = 64 << 20, 0

    async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with server(much) as (port, _):
        answer = await Wire().post(port, HEAD, b"{}")
        before = -1
        while before != written:  # until it can write no more
            before = written
            await asyncio.sleep(0.2)
        assert written < PAUSE_BYTES + (16 << 20)  # and what the sockets hold
        assert len(await whole(answer)) == size


async def test_a_worker_that_speaks_unasked_is_left() -> None:
    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(LENGTH + LENGTH)

    async with server(twice) as (port, seen):
        wire = Wire()
        assert await whole(await wire.post(port, HEAD, b"{}")) == b"hello world"
        async with asyncio.timeout(5):
            while seen[-1] != b"gone":
                await asyncio.sleep(0.005)
        assert await whole(await wire.post(port, HEAD, b"{}")) == b"hello world"
        wire.close()
