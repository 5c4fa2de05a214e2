"""Pre-imported parents on a host over SSH, with a toy for an engine, and the real one once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from nbgpu_backend.control.hosts import code
from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.providers.base import LaunchSpec
from nbgpu_backend.providers.ssh.provider import SshHost

from tests.support.ssh_workers import HostsBackend, engines_there
from tests.support.sshd import Sshd, linked, needs_sshd, serving, tunnel_pid, wait_gone
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts run Linux")

KEY = "toy-1"
TOY = """
import os, sys, time

def prepare():
    exec(os.environ.get("PREPARE", ""), globals())

def run(argv):
    print("forked", argv[-1], flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    needs_sshd()
    with serving(Sshd(tmp_path / "server")) as made:
        (made.home / "toy.py").write_text(TOY)
        yield made


@pytest.fixture
async def host(server: Sshd, tmp_path: Path) -> AsyncIterator[SshHost]:
    async with linked(tmp_path / "hosts", replace(server.settings(), code=code())) as link:
        yield SshHost(link)


async def wanted(
    server: Sshd, host: SshHost, number: int = 1, prepare: str = "", idle_s: float = 60.0
) -> LaunchSpec:
    """An instance that says `forked`, or `plain` where it is exec'ed."""
    facts = await host.link.call({"op": "hello", "tools": False})
    argv = [sys.executable, f"{facts['code']}/parent.py", str(server.home / "toy.py")]
    env = {"HOME": str(server.home), "PREPARE": prepare}
    return LaunchSpec(
        name=f"nbgpu-t-w-{number}",
        generation=1,
        argv=["sh", "-c", "echo plain; sleep 1000", "word"],
        env={"HOME": str(server.home), "PATH": os.environ["PATH"]},
        ttl_s=60.0,
        parent=ParentSpec(KEY, argv, env, idle_s),
    )


async def said(host: SshHost, name: str) -> list[str]:
    async with asyncio.timeout(10):
        while not (lines := await host.logs(name)):
            await asyncio.sleep(0.02)
    return lines


async def test_a_worker_there_is_forked_from_a_parent_that_the_next_one_finds(
    server: Sshd, host: SshHost
) -> None:
    first = await host.launch(await wanted(server, host))
    assert (first.tier, first.fell_back) == ("preimported", "") and first.parent_s > 0
    assert await said(host, "nbgpu-t-w-1") == ["forked word"]
    (parent,) = await host.parents()
    assert parent.key == KEY and parent.ready and parent.pss > 1 << 20
    # whatever brought it up may go: the tunnel, the session, and our program there
    pid = tunnel_pid(host.link.folder)
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    for program in server.programs():
        os.kill(program, signal.SIGKILL)
    second = await host.launch(await wanted(server, host, 2))
    assert second.tier == "preimported" and second.parent_s == 0
    (same,) = await host.parents()
    assert same.pid == parent.pid
    await host.stop_parent(KEY)
    assert await host.parents() == []
    for number in (1, 2):
        assert (await host.observe(f"nbgpu-t-w-{number}")).state == "running"
        assert (await host.stop(f"nbgpu-t-w-{number}", 5)).reason == "asked"
        await host.forget(f"nbgpu-t-w-{number}")
    assert [path.name for path in (server.nbgpu / "parents").iterdir()] == []
    await host.link.end()
    until(lambda: not server.everything())


async def test_where_no_parent_can_be_had_it_is_started_plainly_and_says_why(
    server: Sshd, host: SshHost
) -> None:
    broken = await host.launch(await wanted(server, host, 1, "raise ImportError('no torch')"))
    assert broken.tier == "plain"
    assert broken.fell_back == ("The pre-imported parent could not start: ImportError: no torch.")
    assert await said(host, "nbgpu-t-w-1") == ["plain"]
    again = await host.launch(await wanted(server, host, 2, "raise ImportError('no torch')"))
    assert again.tier == "plain" and again.fell_back.endswith("It is tried again in 10 min.")
    for number in (1, 2):
        await host.stop(f"nbgpu-t-w-{number}", 5)
    # what the dead one has left goes, too
    assert await host.parents() == []
    assert [path.name for path in (server.nbgpu / "parents").iterdir()] == []


async def test_two_at_once_wait_for_one_parent_and_a_killed_one_is_followed_by_another(
    server: Sshd, host: SshHost
) -> None:
    wants = [await wanted(server, host, n, "import time; time.sleep(0.5)") for n in (1, 2, 3)]
    made = await asyncio.gather(*(host.launch(want) for want in wants[:2]))
    assert [one.tier for one in made] == ["preimported"] * 2
    (parent,) = await host.parents()
    os.kill(parent.pid, signal.SIGKILL)
    third = await host.launch(wants[2])
    assert third.tier == "preimported"
    (other,) = await host.parents()
    assert other.pid != parent.pid
    await host.stop_parent(KEY)
    for number in (1, 2, 3):
        await host.stop(f"nbgpu-t-w-{number}", 5)


@pytest.mark.vllm
def test_the_second_start_of_a_real_model_there_imports_nothing(
    tmp_path: Path, server: Sshd, tiny_llama: Path
) -> None:
    engines_there(server)
    home = HostsBackend(tmp_path / "home", {"lab1": server})
    home.start()
    try:
        extras = {"engine": {"name": "vllm"}, "model": str(tiny_llama)}
        policy = {"tiers": ["preimported"]}
        home.deploy_on("tiny", "lab1", nbgpu={**extras, "policy": policy})
        answer = home.chat("tiny", max_tokens=8)
        assert answer.status_code == 200, answer.text
        (worker,) = home.workers("tiny")
        assert worker["nbgpu"]["tier"] == "preimported", home.log()
        home.http.post("/v2/serverless/tiny/action", json={"action": "stop"}).raise_for_status()
        until(lambda: home.workers("tiny") == [], within=40)
        home.http.post("/v2/serverless/tiny/action", json={"action": "start"}).raise_for_status()
        answer = home.chat("tiny", max_tokens=8)
        assert answer.json()["usage"]["completion_tokens"] == 8
        (worker,) = home.workers("tiny")
        phases = {one["name"]: one["seconds"] for one in worker["nbgpu"]["phases"]}
        assert worker["nbgpu"]["tier"] == "preimported" and "parent" not in phases, phases
    finally:
        home.shutdown(everything=True)
    assert [path.name for path in (server.nbgpu / "parents").iterdir()] == []
    until(lambda: not server.everything())
