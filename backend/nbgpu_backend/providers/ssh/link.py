"""Link: what the backend holds of a host. It speaks to the host's tunnel, and starts it on demand.

Errors are those of errors.py: HostUnreachable after `patience_s`, LinkCut where it broke after it was
asked (whoever called decides whether to repeat), the wrong keys, and what host.py refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from nbgpu_backend.errors import BackendError, DiskError
from nbgpu_backend.providers.ssh.errors import HostUnreachable, LinkCut, from_line

HELLO = b"nbgpu-tunnel-1\n"
HELD = 75  # another tunnel holds the lock
START_S = 20.0
LINE_LIMIT = 128 << 20
PATIENCE_S = 10.0
TRANSFER_PATIENCE_S = 60.0

Json = dict[str, Any]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """`folder` is NBGPU_HOME/hosts/NAME, with its host.json. Any number of them may be used at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starting = asyncio.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def folder(self) -> Path:
        return self._folder

    async def status(self, *, start: bool = True) -> Json:
        """state: connecting, connected, unreachable, refused; `stopped` where no tunnel runs and none
        is to be started. since_us, sentence, kind, next_step; facts once it was connected."""
        if not start and not await self._runs():
            return {"state": "stopped", "name": self.name, "exposed": []}
        return await self._one({"op": "status"})

    async def hello(self, *, patience_s: float = PATIENCE_S) -> Json:
        """Who and what is there, GPUs and tools included: see host.py."""
        return await self._one({"op": "hello", "patience_s": patience_s})

    async def call(self, request: Mapping[str, Any], *, patience_s: float = PATIENCE_S) -> Json:
        """The one answer of host.py to this op."""
        return await self._one({"op": "call", "request": request, "patience_s": patience_s})

    async def stream(
        self, request: Mapping[str, Any], *, patience_s: float = PATIENCE_S
    ) -> AsyncGenerator[Json, None]:
        """The answers of an op that streams (run). Closing the generator ends it there."""
        whole = {"op": "call", "request": request, "patience_s": patience_s}
        async with aclosing(self._lines(whole)) as lines:
            async for line in lines:
                yield line

    async def connect(
        self, *, unix: str | None = None, port: int | None = None, patience_s: float = PATIENCE_S
    ) -> Streams:
        """Raw bytes to a unix socket (relative to the root there), or to a port of 127.0.0.1."""
        request = {"op": "connect", **_target(unix, port), "patience_s": patience_s}
        reader, writer = await self._ask(request)
        try:
            await self._answer(reader)
        except BaseException:
            writer.close()
            raise
        return reader, writer

    async def expose(
        self, local: Path, *, unix: str | None = None, port: int | None = None
    ) -> None:
        """A local unix socket that leads there for as long as tunnels live; again: it leads elsewhere."""
        await self._one({"op": "expose", "local": str(local), **_target(unix, port)})

    async def unexpose(self, local: Path) -> None:
        await self._one({"op": "unexpose", "local": str(local)})

    async def reach(self, key: str, port: int) -> int:
        """A port of our loopback that leads to `port` there, for as long as tunnels live; see Exposed."""
        return int((await self._one({"op": "reach", "key": key, "port": port}))["port"])

    async def leave(self, key: str) -> None:
        """What `key` reaches is not wanted any more."""
        await self._one({"op": "leave", "key": key})

    async def put(
        self,
        local: Path,
        remote: str,
        *,
        resume: bool = True,
        progress: Callable[[int, int], None] | None = None,
        patience_s: float = TRANSFER_PATIENCE_S,
    ) -> Json:
        """A file there -> {"sha256", "size"}. `progress` gets (bytes done, bytes in all)."""
        return await self._file("put", local, remote, resume, progress, patience_s)

    async def get(
        self,
        remote: str,
        local: Path,
        *,
        resume: bool = True,
        progress: Callable[[int, int], None] | None = None,
        patience_s: float = TRANSFER_PATIENCE_S,
    ) -> Json:
        """A file from there -> {"sha256", "size"}."""
        return await self._file("get", local, remote, resume, progress, patience_s)

    async def reconnect(self, *, wait_s: float = 0.0) -> Json:
        """Try now, also after a refusal, with the settings and the agent as they are now. -> status"""
        agent = os.environ.get("SSH_AUTH_SOCK")
        return await self._one({"op": "reconnect", "wait_s": wait_s, "agent": agent})

    async def end(self) -> None:
        """End the tunnel, if there is one. What runs on the host runs on."""
        if await self._runs():
            await self._one({"op": "end"})

    # one question

    async def _file(
        self,
        op: str,
        local: Path,
        remote: str,
        resume: bool,
        progress: Callable[[int, int], None] | None,
        patience_s: float,
    ) -> Json:
        request = {"op": op, "local": _whole(local), "remote": remote, "resume": resume}
        last: Json = {}
        async with aclosing(self._lines({**request, "patience_s": patience_s})) as lines:
            async for last in lines:
                if "done" in last and progress is not None:
                    progress(last["done"], last["size"])
        if "sha256" not in last:
            raise self._gone()
        return last

    async def _one(self, request: Json) -> Json:
        reader, writer = await self._ask(request)
        try:
            return await self._answer(reader)
        finally:
            writer.close()

    async def _lines(self, request: Json) -> AsyncGenerator[Json, None]:
        reader, writer = await self._ask(request)
        try:
            while (line := await self._read(reader)) != b"\n":
                if not line:
                    raise self._gone()
                yield self._parsed(line)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> Json:
        line = await self._read(reader)
        if not line:
            raise self._gone()
        return self._parsed(line)

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        try:
            line = await reader.readline()
        except OSError:
            raise self._gone() from None
        if line and not line.endswith(b"\n"):
            raise self._gone()
        return line

    def _parsed(self, line: bytes) -> Json:
        value: Json = json.loads(line)
        if "error" in value and "kind" in value:
            raise from_line(value, self.name)
        return value

    def _gone(self) -> LinkCut:
        return LinkCut(
            f"The tunnel to {self.name} ended while it was asked.",
            "See what was done there before you repeat it.",
        )

    async def _ask(self, request: Json) -> Streams:
        """A connection to the tunnel that has got the request; the tunnel is started if it must be."""
        line = json.dumps(request).encode() + b"\n"
        reader, writer = await self._dial() or await self._start()
        writer.write(line)
        return reader, writer

    async def _dial(self) -> Streams | None:
        try:
            folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            # the path of a socket has 107 bytes at most, a folder's any number
            reader, writer = await asyncio.open_unix_connection(
                f"/proc/self/fd/{folder}/sock", limit=LINE_LIMIT
            )
        except OSError:
            return None
        finally:
            os.close(folder)
        try:
            async with asyncio.timeout(START_S):
                if await reader.readline() == HELLO:
                    return reader, writer
        except (OSError, TimeoutError):
            pass  # one that was dying, or that is stopped
        writer.close()
        return None

    async def _runs(self) -> bool:
        streams = await self._dial()
        if streams is not None:
            streams[1].close()
        return streams is not None

    async def _start(self) -> Streams:
        async with self._starting:
            end = time.monotonic() + START_S
            while time.monotonic() < end:
                if (streams := await self._dial()) is not None:
                    return streams
                if self._child is None or self._child.poll() is not None:
                    code = None if self._child is None else self._child.returncode
                    self._child = None
                    if code not in (None, 0, HELD) and code is not None and code > 0:
                        break
                    self._child = await asyncio.to_thread(self._spawn)
                await asyncio.sleep(0.02)
        raise BackendError(
            f"The tunnel to {self.name} could not be started{self._last_words()}.",
            f"See {self._folder / 'log'}.",
        )

    def _spawn(self) -> subprocess.Popen[bytes]:
        try:
            log = os.open(self._folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except FileNotFoundError:  # by hand: what runs there is out of reach, and not dead
            raise HostUnreachable(
                f"What is known of {self.name} was removed: there is no folder {self._folder}.",
                f"Add it again with: nbgpu host add {self.name} user@address",
            ) from None
        except OSError as error:
            raise DiskError(
                f"{self._folder} cannot be written: {error.strerror}.", "Free some space there."
            ) from None
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "nbgpu_backend.providers.ssh.tunnel", str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # it outlives us, and our terminal's Ctrl-C is not for it
            )
        finally:
            os.close(log)

    def _last_words(self) -> str:
        try:
            lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f": {lines[-1].rstrip('.')}" if lines else ""


def _whole(local: Path) -> str:
    return str(Path.cwd() / local)


def _target(unix: str | None, port: int | None) -> Json:
    if (unix is None) == (port is None):
        raise ValueError("either a unix socket or a port")
    return {"unix": unix} if port is None else {"port": port}
