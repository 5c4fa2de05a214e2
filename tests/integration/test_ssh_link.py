"""The link to a host over SSH, against a real sshd on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend.errors import NotFound
from nbgpu_backend.providers.ssh.errors import HostFailed, LinkCut, PortRefused
from nbgpu_backend.providers.ssh.link import Link

from tests.support.sshd import Sshd, linked, needs_sshd, serving, tunnel_pid, wait_gone
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts run Linux")
NAME = "instances/nbgpu-t-w-1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    needs_sshd()
    with serving(Sshd(tmp_path_factory.mktemp("ssh") / "server")) as made:
        yield made


@pytest.fixture
async def link(server: Sshd, tmp_path: Path) -> AsyncIterator[Link]:
    async with linked(tmp_path / "hosts", server.settings()) as made:
        yield made


def document(script: str, **more: Any) -> dict[str, Any]:
    """A shim's spec."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    return {
        "argv": ["sh", "-c", script],
        "env": env,
        "generation": 1,
        "ttl_s": 60,
        "grace_s": 2,
        **more,
    }


async def the_end(link: Link, folder: str) -> dict[str, Any]:
    """Wait for the exit record, as a provider does: a shim that is about to end does not answer."""
    while True:
        seen = await link.call({"op": "look", "folder": folder})
        if seen["state"] == "ended":
            return dict(seen["exit"])
        with contextlib.suppress(HostFailed):
            answer = await link.call({"op": "ask", "folder": folder, "request": {"op": "wait"}})
            return dict(answer["answer"])


async def ended(link: Link, folder: str) -> dict[str, Any]:
    """The exit record, once it is there; the folder is removed."""
    answer = await link.call({"op": "ask", "folder": folder, "request": {"op": "stop"}})
    await link.call({"op": "remove", "path": folder, "locked": True})
    record: dict[str, Any] = answer["answer"]
    return record


