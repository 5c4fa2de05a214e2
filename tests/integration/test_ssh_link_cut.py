"""A network that breaks and comes back, between real hosts in network namespaces."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.providers.ssh.errors import HostUnreachable, LinkCut
from nbgpu_backend.providers.ssh.link import Link, Streams
from nbgpu_backend.providers.ssh.settings import Times

from tests.support.sshd import QUICK, Net, Sshd, linked, needs_sshd, serving, wait_gone
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts run Linux")
ECHO = """
import os, socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingUnixStreamServer):
    request_queue_size = 64
Server("echo", Echo).serve_forever()
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    needs_sshd()
    made = Net(3)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def server(net: Net, tmp_path: Path) -> Iterator[Sshd]:
    with serving(Sshd(tmp_path / "server", net.address(0), enter=net.enter(0), port=22)) as made:
        yield made


@pytest.fixture
async def link(net: Net, server: Sshd, tmp_path: Path) -> AsyncIterator[Link]:
    async with linked(tmp_path / "hosts", server.settings()) as made:
        yield made
        net.restore(0)


async def launch_echo(link: Link) -> str:
    """An instance whose socket gives lines back. -> the path of the socket"""
    folder = "instances/nbgpu-t-echo-1"
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    spec = {"argv": ["python3", "-c", ECHO], "env": env, "generation": 1, "ttl_s": 120}
    made = await link.call({"op": "launch", "folder": folder, "document": spec})
    assert made["code"] == 0, made
    async with asyncio.timeout(10):
        while (await link.call({"op": "stat", "path": f"{folder}/echo"}))["type"] == "none":
            await asyncio.sleep(0.02)
    return f"{folder}/echo"


async def says(streams: Streams, word: str, within: float = 10) -> bool:
    """Whether a line comes back."""
    reader, writer = streams
    try:
        writer.write(word.encode() + b"\n")
        async with asyncio.timeout(within):
            return await reader.readline() == word.encode() + b"\n"
    except (OSError, TimeoutError):
        return False


async def test_a_short_cut_breaks_nothing(net: Net, server: Sshd, tmp_path: Path) -> None:
    """5 s, with the times that people get."""
    async with linked(tmp_path / "hosts", server.settings(times=Times())) as link:
        path = await launch_echo(link)
        local = tmp_path / "k"
        await link.expose(local, unix=path)
        connections = [await link.connect(unix=path), await asyncio.open_unix_connection(local)]
        assert all([await says(each, "before") for each in connections])
        waiting = asyncio.create_task(
            link.call({"op": "ask", "folder": path[:-5], "request": {"op": "wait"}})
        )
        net.cut(0)
        for _, writer in connections:
            writer.write(b"meanwhile\n")
        await asyncio.sleep(5)
        net.restore(0)
        for reader, _ in connections:
            async with asyncio.timeout(20):
                assert await reader.readline() == b"meanwhile\n"
        assert all([await says(each, "after") for each in connections])
        assert (await link.status())["connects"] == 1 and not waiting.done()
        waiting.cancel()
        for _, writer in connections:
            writer.close()
        await link.call({"op": "ask", "folder": path[:-5], "request": {"op": "stop"}})


