"""The frames between a tunnel and host.py, and the conversations in them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbgpu_backend.providers.ssh import host


class Ends:
    """Two ends of a link, with what is on its way between them."""

    def __init__(self) -> None:
        self.held: list[tuple[host.Mux, bytes]] = []
        self.here = host.Mux(lambda data: self._put(self.there, data), self._drained)
        self.there = host.Mux(lambda data: self._put(self.here, data), self._drained)
        self.opened: list[tuple[host.Conversation, Any]] = []
        self.there.opened = lambda talk, request: self.opened.append((talk, request))
        self.sent = 0

    def _put(self, to: host.Mux, data: bytes) -> None:
        self.sent += len(data)
        asyncio.get_running_loop().call_soon(self._take, to, data)

    def _take(self, to: host.Mux, data: bytes) -> None:
        for header, body in host.Decoder().feed(data):
            to.take(header, body)

    async def _drained(self) -> None:
        await asyncio.sleep(0)

    async def open(self) -> tuple[host.Conversation, host.Conversation]:
        talk = self.here.open({"op": "x"})
        while not self.opened:
            await asyncio.sleep(0)
        return talk, self.opened.pop()[0]


@given(
    frames=st.lists(st.tuples(st.dictionaries(st.text(), st.integers()), st.binary())),
    cuts=st.lists(st.integers(1, 50), min_size=1),
)
def test_frames_come_whole_however_the_bytes_are_cut(
    frames: list[tuple[dict[str, Any], bytes]], cuts: list[int]
) -> None:
    data = b"".join(host.encode(header, body) for header, body in frames)
    decoder, found, turn = host.Decoder(), [], 0
    while data:
        size = cuts[turn % len(cuts)]
        found += decoder.feed(data[:size])
        data, turn = data[size:], turn + 1
    assert found == frames


def test_what_is_no_frame_is_an_error_and_not_a_long_wait() -> None:
    with pytest.raises(ValueError, match="frame"):
        host.Decoder().feed(b"Welcome to this machine!")


async def test_a_sender_waits_for_a_reader_that_is_behind() -> None:
    ends = Ends()
    here, there = await ends.open()
    count = 0

    async def send() -> None:
        nonlocal count
        while True:
            await here.send("data", bytes(host.CHUNK))
            count += 1

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.1)
    assert count * host.CHUNK <= host.WINDOW + host.CHUNK
    stopped = count
    # another conversation is not held up by that
    other, its = await ends.open()
    await other.send("data", b"quick")
    assert await its.next() == ("data", b"quick")
    for _ in range(stopped):
        await there.next()
    await asyncio.sleep(0.1)
    assert count > stopped
    sending.cancel()


async def test_a_link_that_is_gone_ends_every_conversation_and_new_ones_at_once() -> None:
    ends = Ends()
    here, _ = await ends.open()
    reading = asyncio.create_task(here.next())
    await asyncio.sleep(0)
    ends.here.cut()
    async with asyncio.timeout(1):
        assert await reading == ("cut", b"")
        with pytest.raises(ConnectionError):
            await here.send("data", b"x")
        assert await ends.here.open({"op": "x"}).next() == ("cut", b"")


async def test_a_sender_that_waits_is_woken_by_the_end() -> None:
    ends = Ends()
    here, there = await ends.open()

    async def send() -> None:
        while True:
            await here.send("data", bytes(host.CHUNK))

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.05)
    there.finish("end")
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(2):
            await sending


@pytest.mark.parametrize("first", ["here", "there"])
async def test_each_direction_ends_on_its_own(first: str) -> None:
    ends = Ends()
    here, there = await ends.open()
    near, near_end = socket.socketpair()
    far, far_end = socket.socketpair()
    for each in (near, near_end, far, far_end):
        each.setblocking(False)
    loop = asyncio.get_running_loop()
    pumps = asyncio.gather(host.pump(here, near_end, "close"), host.pump(there, far_end, "end"))
    one, other = (near, far) if first == "here" else (far, near)
    async with asyncio.timeout(5):
        await loop.sock_sendall(one, b"question")
        one.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(other, 100) == b"question"
        assert await loop.sock_recv(other, 100) == b""
        await loop.sock_sendall(other, b"answer")
        other.close()
        assert await loop.sock_recv(one, 100) == b"answer"
        assert await loop.sock_recv(one, 100) == b""
        await pumps
    one.close()
    assert ends.here.table == {} and ends.there.table == {}


async def test_a_connection_that_waits_ends_with_the_link() -> None:
    ends = Ends()
    here, _ = await ends.open()
    near, near_end = socket.socketpair()
    near.setblocking(False)
    near_end.setblocking(False)
    pumping = asyncio.create_task(host.pump(here, near_end, "close"))
    await asyncio.sleep(0.01)
    near.shutdown(socket.SHUT_WR)  # one direction has ended already
    await asyncio.sleep(0.01)
    ends.here.cut()
    async with asyncio.timeout(2):
        await pumping
        assert await asyncio.get_running_loop().sock_recv(near, 10) == b""
    near.close()


def test_the_program_says_what_is_not_understood() -> None:
    for error, kind in (
        (KeyError("path"), "bad_request"),
        (FileNotFoundError(2, "No such file", "x"), "not_found"),
        (OSError(28, "No space left on device", "x"), "disk"),
        (PermissionError(13, "Permission denied", "x"), "denied"),
        (json.JSONDecodeError("x", "", 0), "bad_request"),
        (RuntimeError("x"), "python"),
    ):
        assert host.Refusal.of(error).kind == kind
    assert "x: No space left" in str(host.Refusal.of(OSError(28, os.strerror(28), "x")))
