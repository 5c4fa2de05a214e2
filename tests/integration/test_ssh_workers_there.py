"""Workers on a host over SSH, against a real sshd: ports, weights, engines and relays there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from nbgpu_backend.control.hosts import code
from nbgpu_backend.domain.supplies import Need, Supplying
from nbgpu_backend.engines.base import WorkerSpec
from nbgpu_backend.engines.command.engine import CommandEngine
from nbgpu_backend.engines.handler import requirements, sdk
from nbgpu_backend.engines.handler.engine import HandlerEngine
from nbgpu_backend.engines.vllm.engine import VllmEngine
from nbgpu_backend.engines.vllm.environment import VERSION, Environment
from nbgpu_backend.errors import BadRequest, EngineMissing, NbgpuError, NotFound
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import LaunchSpec, SupplyHost
from nbgpu_backend.providers.local.relay_client import RelayClient
from nbgpu_backend.providers.ssh.errors import LinkCut
from nbgpu_backend.providers.ssh.provider import SshHost

from tests.support.handlers import handler_folder
from tests.support.hub import Hub
from tests.support.relay import Backend
from tests.support.sshd import Sshd, linked, needs_sshd, serving, tunnel_pid, wait_gone
from tests.support.wheels import endless, wheel

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


async def test_a_log_there_is_followed_through_broken_links_until_the_end(
    server: Sshd, host: SshHost
) -> None:
    script = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.01; done; printf last"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(server.home)}
    await host.launch(LaunchSpec(NAME, 1, ["sh", "-c", script], env, ttl_s=60, grace_s=5))
    lines: list[str] = []
    async with contextlib.aclosing(host.follow(NAME, 1)) as log, asyncio.timeout(60):
        async for some in log:
            if len(lines) < 100 <= len(lines) + len(some):
                os.kill(tunnel_pid(host.link.folder), signal.SIGKILL)
            elif len(lines) < 200 <= len(lines) + len(some):
                for process in server.sessions():
                    os.kill(process, signal.SIGKILL)
            lines += some
    assert lines == [*map(str, range(int(lines[0]), 300)), "last"] and len(lines) > 200
    with pytest.raises(NotFound):
        await anext(host.follow("nbgpu-t-nobody-1", 1))


async def test_a_stream_arrives_whole_whoever_is_slow(host: SshHost) -> None:
    """In pieces of all sizes, many times what may be on its way at once."""
    draw = random.Random(7)
    content = draw.randbytes(24 << 20)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at = 0
        while at < len(content):
            size = draw.choice((1, 200, 3000, 100_000))
            writer.write(content[at : at + size])
            at += size
            await writer.drain()
        writer.close()

    async def digest(port: int, pause_every: int) -> bytes:
        found, since = hashlib.sha256(), 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        while data := await reader.read(1 << 14):
            found.update(data)
            since += len(data)
            if since > pause_every:
                since = 0
                await asyncio.sleep(0.02)
        writer.close()
        return found.digest()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        await host.link.hello()
        here = await host.reach(NAME, server.sockets[0].getsockname()[1])
        whole = hashlib.sha256(content).digest()
        pauses = (1 << 17, 1 << 20, 1 << 30)
        assert await asyncio.gather(*(digest(here, every) for every in pauses)) == [whole] * 3


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
    assert there.parent == models and {path.name for path in models.iterdir()} == {
        there.name,
        ".lock",
    }
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


@pytest.mark.vllm
async def test_weights_of_the_hub_are_fetched_there(
    engine: Environment,
    server: Sshd,
    host: SshHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {
        path.name: path.read_bytes() for path in model_folder(tmp_path / "m", 3 << 20).glob("*.*")
    }
    with Hub(rate=4e6) as hub:
        commit = hub.add("lab/tiny", files)
        hub.add("lab/secret", {**files, "model.safetensors": b"x" * 100_000}, private=True)
        set_there(server, NBGPU_ENGINES=engine.folder.parent, HF_ENDPOINT=hub.endpoint)
        told: list[Supplying] = []
        need = Need("vllm", VERSION, "hub", repo="lab/tiny", commit=commit)
        premises = await supplies(host).bring(need, told.append)
        assert premises.model is not None and premises.model.startswith(premises.hub)
        assert Path(premises.model).is_relative_to(server.nbgpu)
        assert Path(premises.model, "model.safetensors").read_bytes() == files["model.safetensors"]
        assert premises.weights is not None and premises.weights.bytes == 3 << 20
        moved = [now.bytes_done for now in told if now.bytes_total == 3 << 20 or now.bytes_done]
        assert moved == sorted(moved) and len(set(moved)) > 2
        # fetched once
        before = hub.served_all()
        await supplies(SshHost(host.link)).bring(need, told.append)
        assert hub.served_all() == before
        with pytest.raises(
            NotFound, match=r"There is no model lab/none on http.* or it is private"
        ):
            await supplies(host).bring(replace(need, repo="lab/none", commit="main"), told.append)
        # the token of the backend goes along, where the host has none
        monkeypatch.setenv("HF_TOKEN", hub.token)
        secret = replace(need, repo="lab/secret", commit="main")
        assert (await supplies(host).bring(secret, told.append)).model is not None


# programs


SDK = """
import json, os, urllib.request