async def test_a_long_cut_ends_what_was_in_flight_and_files_go_on(
    net: Net, server: Sshd, tmp_path: Path
) -> None:
    """30 s, with the times that people get, in the middle of everything."""
    net.slow(0, 200)
    small, large, back = (tmp_path / x for x in ("small", "large", "back"))
    small.write_bytes(os.urandom(60 << 20))
    large.write_bytes(os.urandom(90 << 20))  # goes by OpenSSH's client where there is one
    back_there = server.home / "back"
    back_there.write_bytes(os.urandom(60 << 20))
    async with linked(tmp_path / "hosts", server.settings(times=Times())) as link:
        path = await launch_echo(link)
        local = tmp_path / "k"
        await link.expose(local, unix=path)
        connection = await link.connect(unix=path)
        exposed = await asyncio.open_unix_connection(local)
        assert await says(connection, "before") and await says(exposed, "before")
        waiting = asyncio.create_task(
            link.call({"op": "ask", "folder": path[:-5], "request": {"op": "wait"}})
        )
        moved = {"small": 0, "large": 0, "back": 0}
        begun = asyncio.Event()

        def tell(name: str, done: int, size: int) -> None:
            moved[name] = done
            if all(each > 1 << 20 for each in moved.values()):
                begun.set()

        transfers = [
            asyncio.create_task(link.put(small, "~/small", progress=lambda *n: tell("small", *n))),
            asyncio.create_task(link.put(large, "~/large", progress=lambda *n: tell("large", *n))),
            asyncio.create_task(link.get("~/back", back, progress=lambda *n: tell("back", *n))),
        ]
        async with asyncio.timeout(30):
            await begun.wait()
        assert not any(transfer.done() for transfer in transfers)
        net.cut(0)
        began = time.monotonic()
        with pytest.raises(LinkCut):
            async with asyncio.timeout(25):
                await waiting
        # the raw ones broke, and are no black holes
        async with asyncio.timeout(5):
            assert await connection[0].read() == b"" and await exposed[0].read() == b""
        early = await asyncio.open_unix_connection(local)  # accepted, and waits
        with pytest.raises(HostUnreachable):
            await link.call({"op": "hello"}, patience_s=1)
        await asyncio.sleep(30 - (time.monotonic() - began))
        status = await link.status()
        assert status["state"] == "unreachable" and status["sentence"]
        # since the link was lost, not since the last try
        assert 8 < time.time() - status["since_us"] / 1e6 < 31
        net.restore(0)
        async with asyncio.timeout(120):
            assert await says(early, "through", 60)
            results = await asyncio.gather(*transfers)
        pairs = [(small, server.home / "small"), (large, server.home / "large"), (back_there, back)]
        for result, (source, target) in zip(results, pairs, strict=True):
            expected = hashlib.sha256(source.read_bytes()).hexdigest()
            assert result["sha256"] == expected
            assert hashlib.sha256(target.read_bytes()).hexdigest() == expected
        assert not list(server.home.glob(".*.part")) and not list(tmp_path.glob(".*.part"))
        seen = await link.call({"op": "look", "folder": path[:-5]})
        assert seen["state"] == "running"
        await link.call({"op": "ask", "folder": path[:-5], "request": {"op": "stop"}})
        for streams in (connection, exposed, early):
            streams[1].close()


async def test_what_was_run_over_a_link_that_is_gone_ends_there(
    net: Net, server: Sshd, link: Link
) -> None:
    lines = link.stream({"op": "run", "argv": ["sh", "-c", "echo $$; sleep 1000"]})
    command = int((await anext(lines))["line"])
    net.cut(0)
    with pytest.raises(LinkCut):
        await anext(lines)
    # nobody tells the host that the link is gone: it notices by itself
    await asyncio.to_thread(wait_gone, command, QUICK.orphan_s + 5)
    await asyncio.to_thread(until, lambda: server.programs() == [], within=5)
    net.restore(0)
    assert (await link.call({"op": "hello"}, patience_s=30))["uid"] == os.getuid()


async def test_a_host_that_freezes_is_noticed(server: Sshd, link: Link) -> None:
    await link.hello()
    (program,) = server.programs()
    os.kill(program, signal.SIGSTOP)
    with pytest.raises(LinkCut):
        await link.call({"op": "hello"})
    # the next one is served by a new program
    assert (await link.call({"op": "hello"}, patience_s=20))["pid"] != program
    os.kill(program, signal.SIGCONT)
    await asyncio.to_thread(until, lambda: program not in server.programs())


async def test_asking_makes_it_try_at_once(net: Net, server: Sshd, link: Link) -> None:
    await link.hello()
    net.cut(0)
    server_gone = time.monotonic()
    async with asyncio.timeout(20):
        while (await link.status())["state"] != "unreachable":
            await asyncio.sleep(0.1)
    assert time.monotonic() - server_gone > 2
    with pytest.raises(NbgpuError):
        await link.call({"op": "hello"}, patience_s=8)
    net.restore(0)
    assert (await link.reconnect(wait_s=10))["state"] == "connected"
