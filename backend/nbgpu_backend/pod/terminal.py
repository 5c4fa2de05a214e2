"""A shell of the pod on a pseudoterminal, for one connection."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List

    from nbgpu_backend.pod.children import Children, die_with_parent, signal_group, within
    from nbgpu_backend.pod.files import whole
    from nbgpu_backend.pod.wire import Refusal, Wire

    Json = Dict[str, Any]
else:
    from children import die_with_parent, signal_group, within
    from files import whole
    from wire import Refusal

CHUNK = 64 << 10
LAST_S = 0.3  # for the last output of a shell that has ended
HANGUP_S = 2.0  # a shell that is hung up on may take so long to end


def resize(fd: int, rows: int, cols: int) -> None:
    size = struct.pack("HHHH", max(1, min(rows, 2000)), max(1, min(cols, 2000)), 0, 0)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, size)


class Terminals:
    """`used` is called at each input and output; `count` are open."""

    def __init__(
        self, children: Children, env: Dict[str, str], workspace: str, used: Callable[[], None]
    ) -> None:
        self.children, self.env, self.workspace, self.used = children, env, workspace, used
        self.loop = asyncio.get_running_loop()
        self.count = 0

    async def serve(self, wire: Wire, request: Json) -> None:
        rows, cols = whole(request, "rows", 24), whole(request, "cols", 80)
        master, slave = os.openpty()
        parent = os.getpid()

        def adopt() -> None:
            die_with_parent(parent)
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        shell = self.env.get("SHELL") or ""
        if not os.access(shell, os.X_OK):
            shell = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
        try:
            resize(slave, rows, cols)
            pid, ended = self.children.spawn(
                [shell, "-i"],
                env=dict(self.env, TERM="xterm-256color", PWD=self.workspace),
                cwd=self.workspace,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
                preexec_fn=adopt,
            )
        except OSError as error:
            os.close(master)
            raise Refusal("io", "%s could not be started: %s" % (shell, error.strerror)) from error
        finally:
            os.close(slave)
        os.set_blocking(master, False)
        self.count += 1
        self.used()
        tasks = []
        try:
            await wire.answer({})
            tasks = [
                self.loop.create_task(self.show(wire, master)),
                self.loop.create_task(self.obey(wire, master)),
            ]
            any_end: List[asyncio.Future[Any]] = [*tasks, ended]
            await asyncio.wait(any_end, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():  # a job of the shell may hold the terminal for ever
                await asyncio.wait(tasks[:1], timeout=LAST_S)
        finally:
            self.count -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            os.close(master)
            signal_group(pid, signal.SIGHUP)
            signal_group(pid, signal.SIGCONT)
            self.loop.create_task(self.bury(pid, ended))

    async def bury(self, pid: int, ended: asyncio.Future[int]) -> None:
        if not await within(ended, HANGUP_S):
            signal_group(pid, signal.SIGKILL)

    async def ready(self, fd: int) -> None:
        """Until a descriptor can be read from."""
        ready: asyncio.Future[None] = self.loop.create_future()

        def tell() -> None:
            if not ready.done():
                ready.set_result(None)

        self.loop.add_reader(fd, tell)
        try:
            await ready
        finally:
            self.loop.remove_reader(fd)

    async def show(self, wire: Wire, master: int) -> None:
        while True:
            await self.ready(master)
            try:
                data = os.read(master, CHUNK)
            except BlockingIOError:
                continue
            except OSError:  # the last process with the terminal has ended
                return
            if not data:
                return
            self.used()
            await wire.send(data)

    async def obey(self, wire: Wire, master: int) -> None:
        while True:
            request = await wire.request()
            if not request:
                return
            size = request.get("size")
            if isinstance(size, list) and len(size) == 2 and all(isinstance(x, int) for x in size):
                resize(master, *size)
            typed = request.get("in")
            if isinstance(typed, str):
                self.used()
                await self.type(master, typed.encode("utf-8", "replace"))

    async def type(self, master: int, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(master, data) :]
            except BlockingIOError:
                # the shell does not read just now
                await asyncio.sleep(0.01)
