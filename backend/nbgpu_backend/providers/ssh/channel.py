"""The frames of host.py over its channel: one thread that reads, one that writes, one loop between."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nbgpu_backend.providers.ssh import host

READ = 1 << 18
UNSENT = 1 << 20  # bytes; senders wait above
SET_US = 5_000_000


class HostChannel:
    """`lost` is called on the loop, once, when the channel has ended. All methods are the loop's."""

    def __init__(self, channel: Any, rest: bytes, lost: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._lost = lost
        self._alive = True
        self._decoder = host.Decoder()
        self._unsent = bytearray()
        self._filled = threading.Condition()
        self._room = asyncio.Event()
        self._room.set()
        self.heard = time.monotonic()
        self.clock_offset_us = 0  # what is to be added to our clock for the host's
        self.mux = host.Mux(self._put, self._drained)
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True, args=(rest,), name="host-link").start()

    @property
    def alive(self) -> bool:
        return self._alive

    def ping(self) -> None:
        self._put(host.encode({"t": "ping"}))

    def start(self, silence_s: float) -> None:
        self._put(host.encode({"t": "start", "silence_s": silence_s}))

    def close(self) -> None:
        """Every conversation ends as cut."""
        if self._alive:
            self._alive = False
            with self._filled:
                self._filled.notify()
            self._room.set()
            self.mux.cut()
            self._lost()
            # closing may wait for a write that hangs
            threading.Thread(target=self._shut, daemon=True).start()

    def _shut(self) -> None:
        with suppress(Exception):
            self._channel.close()

    def _put(self, data: bytes) -> None:
        if not self._alive:
            return
        with self._filled:
            self._unsent += data
            self._filled.notify()
            if len(self._unsent) > UNSENT:
                self._room.clear()

    async def _drained(self) -> None:
        await self._room.wait()

    def _take(self, frames: list[host.Frame]) -> None:
        self.heard = time.monotonic()
        for header, body in frames:
            if header["t"] == "pong":
                self._see_clock(header)
            else:
                self.mux.take(header, body)

    def _see_clock(self, pong: dict[str, Any]) -> None:
        """A clock that was set; what is less may be the way of the answer."""
        offset = int(pong["now_us"]) - time.time_ns() // 1000
        if abs(offset - self.clock_offset_us) > SET_US:
            self.clock_offset_us = offset

    # threads

    def _read(self, data: bytes) -> None:
        with suppress(Exception):
            while True:
                if data and (frames := self._decoder.feed(data)):
                    self._tell(self._take, frames)
                if not (data := self._channel.recv(READ)):
                    break
        self._tell(self.close)

    def _write(self, _: bytes) -> None:
        with suppress(Exception):
            while self._alive:
                with self._filled:
                    while not self._unsent and self._alive:
                        self._filled.wait()
                    data, self._unsent = bytes(self._unsent), bytearray()
                self._tell(self._room.set)
                self._channel.sendall(data)
        self._tell(self.close)

    def _tell(self, call: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *args)