def start(config):
    key, worker = os.environ["RUNPOD_AI_API_KEY"], os.environ["RUNPOD_POD_ID"]
    def ask(url, data=None):
        request = urllib.request.Request(url, data, {"Authorization": key})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    print("Starting Serverless Worker", flush=True)
    while True:
        take = os.environ["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", worker)
        status, body = ask(take + "&job_in_progress=0")
        if status == 200:
            job = json.loads(body)
            done = os.environ["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$RUNPOD_POD_ID", worker)
            out = json.dumps({"output": config["handler"](job)}).encode()
            ask(done.replace("$ID", job["id"]) + "&isStream=false", out)
"""
HANDLER = """
import runpod
from words import greeting

runpod.serverless.start({"handler": lambda job: greeting + job["input"]})
"""


def no_index(server: Sshd, wheels: Path) -> None:
    """pip there finds the stand-in for the SDK, and nothing else."""
    files = {"runpod/__init__.py": "from . import serverless", "runpod/serverless.py": SDK}
    wheel(wheels, "runpod", sdk.VERSION, files)
    set_there(server, PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1", PIP_FIND_LINKS=wheels)


def handler_need(folder: Path) -> Need:
    file = handler_folder(folder, source=HANDLER)
    (folder / "words.py").write_text('greeting = "hello "')
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("not copied")
    lines = requirements.read(folder).lines
    return Need("handler", "1", "handler", folder=folder, name=file.name, requirements=lines)


async def test_a_handler_there_takes_jobs_and_its_spool_outlives_it(
    server: Sshd, host: SshHost, tmp_path: Path
) -> None:
    no_index(server, tmp_path / "wheels")
    told: list[Supplying] = []
    need = handler_need(tmp_path / "app")
    premises = await supplies(host).bring(need, told.append)
    assert [now.text for now in told if now.text.startswith("installing packages: ")]
    assert premises.model is not None
    copied = Path(premises.model).parent
    assert copied.parent == server.nbgpu / "apps"
    assert sorted(p.name for p in copied.iterdir()) == [
        "handler.py",
        "requirements.txt",
        "words.py",
    ]
    spec = WorkerSpec(
        "h", Path(premises.model), 0, 1, [], endpoint="ep", worker="w1", premises=premises
    )
    command = HandlerEngine(Home(tmp_path / "nowhere")).command(spec)
    assert str(tmp_path / "nowhere") not in json.dumps([command.argv, dict(command.env)])
    launched = await host.launch(
        LaunchSpec(NAME, 1, command.argv, command.env, 60, cwd=premises.cwd)
    )
    first = await relay_of(host)
    took = await first.give(("a", b'{"id":"a","input":"Ann"}'))
    assert took.op == "took"
    post = await first.next("post")
    assert (post.header["job"], json.loads(post.body)) == ("a", {"output": "hello Ann"})
    first.client.ack(post.header["n"])
    # what it posts while nobody listens is read when it is dead
    await first.give(("b", b'{"id":"b","input":"Ben"}'))
    first.client.close()
    log = server.nbgpu / "instances" / NAME / "spool"
    await when(lambda: b"hello Ben" in log.read_bytes())
    os.killpg(launched.pid, signal.SIGKILL)
    assert (await host.wait(NAME)).signal == signal.SIGKILL
    assert await host.relay(NAME) is None
    posts = [post for post in await host.spool(NAME) if post.job == "b"]
    assert [(post.kind, json.loads(post.body)) for post in posts] == [
        ("done", {"output": "hello Ben"})
    ]
    await host.forget(NAME)


async def relay_of(host: SshHost) -> Backend:
    """Our end of its relay, once that listens."""
    return Backend(cast(RelayClient, await when(lambda: host.relay(NAME))))


async def test_requirements_that_fail_there_are_told_by_the_file_here(
    server: Sshd, host: SshHost, tmp_path: Path
) -> None:
    no_index(server, tmp_path / "wheels")
    need = handler_need(tmp_path / "app")
    need = replace(need, requirements=("no-such-thing", *need.requirements))
    with pytest.raises(EngineMissing, match="no-such-thing") as failed:
        await supplies(host).bring(need, lambda now: None)
    assert str(tmp_path / "app" / "requirements.txt") in str(failed.value)
    assert not list((server.nbgpu / "engines" / "handlers").glob("*/.complete"))


async def test_what_is_installed_there_ends_when_nobody_waits_for_it(
    server: Sshd, host: SshHost, tmp_path: Path
) -> None:
    no_index(server, tmp_path / "wheels")
    begun = endless(tmp_path / "wheels", "slow")
    need = handler_need(tmp_path / "app")
    stuck = replace(need, requirements=("slow", *need.requirements))
    asking = asyncio.create_task(supplies(host).bring(stuck, lambda now: None))
    await when(begun.exists)
    assert installers(server)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await when(lambda: not installers(server))
    # so it does when the link is gone
    begun.unlink()
    asking = asyncio.create_task(supplies(host).bring(stuck, lambda now: None))
    await when(begun.exists)
    os.kill(tunnel_pid(host.link.folder), signal.SIGKILL)
    with pytest.raises(LinkCut):
        await asking
    await when(lambda: not installers(server))
    assert not list((server.nbgpu / "engines" / "handlers").glob("*/.complete"))
    assert (await supplies(host).bring(need, lambda now: None)).environment


def installers(server: Sshd) -> list[int]:
    """Processes of pip, and of what it builds, there."""
    found = []
    for pid in server.everything():
        with contextlib.suppress(OSError):
            if b"pip" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


async def test_a_command_there_starts_in_a_copy_of_its_folder(
    server: Sshd, host: SshHost, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("made here")
    need = Need("command", "1", folder=folder)
    premises = await supplies(host).bring(need, lambda now: None)
    assert premises.cwd is not None and Path(premises.cwd).is_relative_to(server.nbgpu)
    port = await host.free_port()
    options = ["python3", "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
    command = CommandEngine(Home(tmp_path / "nowhere")).command(
        WorkerSpec("site", None, port, 1, options, premises=premises)
    )
    assert command.argv[0] == "python3"
    await host.launch(LaunchSpec(NAME, 1, command.argv, command.env, 60, cwd=premises.cwd))
    here = await host.reach(NAME, port)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{here}") as client:

        async def page() -> str:
            try:
                async with client.get("/index.html") as answer:
                    return await answer.text()
            except aiohttp.ClientError as error:
                raise ConnectionError from error

        assert await when(page) == "made here"
        # an edit is another copy; what runs keeps its own
        (folder / "index.html").write_text("made anew")
        assert supplies(host).here(need) is None
        assert (await supplies(host).bring(need, lambda now: None)).cwd != premises.cwd
        assert await page() == "made here"
    await host.stop(NAME, 2)
    await host.forget(NAME)


async def test_two_that_copy_the_same_program_wait_for_each_other(
    server: Sshd, host: SshHost, tmp_path: Path
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    for number in range(200):
        (folder / f"page-{number}").write_bytes(os.urandom(100_000))
    need = Need("command", "1", folder=folder)
    askers = [SshHost(host.link) for _ in range(3)]
    found = await asyncio.gather(*(supplies(one).bring(need, lambda now: None) for one in askers))
    assert len({premises.cwd for premises in found}) == 1
    assert len(list(Path(cast(str, found[0].cwd)).iterdir())) == 200
    assert len(list((server.nbgpu / "apps").iterdir())) == 2  # with the lock


async def test_too_large_a_program_is_refused_with_its_largest_file(
    host: SshHost, tmp_path: Path
) -> None:
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(BadRequest, match=r"the largest file is data.bin \(315 MB\)"):
        await supplies(host).bring(Need("command", "1", folder=tmp_path), lambda now: None)


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
