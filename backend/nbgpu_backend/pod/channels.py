"""A ZeroMQ socket read by the event loop.

`zmq.asyncio` makes a future for each message; a kernel may send ten thousand a second. So all that
waits is taken at once, and while much comes, only fifty times a second.
"""

from __future__ import annotations

import asyncio

import zmq

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List

    Receive = Callable[[List[List[bytes]]], None]

BATCH = 2000  # messages taken before others have their turn
PACE_S = 0.02
MANY = 100  # messages within WINDOW_S that are many
WINDOW_S = 0.05


class Channel:
    """`receive` is called with each batch of messages."""

    def __init__(self, socket: zmq.Socket[bytes], receive: Receive) -> None:
        self.socket, self.receive = socket, receive
        self.loop = asyncio.get_running_loop()
        self.fd = int(socket.getsockopt(zmq.FD))
        self.closed = self.paced = False
        self.window, self.count = 0.0, 0
        self.loop.add_reader(self.fd, self.readable)
        self.loop.call_soon(self.readable)

    def send(self, frames: List[bytes]) -> None:
        """Raises zmq.ZMQError when nothing more can be queued."""
        self.socket.send_multipart(frames, zmq.NOBLOCK)
        # the descriptor tells of changes only, and a send may take one away
        self.loop.call_soon(self.readable)

    def take(self) -> int:
        """Hand on what waits. -> how many messages"""
        batch: List[List[bytes]] = []
        receive = self.socket.recv_multipart
        try:
            while len(batch) < BATCH:
                batch.append(receive(zmq.NOBLOCK))
        except zmq.Again:
            pass
        if batch:
            self.receive(batch)
        return len(batch)

    def readable(self) -> None:
        if self.closed or self.paced:
            return
        got = self.take()
        if self.closed:
            return
        now = self.loop.time()
        if now - self.window > WINDOW_S:
            self.window, self.count = now, 0
        self.count += got
        if got >= BATCH:
            self.loop.call_soon(self.readable)
        elif self.count >= MANY:
            self.paced = True
            self.loop.remove_reader(self.fd)
            self.loop.call_later(PACE_S, self.again)
        elif got:
            self.loop.call_soon(self.readable)

    def again(self) -> None:
        if self.closed:
            return
        if self.take():
            self.loop.call_later(PACE_S, self.again)
        elif not self.closed:
            self.paced = False
            self.loop.add_reader(self.fd, self.readable)
            self.loop.call_soon(self.readable)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if not self.paced:
                self.loop.remove_reader(self.fd)
            self.socket.close(linger=0)
