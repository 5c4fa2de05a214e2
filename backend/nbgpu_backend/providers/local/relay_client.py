"""The backend's end of a relay's stream, and what a dead relay left in its spool."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nbgpu_backend import relay
from nbgpu_backend.providers.base import Frame, Post
from nbgpu_backend.providers.local.shim_client import NoAnswer


class RelayClient:
    """One stream to one relay. Another client that connects ends it.

    The methods write and return; what is written to a relay that went is lost, and the end of
    frames() says so. The next hello tells what the relay knows.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, folder: Path) -> Self:
        """`folder` is the instance's. Raises NoAnswer when no relay listens there (yet)."""
        try:
            fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
            try:
                # the path of a socket has 107 bytes at most, a folder's any number
                path = f"/proc/self/fd/{fd}/{relay.SOCKET}"
                streams = await asyncio.open_unix_connection(path, limit=relay.LINE_LIMIT)
            finally:
                os.close(fd)
        except OSError as error:
            raise NoAnswer(str(error)) from None
        return cls.over(*streams)

    @classmethod
    def over(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Self:
        """A connection to a relay, as it was made. The reader's limit is relay.LINE_LIMIT or more."""
        client = cls(reader, writer)
        client._send({"op": "hello"})
        return client

    async def frames(self) -> AsyncIterator[Frame]:
        """What the relay says, its hello first; ends when it, or this client, is gone."""
        try:
            while line := await self._reader.readline():
                header = json.loads(line)
                size = header.get("size", 0)
                body = await self._reader.readexactly(size) if size else b""
                yield Frame(header["op"], header, body)
        except (OSError, ValueError, asyncio.IncompleteReadError):
            return  # a line cut short is its end as well

    def jobs(self, poll: int, jobs: Iterable[tuple[str, bytes]]) -> None:
        """Answer a want: ids, and the JSON objects for the handler."""
        given = list(jobs)
        body = b"".join(text for _, text in given)
        self._send(
            {
                "op": "jobs",
                "poll": poll,
                "ids": [job for job, _ in given],
                "sizes": [len(text) for _, text in given],
                "size": len(body),
            },
            body,
        )

    def stop(self, ids: Iterable[str]) -> None:
        """Tell the handler to stop these jobs. A job that it stops posts nothing: see forget()."""
        self._send({"op": "stop", "ids": list(ids)})

    def forget(self, ids: Iterable[str]) -> None:
        """The handler is known to have let go of these: they are not `held` any more."""
        self._send({"op": "forget", "ids": list(ids)})

    def ack(self, n: int) -> None:
        """All posts up to `n` are stored."""
        self._send({"op": "ack", "n": n})

    def drain(self, on: bool) -> None:
        """Give the handler no more jobs, or do so again. Off at each connect()."""
        self._send({"op": "drain", "on": on})

    def close(self) -> None:
        self._writer.close()

    def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        if not self._writer.is_closing():
            self._writer.write(relay.encode(header) + body)


@dataclass(frozen=True, slots=True)
class Spool:
    """`held`: given to the handler without a final post. Acknowledged posts may be among these."""

    held: list[str]
    posts: list[Post]


def read_spool(folder: Path) -> Spool:
    """What the relay of this instance left. Blocks; raises OSError for a disk that fails.

    What a job posted before it was given to the handler once more is of its former run, and left out.
    """
    held: dict[str, None] = {}
    posts: dict[str, list[Post]] = {}  # of each job
    for head, body in relay.read_spool(str(folder / relay.SPOOL)):
        relay.replay(held, head)
        if head["op"] == "taken":
            for job in head["ids"]:
                posts.pop(job, None)
        elif head["op"] == "post":
            post = Post(head["n"], head["kind"], head["job"], head["stream"], body)
            posts.setdefault(post.job, []).append(post)
    return Spool(list(held), sorted((p for of in posts.values() for p in of), key=lambda p: p.n))
