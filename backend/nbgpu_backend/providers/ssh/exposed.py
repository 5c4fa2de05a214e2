"""Local unix sockets, and ports of our own loopback, that lead to sockets or ports of the host.

Unix sockets wait for a link that is down. A port closes its connections at once then: who uses it is to
notice.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Lead = Callable[[socket.socket, dict[str, Any]], Awaitable[None]]
BACKLOG = 128


class Exposed:
    """`lead` takes an accepted connection and where it leads, and ends with it.

    What is exposed is written down, so that the tunnel which follows a killed one listens again. In that
    record a unix socket goes by its path; a port of ours by KEY:PORT, the port there, and its target says
    on which one of ours (`at`).
    """

    def __init__(self, record: Path, lead: Lead) -> None:
        self._record = record
        self._lead = lead
        self._table: dict[str, dict[str, Any]] = {}
        self._listening: dict[str, asyncio.Task[None]] = {}

    @property
    def names(self) -> list[str]:
        return sorted(self._table)

    def restore(self) -> None:
        """Listen where a former tunnel did; places whose folder is gone are left out."""
        with suppress(OSError, ValueError, AttributeError):
            for local, target in json.loads(self._record.read_bytes()).items():
                with suppress(OSError):
                    self._listen(local, target)
            self._write()

    def add(self, local: str, target: dict[str, Any]) -> None:
        """Raises OSError. A place that is exposed already leads to the new target from now on."""
        if local in self._table and Path(local).is_socket():
            self._table[local] = target
        else:
            self._stop(local)
            self._listen(local, target)
        self._write()

    def reach(self, key: str, port: int) -> int:
        """A port of our loopback that leads to `port` there: the same one for as long as it works."""
        local = f"{key}:{port}"
        if local not in self._listening:
            self._listen(local, {"port": port, "at": 0})
            self._write()
        return int(self._table[local]["at"])

    async def leave(self, key: str) -> None:
        """Return when nobody listens on the ports of `key` any more; connections that stand go on."""
        names = [name for name in self._table if name.startswith(f"{key}:")]
        tasks = [self._listening[name] for name in names]
        for name in names:
            self.remove(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    def remove(self, local: str) -> bool:
        known = local in self._table
        self._stop(local)
        if known:
            self._write()
        return known

    def close(self) -> None:
        """Listen no more; the record stays for the next tunnel."""
        for local in list(self._table):
            self._stop(local)

    def _listen(self, local: str, target: dict[str, Any]) -> None:
        if "at" in target:
            listener = listen_on(int(target["at"]))
            target = {**target, "at": listener.getsockname()[1]}
        else:
            listener = listen_at(Path(local))
        self._table[local] = target
        self._listening[local] = asyncio.create_task(self._accept(local, listener))

    def _stop(self, local: str) -> None:
        target = self._table.pop(local, {})
        if (task := self._listening.pop(local, None)) is not None:
            task.cancel()
            if "at" not in target:
                with suppress(OSError):
                    Path(local).unlink()

    async def _accept(self, local: str, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        with listener:
            while True:
                client, _ = await loop.sock_accept(listener)
                client.setblocking(False)
                task = asyncio.ensure_future(self._one(client, self._table[local]))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _one(self, client: socket.socket, target: dict[str, Any]) -> None:
        try:
            await self._lead(client, target)
        finally:
            client.close()

    def _write(self) -> None:
        fresh = self._record.with_suffix(".tmp")
        with suppress(OSError):  # a full disk: what is exposed works, and is lost with this tunnel
            fresh.write_text(json.dumps(self._table))
            fresh.rename(self._record)


def listen_on(port: int) -> socket.socket:
    """That port of loopback, or any one where another program has taken it."""
    listener = socket.socket()
    try:
        # connections of a killed tunnel may linger on it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def listen_at(path: Path) -> socket.socket:
    """A unix socket for its owner alone. Through a descriptor of its folder: a path has 107 bytes at most."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with suppress(FileNotFoundError):
            path.unlink()
        mask = os.umask(0o177)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener
