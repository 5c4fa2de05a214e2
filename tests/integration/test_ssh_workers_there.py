"""Workers on a host over SSH, against a real sshd: ports, weights, engines and relays there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nbgpu_backend.control.hosts import code
from nbgpu_backend.domain.supplies import Need, Supplying
from nbgpu_backend.engines.base import WorkerSpec
from nbgpu_backend.engines.vllm.engine import VllmEngine
from nbgpu_backend.engines.vllm.environment import VERSION, Environment
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import LaunchSpec, SupplyHost
from nbgpu_backend.providers.ssh.errors import LinkCut
from nbgpu_backend.providers.ssh.provider import SshHost

from tests.support.sshd import Sshd, linked, needs_sshd, serving, tunnel_pid, wait_gone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts run Linux")
NAME = "nbgpu-t-w-1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    needs_sshd()
    with serving(Sshd(tmp_path / "server")) as made:
        yield made


@pytest.fixture
async def host(server: Sshd, tmp_path: Path) -> AsyncIterator[SshHost]:
    async with linked(tmp_path / "hosts", replace(server.settings(), code=code())) as link:
        yield SshHost(link)


def set_there(server: Sshd, **variables: object) -> None:
    """In the environment of that user, from the next login on."""
    lines = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
    (server.home / ".bashrc").write_text(lines)


def supplies(host: SshHost) -> SupplyHost:
    assert host.supplies is not None
    return host.supplies


async def when(look: Callable[[], Any], within: float = 20.0) -> Any:
    """The first truthy answer, awaited where it can be."""
    async with asyncio.timeout(within):
        while True:
            with contextlib.suppress(NbgpuError, OSError):
                found = look()
                if found := await found if asyncio.iscoroutine(found) else found:
                    return found
            await asyncio.sleep(0.02)


# ports


@contextlib.asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that gives lines back; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def says(port: int, word: bytes = b"hello\n") -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(word)
        return await reader.readline() == word
    finally:
        writer.close()


async def test_a_port_there_is_reached_through_one_here(server: Sshd, host: SshHost) -> None:
    free = await host.free_port(2)
    assert free != await host.free_port()
    async with echo() as port:
        here = await host.reach(NAME, port)
        assert here != port and await host.reach(NAME, port) == here
        assert await says(here, b"x" * 50_000 + b"\n")
        assert all(await asyncio.gather(*(says(here) for _ in range(20))))
        # a dead tunnel is followed by one that listens where it did
        pid = tunnel_pid(host.link.folder)
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        await host.link.status()
        await when(lambda: says(here))
        assert await host.reach(NAME, port) == here
        # a link that breaks takes its connections along
        reader, writer = await asyncio.open_connection("127.0.0.1", here)
        writer.write(b"first\n")
        assert await reader.readline() == b"first\n"
        for process in server.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()
        await when(lambda: says(here))
        await host.forget(NAME)
        with pytest.raises(ConnectionRefusedError):
            await says(here)


async def test_a_port_is_another_one_where_it_was_taken_meanwhile(host: SshHost) -> None:
    async with echo() as port:
        here = await host.reach(NAME, port)
        await host.link.end()
        wait_gone(tunnel_pid_or(host, 0))
        taken = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", here)
        async with taken:
            other = await host.reach(NAME, port)
            assert other != here and await when(lambda: says(other))


def tunnel_pid_or(host: SshHost, other: int) -> int:
    try:
        return tunnel_pid(host.link.folder)
    except OSError:
        return other


async def test_connections_end_at_once_while_the_host_is_away(server: Sshd, host: SshHost) -> None:
    async with echo() as port:
        here = await host.reach(NAME, port)
        assert await when(lambda: says(here)) and await host.away() == ""
        server.stop()
        await when(host.away)
        reader, writer = await asyncio.open_connection("127.0.0.1", here)
        async with asyncio.timeout(1):
            assert await reader.read() == b""
        writer.close()
        assert await host.reach(NAME, port) == here
        server.start()
        await when(lambda: says(here), within=30)


# instances


async def test_an_instance_there_is_paused_and_its_files_are_read(host: SshHost) -> None:
    spec = LaunchSpec(
        NAME, 1, ["sleep", "100"], {"PATH": "/usr/bin:/bin"}, 60, secrets={"key": "k-1"}
    )
    await host.launch(spec)
    assert await host.read_secret(NAME, "key") == "k-1"
    assert await host.read_secret(NAME, "other") is None
    assert await host.relay(NAME) is None and list(await host.spool(NAME)) == []
    assert await host.pause(NAME, 500) and (await host.observe(NAME)).paused
    assert await host.resume(NAME, 0) and not (await host.observe(NAME)).paused
    assert (await host.stop(NAME, 2)).reason == "asked"
    assert not await host.pause(NAME, 0) and not await host.renew(NAME, 60)
    await host.forget(NAME)


# weights


def model_folder(folder: Path, size: int) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"dtype": "bfloat16", "max_position_embeddings": 64}')
    (folder / "model.safetensors").write_bytes(os.urandom(size))
    (folder / "more").mkdir()
    (folder / "more" / "vocab.txt").write_text("a b")
    (folder / "pytorch_model.bin").write_bytes(b"the same once more")
    return folder


@pytest.mark.vllm
async def test_a_directory_of_weights_is_copied_once_and_gone_on_with(
    engine: Environment, server: Sshd, host: SshHost, tmp_path: Path
) -> None:
    set_there(server, NBGPU_ENGINES=engine.folder.parent)
    folder = model_folder(tmp_path / "model", 300 << 20)
    need = Need("vllm", VERSION, "directory", folder=folder)
    assert supplies(host).here(need) is None
    told: list[Supplying] = []
    killed: list[int] = []

    def kill_half_way(now: Supplying) -> None:
        told.append(now)
        if now.bytes_done > 60 << 20 and not killed:
            killed.append(tunnel_pid(host.link.folder))
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(LinkCut):
        await supplies(host).bring(need, kill_half_way)
    models = server.nbgpu / "models"
    sent = sum(path.stat().st_size for path in models.rglob("*") if path.is_file())
    assert killed and 60 << 20 <= sent < 300 << 20
    told.clear()
    premises = await supplies(host).bring(need, told.append)
    copied = [now for now in told if now.bytes_total]
    begun = next(now.bytes_done for now in copied if now.bytes_done > 1 << 20)
    assert begun >= sent - (1 << 20)
    assert premises.model is not None
    there = Path(premises.model)
    assert there.parent == models and [path.name for path in models.iterdir()] == [there.name]
    for name in ("config.json", "model.safetensors", "more/vocab.txt"):
        assert (there / name).read_bytes() == (folder / name).read_bytes()
    assert not (there / "pytorch_model.bin").exists()
    assert premises.weights is not None
    assert (premises.weights.bytes, premises.weights.dtype) == (300 << 20, "bfloat16")
    assert premises.environment == str(engine.folder) and premises.flags and premises.cores >= 1
    # it is known now, until the folder changes
    assert supplies(host).here(need) is premises
    told.clear()
    assert (await SshHost(host.link).supplies.bring(need, told.append)) == premises  # type: ignore[union-attr]
    assert not [now for now in told if now.bytes_total]
    (folder / "config.json").write_text("{}")
    assert supplies(host).here(need) is None


# a worker


@pytest.mark.vllm
async def test_a_vllm_worker_there_answers_through_a_port_here(
    engine: Environment, tiny_llama: Path, server: Sshd, host: SshHost, tmp_path: Path
) -> None:
    set_there(server, NBGPU_ENGINES=engine.folder.parent, OPENBLAS_CORETYPE="Haswell")
    need = Need("vllm", VERSION, "directory", folder=tiny_llama)
    premises = await supplies(host).bring(need, lambda now: None)
    assert premises.model is not None
    port = await host.free_port()
    command = VllmEngine(Home(tmp_path / "nowhere")).command(
        WorkerSpec(
            "tiny", Path(premises.model), port, 1, ["--max-model-len", "512"], premises=premises
        )
    )
    assert str(tmp_path / "nowhere") not in json.dumps([command.argv, dict(command.env)])
    assert command.env["OPENBLAS_CORETYPE"] == "Haswell"
    env = {**command.env, "VLLM_API_KEY": "k"}
    await host.launch(LaunchSpec(NAME, 1, command.argv, env, 600, cwd=premises.cwd))
    here = await host.reach(NAME, port)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{here}") as client:

        async def healthy() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get("/health") as answer:
                    return answer.status == 200
            seen = await host.observe(NAME)
            assert seen.state == "running", await host.logs(NAME, 40)
            await asyncio.sleep(0.3)
            return False

        async def complete() -> dict[str, Any]:
            asked = {"model": "tiny", "prompt": "def f(", "max_tokens": 8, "ignore_eos": True}
            headers = {"Authorization": "Bearer k"}
            async with client.post("/v1/completions", json=asked, headers=headers) as answer:
                return dict(await answer.json())

        await when(healthy, within=150)
        assert (await complete())["usage"]["completion_tokens"] == 8
        assert (await host.memory([NAME]))[NAME] > 500 << 20
        assert await host.pause(NAME, 500)
        asked = asyncio.create_task(complete())
        done, _ = await asyncio.wait({asked}, timeout=1)
        assert not done
        assert await host.resume(NAME, 0)
        assert (await asked)["usage"]["completion_tokens"] == 8
    ended = await host.stop(NAME, 40)
    assert ended.reason == "asked"
    await host.forget(NAME)
    assert list((server.nbgpu / "instances").iterdir()) == []
    await host.link.end()
    wait_gone(tunnel_pid_or(host, 0))
    await when(lambda: not server.everything())
