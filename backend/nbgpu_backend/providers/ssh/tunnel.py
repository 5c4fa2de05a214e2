"""`python -m nbgpu_backend.providers.ssh.tunnel FOLDER`: the one process that speaks SSH to a host.

FOLDER is NBGPU_HOME/hosts/NAME/. It holds `host.json` (see settings.py), `lock` (flock, held for
life; exit code 75 where another holds it), `sock`, `exposed.json` and `log`. It outlives whoever
starts it, and ends after `idle_s` without a client, or when asked.

The socket says HELLO to who connects, so that nobody's request is lost on one that is dying. It takes
one request a connection, a JSON object on a line, and answers with lines; a failure is
{"error", "kind", "next_step"}. `patience_s` (10) is how long a request waits for the link.
  {"op": "status"}                    -> see Uplink.status, with "exposed" and "pid"; never waits
  {"op": "hello"}                     -> host.py's hello, with what works there
  {"op": "call", "request"}           -> the lines of host.py (see its ops); closing ends it
  {"op": "connect", "unix" | "port"}  -> {}, then raw bytes both ways
  {"op": "expose", "local", "unix" | "port"}, {"op": "unexpose", "local"}   -> {}
  {"op": "reach", "key", "port"}      -> {"port"}: of our loopback, and leads to that one there
  {"op": "leave", "key"}              -> {}: all that `key` reaches
  {"op": "put" | "get", "local", "remote", "resume"}    -> {"done", "size"}…, {"sha256", "size"}
  {"op": "reconnect", "wait_s", "agent"}  -> as status; `agent` is the SSH_AUTH_SOCK to use from now on
  {"op": "end"}                       -> {}
What streams ends with an empty line; without one the tunnel died.
A call that the link cuts fails with the kind link_cut: whether it was done is not known.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nbgpu_backend.errors import BadRequest, DiskError, NbgpuError
from nbgpu_backend.providers.ssh import host, ports
from nbgpu_backend.providers.ssh.errors import LinkCut, from_line, to_line
from nbgpu_backend.providers.ssh.exposed import Exposed, listen_at
from nbgpu_backend.providers.ssh.sessions import Forbidden
from nbgpu_backend.providers.ssh.transfer import Transfer
from nbgpu_backend.providers.ssh.transport import agent_at
from nbgpu_backend.providers.ssh.uplink import Uplink

HELLO = b"nbgpu-tunnel-1\n"
HELD, BAD_FOLDER = 75, 64
PATIENCE_S = 10.0
LINE_LIMIT = 64 << 20
LOG_LIMIT = 1 << 20
LOOK_S = 10.0  # between looks at whether anybody wants us still
EXPOSED_RETRY_S = 0.2  # a peer whose socket does not lead anywhere must not spin


class Tunnel:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._uplink = Uplink(folder, Log(folder / "log"))
        self._exposed = Exposed(folder / "exposed.json", self._lead)
        self._clients = 0
        self._quiet_since = time.monotonic()
        self._over = asyncio.Event()
        self._ops: dict[str, Callable[[socket.socket, dict[str, Any]], Any]] = {
            "status": self._status,
            "hello": self._hello,
            "call": self._call,
            "connect": self._connect,
            "expose": self._expose,
            "unexpose": self._unexpose,
            "reach": self._reach,
            "leave": self._leave,
            "put": self._transfer,
            "get": self._transfer,
            "reconnect": self._reconnect,
            "end": self._end,
        }

    async def run(self) -> None:
        """Return when it is over; the caller holds the lock."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        uplink = asyncio.create_task(self._uplink.run())
        self._exposed.restore()
        listener = listen_at(self._folder / "sock")
        accepting = asyncio.create_task(self._accept(listener))
        idle = asyncio.create_task(self._idle())
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait({uplink, accepting, idle, over}, return_when=asyncio.FIRST_COMPLETED)
        for task in (uplink, accepting):
            if task.done():
                task.result()  # a fault of ours
        with suppress(OSError):
            (self._folder / "sock").unlink()
        self._exposed.close()
        self._uplink.close()
        await asyncio.sleep(0.05)  # for the answers that are on their way

    async def _idle(self) -> None:
        while True:
            idle_s = self._uplink.settings.times.idle_s
            if not (self._folder / "sock").exists():
                return  # the host was removed
            left = idle_s - (time.monotonic() - self._quiet_since)
            if self._clients == 0 and left <= 0:
                return
            await asyncio.sleep(min(max(left, 0.05) if self._clients == 0 else idle_s / 4, LOOK_S))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[None]] = set()
        with listener:
            while True:
                client, _ = await loop.sock_accept(listener)
                client.setblocking(False)
                task = asyncio.create_task(self._serve(client))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        """One connection, from its request to its end."""
        self._clients += 1
        try:
            await send(client, HELLO)
            request = await _request(client)
            if request is None:
                return
            try:
                op = self._ops.get(str(request.get("op")))
                if op is None:
                    raise BadRequest(f"The tunnel has no op {request.get('op')!r}.")
                await op(client, request)
            except NbgpuError as error:
                await say(client, to_line(error))
            except (KeyError, TypeError, ValueError) as error:
                await say(client, to_line(BadRequest(f"The request is not understood: {error!r}.")))
        except OSError:
            pass  # the client went
        finally:
            client.close()
            self._clients -= 1
            self._quiet_since = time.monotonic()

    # ops

    async def _status(self, client: socket.socket, request: dict[str, Any]) -> None:
        more = {"exposed": self._exposed.names, "pid": os.getpid()}
        await say(client, self._uplink.status() | more)

    async def _hello(self, client: socket.socket, request: dict[str, Any]) -> None:
        await self._call(client, {**request, "request": {"op": "hello"}})

    async def _call(self, client: socket.socket, request: dict[str, Any]) -> None:
        up = await self._uplink.wait(_patience(request))
        talk = up.channel.mux.open(dict(request["request"]))
        gone = asyncio.create_task(_gone(client))
        try:
            while True:
                heard = asyncio.ensure_future(talk.next())
                await asyncio.wait({heard, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not heard.done():
                    heard.cancel()
                    return  # what it asked for ends with the conversation
                kind, body = heard.result()
                if kind == "line":
                    await send(client, body + b"\n")
                elif kind == "end":
                    await send(client, b"\n")
                    return
                elif kind == "cut":
                    raise self._cut()
        finally:
            gone.cancel()
            talk.finish("close")

    async def _connect(self, client: socket.socket, request: dict[str, Any]) -> None:
        await self._through(client, request, _patience(request), say)

    async def _lead(self, client: socket.socket, target: dict[str, Any]) -> None:
        """A connection to an exposed socket: it waits as long as the link is down. To a port: it ends."""
        self._clients += 1
        try:
            if "at" in target:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with suppress(NbgpuError):
                    await self._through(client, target, 0, None)
                return
            await self._uplink.wait(float("inf"), nudge=False)
            await self._through(client, target, 0, None)
        except NbgpuError:
            await asyncio.sleep(EXPOSED_RETRY_S)
        except OSError:
            pass
        finally:
            self._clients -= 1
            self._quiet_since = time.monotonic()

    async def _through(
        self,
        client: socket.socket,
        target: dict[str, Any],
        patience_s: float,
        ready: Callable[[socket.socket, dict[str, Any]], Any] | None,
    ) -> None:
        """Connect there, say so, and carry bytes until an end. Closes the client."""
        up = await self._uplink.wait(patience_s)
        if "port" in target:
            with suppress(Forbidden):
                channel = await asyncio.to_thread(up.sessions.to_port, int(target["port"]))
                if ready is not None:
                    await ready(client, {})
                # threads of its own: they must not meet the loop's use of the descriptor
                await ports.pump(client.dup(), channel)
                return
        talk = up.channel.mux.open({"op": "connect", **target_of(target)})
        try:
            kind, body = await talk.next()
            answer = json.loads(body) if kind == "line" else {}
            if kind != "line":
                raise self._cut()
            if "error" in answer:
                raise from_line(answer, self._uplink.settings.name)
            if ready is not None:
                await ready(client, {})
        except BaseException:
            talk.finish("close")
            raise
        await host.pump(talk, client, "close")

    async def _expose(self, client: socket.socket, request: dict[str, Any]) -> None:
        try:
            self._exposed.add(str(request["local"]), target_of(request))
        except OSError as error:
            raise DiskError(
                f"No socket can be made at {request['local']}: {error.strerror}.",
                "See that its folder is there and can be written.",
            ) from None
        await say(client, {})

    async def _unexpose(self, client: socket.socket, request: dict[str, Any]) -> None:
        self._exposed.remove(str(request["local"]))
        await say(client, {})

    async def _reach(self, client: socket.socket, request: dict[str, Any]) -> None:
        await say(client, {"port": self._exposed.reach(str(request["key"]), int(request["port"]))})

    async def _leave(self, client: socket.socket, request: dict[str, Any]) -> None:
        await self._exposed.leave(str(request["key"]))
        await say(client, {})

    async def _transfer(self, client: socket.socket, request: dict[str, Any]) -> None:
        transfer = Transfer(self._uplink, self._folder, request, _patience(request, 60.0))
        gone = asyncio.create_task(_gone(client))
        work = asyncio.create_task(transfer.run(lambda line: say(client, line)))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await send(client, json.dumps(work.result()).encode() + b"\n\n")
        finally:
            gone.cancel()
            work.cancel()
            transfer.cancel()

    async def _reconnect(self, client: socket.socket, request: dict[str, Any]) -> None:
        agent_at(request.get("agent"))
        self._uplink.ask()
        await self._uplink.settled(float(request.get("wait_s", 0)))
        await self._status(client, request)

    async def _end(self, client: socket.socket, request: dict[str, Any]) -> None:
        await say(client, {})
        self._over.set()

    def _cut(self) -> LinkCut:
        return LinkCut(
            f"The connection to {self._uplink.settings.target.where} broke in the middle of it.",
            "See what was done before you repeat it.",
        )


class Log:
    """Appends to a file, which is cut when it is long. From any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, data: bytes) -> None:
        with suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                if os.fstat(fd).st_size > LOG_LIMIT:
                    os.ftruncate(fd, 0)
                os.write(fd, data)
            finally:
                os.close(fd)


async def _request(client: socket.socket) -> dict[str, Any] | None:
    """The first line. Bytes after it are not read: they are the raw part of a connect."""
    loop = asyncio.get_running_loop()
    line = bytearray()
    while not line.endswith(b"\n"):
        # peeked first, since what follows the line is not ours
        seen = await _peek(loop, client)
        if not seen or len(line) > LINE_LIMIT:
            return None
        take = seen.find(b"\n") + 1 or len(seen)
        line += await loop.sock_recv(client, take)
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        await say(client, to_line(BadRequest("A request to the tunnel is a JSON object.")))
        return None
    return value


async def _peek(loop: asyncio.AbstractEventLoop, client: socket.socket) -> bytes:
    while True:
        try:
            return client.recv(1 << 16, socket.MSG_PEEK)
        except BlockingIOError:
            await _readable(loop, client)


async def _readable(loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(client.fileno(), host.wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(client.fileno())


async def _gone(client: socket.socket) -> None:
    """Return when the client has closed; what it sends besides its request is dropped."""
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while await loop.sock_recv(client, 1 << 16):
            pass


async def send(client: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, data)


async def say(client: socket.socket, value: dict[str, Any]) -> None:
    await send(client, json.dumps(value).encode() + b"\n")


def target_of(request: dict[str, Any]) -> dict[str, Any]:
    """{"port"} or {"unix"}, and nothing else."""
    if "port" in request:
        return {"port": int(request["port"])}
    return {"unix": str(request["unix"])}


def _patience(request: dict[str, Any], usual: float = PATIENCE_S) -> float:
    return float(request.get("patience_s", usual))


def main(arguments: list[str]) -> int:
    os.umask(0o077)
    folder = Path(arguments[0]).absolute()
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return HELD
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def run() -> None:
        await Tunnel(folder).run()

    try:
        asyncio.run(run())
    except BadRequest as error:
        sys.stderr.write(f"{error}\n")
        return BAD_FOLDER
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # threads of paramiko may hang on a dead link