async def test_hello_tells_who_and_what_is_there(server: Sshd, link: Link) -> None:
    seen = await link.hello()
    assert seen["root"] == os.path.realpath(server.nbgpu)
    assert seen["uid"] == os.getuid() and seen["cpus"] >= 1
    assert seen["memory"] > seen["memory_available"] > 0 and seen["disk_free"] > 0
    assert set(seen["tools"]) == {"bwrap", "docker", "podman", "venv"}
    assert seen["gpus"] or seen["gpus_why"]
    status = await link.status()
    assert status["state"] == "connected"
    assert abs(status["clock_offset_us"]) < 1_000_000
    assert status["facts"]["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


# instances


async def test_an_instance_is_launched_looked_at_and_stopped(link: Link) -> None:
    script = "echo up; echo more >&2; exec sleep 100"
    made = await link.call({"op": "launch", "folder": NAME, "document": document(script)})
    assert made["code"] == 0, made
    assert (await link.call({"op": "list", "prefix": "nbgpu-t-"}))["names"] == ["nbgpu-t-w-1"]
    seen = await link.call({"op": "look", "folder": NAME})
    assert (seen["state"], seen["record"]["pid"]) == ("running", made["line"]["pid"])
    assert 50 < seen["status"]["lease_s"] <= 60
    async with asyncio.timeout(10):
        while len((await link.call({"op": "logs", "folder": NAME}))["lines"]) < 2:
            await asyncio.sleep(0.02)
    held = await link.call({"op": "memory", "folders": [NAME]})
    assert held["memory"][NAME] > 0 and held["available"] > 0
    request = {"op": "renew", "ttl_s": 500}
    answer = await link.call({"op": "ask", "folder": NAME, "request": request, "timeout_s": 5})
    assert answer == {"answer": {"lease_s": 500.0}}
    # a wait stands until the end, beside other calls
    waiting = asyncio.create_task(the_end(link, NAME))
    request = {"op": "stop"}
    record = (await link.call({"op": "ask", "folder": NAME, "request": request}))["answer"]
    assert (record["reason"], record["signal"]) == ("asked", signal.SIGTERM)
    assert await waiting == record
    await link.call({"op": "remove", "path": NAME, "locked": True})
    assert (await link.call({"op": "look", "folder": NAME})) == {"state": "gone"}


async def test_a_launch_that_fails_says_what_the_shim_said(link: Link) -> None:
    bad = document("true", argv=["/no/such/engine"])
    made = await link.call({"op": "launch", "folder": NAME, "document": bad})
    assert made["code"] == 127 and made["line"]["kind"] == "exec"
    assert "/no/such/engine" in made["line"]["error"]
    again = await link.call({"op": "launch", "folder": NAME, "document": document("true")})
    assert again["line"]["kind"] == "used"
    await link.call({"op": "remove", "path": NAME, "locked": True})


async def test_a_killed_shim_is_lost_and_what_it_left_is_ended(link: Link) -> None:
    script = "setsid sleep 1000 & sleep 1001 & echo up; wait"
    made = await link.call({"op": "launch", "folder": NAME, "document": document(script)})
    async with asyncio.timeout(10):
        while not (await link.call({"op": "logs", "folder": NAME}))["lines"]:
            await asyncio.sleep(0.02)
    os.kill(made["line"]["shim"], signal.SIGKILL)
    seen = await link.call({"op": "look", "folder": NAME})
    assert (seen["state"], seen["exit"]["reason"], seen["exit"]["tail"]) == (
        "ended",
        "lost",
        ["up"],
    )
    wait_gone(made["line"]["pid"])
    assert (await link.call({"op": "look", "folder": NAME}))["exit"] == seen["exit"]
    await link.call({"op": "remove", "path": NAME, "locked": True})


# files below the root


async def test_files_are_written_whole_moved_and_removed(server: Sshd, link: Link) -> None:
    await link.call({"op": "write", "path": "a/b", "data": "text", "mode": 0o640})
    assert (server.nbgpu / "a/b").stat().st_mode & 0o777 == 0o640
    await link.call({"op": "write", "path": "a/c", "data64": "/wA="})
    assert await link.call({"op": "read", "path": "a/b"}) == {"data": "text"}
    assert await link.call({"op": "read", "path": "a/c"}) == {"data64": "/wA="}
    await link.call({"op": "rename", "path": "a/b", "to": "a/d"})
    assert (await link.call({"op": "size", "path": "a"}))["bytes"] > 0
    assert (await link.call({"op": "mkdir", "path": "a/e/f"}))["made"]
    seen = await link.call({"op": "stat", "path": "a/d"})
    assert (seen["type"], seen["size"]) == ("file", 4)
    assert await link.call({"op": "remove", "path": "a"}) == {"removed": True}
    assert await link.call({"op": "remove", "path": "a"}) == {"removed": False}
    with pytest.raises(NotFound, match="a/d"):
        await link.call({"op": "read", "path": "a/d"})


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", ".", "a/../../x", "out/x"])
async def test_nothing_outside_of_the_root_is_removed(
    server: Sshd, link: Link, path: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_text("mine")
    await link.call({"op": "mkdir", "path": "."})
    out = server.nbgpu / "out"
    out.unlink(missing_ok=True)
    out.symlink_to(tmp_path)
    for op in ("remove", "write", "read"):
        with pytest.raises(HostFailed) as caught:
            await link.call({"op": op, "path": path, "data": ""})
        assert caught.value.code == "denied"
    # a link itself is removed, and not what it leads to
    assert await link.call({"op": "remove", "path": "out"}) == {"removed": True}
    assert (tmp_path / "x").read_text() == "mine"


# commands


async def test_a_command_streams_its_lines_and_tells_its_code(link: Link) -> None:
    script = "read x; echo got $x; echo bad >&2; printf tail; exit 3"
    request = {"op": "run", "argv": ["sh", "-c", script], "stdin": "word\n"}
    lines = [line async for line in link.stream(request)]
    assert lines[-1] == {"code": 3, "signal": None}
    said = {(line["stream"], line["line"]) for line in lines[:-1]}
    assert said == {(1, "got word"), (2, "bad"), (1, "tail")}


async def test_a_command_that_cannot_be_run_is_said_so(link: Link) -> None:
    with pytest.raises(NotFound, match="/no/such"):
        async for _ in link.stream({"op": "run", "argv": ["/no/such"]}):
            pass


async def test_a_command_dies_with_whoever_reads_it(link: Link) -> None:
    script = "echo $$; (trap '' TERM; sleep 1000) & sleep 1001"
    lines = link.stream({"op": "run", "argv": ["sh", "-c", script], "grace_s": 0.2})
    pid = int((await anext(lines))["line"])
    await lines.aclose()
    await asyncio.to_thread(wait_gone, pid)


async def test_a_reader_that_is_slow_stops_the_command_and_nothing_else(link: Link) -> None:
    lines = link.stream({"op": "run", "argv": ["sh", "-c", "while :; do echo $$; done"]})
    first = await anext(lines)
    await asyncio.sleep(1)
    async with asyncio.timeout(30):  # or never, if all waited behind it
        assert (await link.call({"op": "hello", "tools": False}))["uid"] == os.getuid()
    await lines.aclose()
    await asyncio.to_thread(wait_gone, int(first["line"]))


# sockets and ports


@contextlib.asynccontextmanager
async def echo(path: Path) -> AsyncIterator[None]:
    """A unix socket that gives back what it gets, until the end of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.write(b"the end")
            writer.close()

    path.parent.mkdir(parents=True, exist_ok=True)
    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def exchange(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes
) -> bytes:
    """Send all, close that direction, read all."""
    reader, writer = streams

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    found = await reader.read()
    await sending
    writer.close()
    return found


async def test_bytes_pass_both_ways_to_a_unix_socket(server: Sshd, link: Link) -> None:
    data = os.urandom(3 << 20)
    async with asyncio.timeout(60), echo(server.nbgpu / "run/e"):
        assert await exchange(await link.connect(unix="run/e"), data) == data + b"the end"
        away = str(server.nbgpu / "run/e")
        assert await exchange(await link.connect(unix=away), b"x") == b"xthe end"
    with pytest.raises(PortRefused, match="run/e"):
        await link.connect(unix="run/e")


async def test_bytes_pass_both_ways_to_a_port(link: Link) -> None:
    data = os.urandom(3 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while got := await reader.read(1 << 16):
            writer.write(got)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with asyncio.timeout(60), listening:
        assert await exchange(await link.connect(port=port), data) == data
    with pytest.raises(PortRefused, match=str(port)):
        await link.connect(port=port)


async def test_fifty_connections_at_once(server: Sshd, link: Link) -> None:
    async with asyncio.timeout(120), echo(server.nbgpu / "run/e"):

        async def one(number: int) -> None:
            data = bytes([number]) * 100_000
            streams = await link.connect(unix="run/e", patience_s=60)
            assert await exchange(streams, data) == data + b"the end"

        await asyncio.gather(*(one(number) for number in range(50)))


async def test_an_exposed_socket_leads_there(server: Sshd, link: Link, tmp_path: Path) -> None:
    local = tmp_path / ("a-folder-with-a-long-name-" * 4) / "k-1"
    local.parent.mkdir()
    await link.expose(local, unix="run/e")
    assert local.stat().st_mode & 0o777 == 0o600
    fd = os.open(local.parent, os.O_PATH)
    async with asyncio.timeout(60), echo(server.nbgpu / "run/e"):
        for _ in range(3):
            streams = await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/k-1")
            assert await exchange(streams, b"hello") == b"hellothe end"
    assert (await link.status())["exposed"] == [str(local)]
    await link.unexpose(local)
    assert not local.exists() and (await link.status())["exposed"] == []
    os.close(fd)


# what dies


async def test_a_killed_tunnel_is_started_again_and_exposes_again(
    server: Sshd, link: Link, tmp_path: Path
) -> None:
    await link.expose(tmp_path / "k", unix="run/e")
    made = await link.call({"op": "launch", "folder": NAME, "document": document("sleep 100")})
    lines = link.stream({"op": "run", "argv": ["sh", "-c", "echo $$; sleep 1000"]})
    command = int((await anext(lines))["line"])
    pid = (await link.status())["pid"]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(LinkCut):
        await anext(lines)
    seen = await link.call({"op": "look", "folder": NAME}, patience_s=20)
    assert (seen["state"], seen["record"]["pid"]) == ("running", made["line"]["pid"])
    assert (await link.status())["pid"] != pid
    await asyncio.to_thread(wait_gone, command)
    async with asyncio.timeout(30), echo(server.nbgpu / "run/e"):
        streams = await asyncio.open_unix_connection(tmp_path / "k")
        assert await exchange(streams, b"x") == b"xthe end"
    await ended(link, NAME)


@pytest.mark.parametrize("victim", ["session", "program"])
async def test_a_link_that_is_killed_there_is_made_again(
    server: Sshd, link: Link, victim: str
) -> None:
    await link.call({"op": "launch", "folder": NAME, "document": document("sleep 100")})
    waiting = asyncio.create_task(
        link.call({"op": "ask", "folder": NAME, "request": {"op": "wait"}})
    )
    lines = link.stream({"op": "run", "argv": ["sh", "-c", "echo $$; sleep 1000"]})
    command = int((await anext(lines))["line"])
    for pid in server.sessions() if victim == "session" else server.programs():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(LinkCut):
        await waiting
    with pytest.raises(LinkCut):
        await anext(lines)
    await asyncio.to_thread(wait_gone, command)
    assert (await link.call({"op": "look", "folder": NAME}))["state"] == "running"
    assert (await link.status())["connects"] == 2
    assert (await ended(link, NAME))["reason"] == "asked"
    await asyncio.to_thread(until, lambda: len(server.programs()) == 1)


async def test_two_links_share_one_tunnel(server: Sshd, link: Link, tmp_path: Path) -> None:
    folder = tmp_path / "hosts/box"
    others = [Link(folder) for _ in range(4)]
    seen = await asyncio.gather(*(other.status() for other in [*others, link]))
    assert len({status["pid"] for status in seen}) == 1
    # those that came too late have gone
    await asyncio.to_thread(until, lambda: tunnel_pid(folder) == seen[0]["pid"])


async def test_a_request_that_is_none_harms_nobody(link: Link, tmp_path: Path) -> None:
    await link.hello()
    for raw in (b"\n", b"[]\n", b"{}\n", b'{"op": "call"}\n', b'{"op": "connect"}\n', b"\xff\n"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "hosts/box/sock")
        assert (await reader.readline()).startswith(b"nbgpu-tunnel-")
        writer.write(raw)
        assert json.loads(await reader.readline())["kind"] == "bad_request"
        writer.close()
    with pytest.raises(Exception, match="op"):
        await link.call({"op": "no-such-op"})
    with pytest.raises(Exception, match="not understood"):
        await link.call({"op": "launch"})


async def test_a_launch_that_was_cut_leaves_one_instance_or_none(server: Sshd, link: Link) -> None:
    """Whoever was told `cut` looks, and launches the name again: it never runs twice."""
    spec = document(f"echo one >> {server.root}/ran; sleep 100")
    for number in range(4):
        name = f"instances/nbgpu-t-cut-{number}"
        (server.root / "ran").unlink(missing_ok=True)
        await link.call({"op": "stat", "path": "."}, patience_s=20)
        launching = asyncio.create_task(
            link.call({"op": "launch", "folder": name, "document": spec})
        )
        await asyncio.sleep(0.01 * number)
        for pid in server.programs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(LinkCut):
            await launching
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(LinkCut):  # the tunnel may not know yet
                    seen = await link.call({"op": "look", "folder": name}, patience_s=20)
                    if seen["state"] == "running" and seen["status"]:
                        break
                    again = await link.call({"op": "launch", "folder": name, "document": spec})
                    assert again["code"] in (0, 75, 76), again
        await asyncio.to_thread(until, lambda: (server.root / "ran").exists())
        assert (server.root / "ran").read_text() == "one\n"
        await ended(link, name)


# files of people


@pytest.mark.parametrize("size", [0, 1, 100_000, 65 << 20])
async def test_a_file_goes_there_and_back(
    server: Sshd, link: Link, tmp_path: Path, size: int
) -> None:
    source = tmp_path / 'it\'s "a" [file]*? \\.bin'
    source.write_bytes(os.urandom(size))
    source.chmod(0o750)
    told: list[tuple[int, int]] = []
    (server.home / "data").mkdir(exist_ok=True)
    sent = await link.put(source, "~/data", progress=lambda *now: told.append(now))
    there = server.home / "data" / source.name
    assert there.read_bytes() == source.read_bytes() and there.stat().st_mode & 0o777 == 0o750
    assert sent["size"] == size
    assert (await link.call({"op": "hash", "path": str(there)})) == sent
    (tmp_path / "back").mkdir()
    got = await link.get(str(there), tmp_path / "back")
    back = tmp_path / "back" / source.name
    assert got == sent and back.read_bytes() == source.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o750
    assert all(done <= all_of_it == size for done, all_of_it in told), told
    assert [x.name for x in there.parent.iterdir() if x.name.startswith(".")] == []
    there.unlink()


async def test_a_transfer_goes_on_from_its_part_and_starts_anew_from_a_wrong_one(
    server: Sshd, link: Link, tmp_path: Path
) -> None:
    source, part = tmp_path / "f", server.nbgpu / ".f.part"
    source.write_bytes(os.urandom(3 << 20))
    for beginning in (source.read_bytes()[: 1 << 20], b"of another file", bytes(5 << 20)):
        part.write_bytes(beginning)
        await link.put(source, "f")
        assert (server.nbgpu / "f").read_bytes() == source.read_bytes() and not part.exists()
        (tmp_path / ".g.part").write_bytes(beginning)
        await link.get("f", tmp_path / "g")
        assert (tmp_path / "g").read_bytes() == source.read_bytes()
        assert not (tmp_path / ".g.part").exists()


async def test_files_that_cannot_be_moved_are_said_so(link: Link, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(NotFound, match="no/folder"):
        await link.put(tmp_path / "f", "no/folder/f")
    with pytest.raises(NotFound, match="no-such"):
        await link.put(tmp_path / "no-such", "f")
    with pytest.raises(NotFound, match="nothing"):
        await link.get("nothing", tmp_path / "g")


# what is there


SMI = """#!/bin/sh
case "$*" in *memory.total*csv,noheader,nounits*) ;; *) exit 9;; esac
echo '0, GPU-1a, NVIDIA A100-SXM4-80GB, 81920, 1024, 7, 550.54, 00000000:07:00.0, Disabled'
echo '1, GPU-2b, NVIDIA A100-SXM4-80GB, 81920, [N/A], [N/A], 550.54, 00000000:0F:00.0, Enabled'
"""


async def test_gpus_are_told_and_so_is_why_there_are_none(tmp_path: Path) -> None:
    needs_sshd()
    programs = tmp_path / "bin"
    programs.mkdir()
    smi = programs / "nvidia-smi"
    with serving(Sshd(tmp_path / "server")) as server:
        (server.home / ".bashrc").write_text(f"PATH={programs}:$PATH\n")
        async with linked(tmp_path / "hosts", server.settings()) as link:
            smi.write_text(SMI)
            smi.chmod(0o755)
            first, second = (await link.hello())["gpus"]
            assert (first["name"], first["memory_total_mib"], first["mig"]) == (
                "NVIDIA A100-SXM4-80GB",
                81920,
                False,
            )
            assert (second["index"], second["memory_used_mib"], second["mig"]) == (1, None, True)
            smi.write_text("#!/bin/sh\necho Driver/library version mismatch.\nexit 18\n")
            seen = await link.hello()
            assert seen["gpus"] == [] and "version mismatch" in seen["gpus_why"]
