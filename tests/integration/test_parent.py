"""Instances that are forked from a pre-imported parent: as good as plain ones, and nobody's hostage."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import nbgpu_backend
import pytest
from nbgpu_backend.clock import SystemClock
from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import Launched, LaunchSpec, ParentSeen
from nbgpu_backend.providers.local import procfs
from nbgpu_backend.providers.local.provider import LocalProvider

from tests.support.shims import Yard, yard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="instances run on Linux")

PARENT = Path(nbgpu_backend.__file__).with_name("parent.py")
TOY = Path(__file__).parents[1] / "support" / "toy_engine.py"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Yard]:
    with yard(tmp_path / "home") as made:
        yield made


@pytest.fixture
async def host(home: Yard) -> AsyncIterator[LocalProvider]:
    made = provider(home)
    yield made
    for parent in await made.parents():
        await made.stop_parent(parent.key)


def provider(home: Yard) -> LocalProvider:
    return LocalProvider(Home(home.root), SystemClock())


def parent(home: Yard, key: str = "toy", idle_s: float = 600.0, **env: str) -> ParentSpec:
    return ParentSpec(key, [sys.executable, str(PARENT), str(TOY)], home.env(**env), idle_s)


def spec(
    home: Yard, *argv: str, n: int = 1, of: ParentSpec | None = None, **more: Any
) -> LaunchSpec:
    fields: dict[str, Any] = {"ttl_s": 60.0, "grace_s": 2.0, "env": home.env(), **more}
    # where the parent cannot fork it, /bin/echo stands for the engine
    return LaunchSpec(
        name=f"nbgpu-t-w-{n}", generation=n, argv=["/bin/echo", *argv],
        parent=of or parent(home), **fields,
    )  # fmt: skip


async def line(host: LocalProvider, name: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while not (lines := await host.logs(name)):
            await asyncio.sleep(0.01)
    found: dict[str, Any] = json.loads(lines[0])
    return found


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while (row := procfs.stat(pid)) is not None and row.alive:
            await asyncio.sleep(0.01)


async def only(host: LocalProvider) -> ParentSeen:
    (found,) = await host.parents()
    return found


async def test_a_forked_instance_is_a_plain_one_but_for_the_imports(
    home: Yard, host: LocalProvider
) -> None:
    made = await host.launch(
        spec(home, "say", env={"ONLY": "this"}, secrets={"key": "k"}, oom_score_adj=500)
    )
    assert (made.tier, made.fell_back) == ("preimported", "") and made.parent_s > 0
    ended = await host.wait(made.name)
    assert (ended.code, ended.reason, ended.estimated) == (0, "exit", False)
    seen = await line(host, made.name)
    zygote = await only(host)
    assert seen["env"] == {"ONLY": "this"}
    assert seen["argv"] == seen["sys.argv"] == ["/bin/echo", "say"]
    assert seen["imported by"] == zygote.pid and seen["ppid"] == made.shim_pid
    assert seen["leads"] and seen["oom"] == 500 and seen["umask"] == 0o077
    assert seen["cwd"] == str(home.folder(made.name))
    assert (home.folder(made.name) / "key").read_text() == "k"
    fds = {number: path for number, path in seen["fds"].items() if "/proc/" not in path}
    log = str(home.folder(made.name) / "log")
    assert fds == {"0": "/dev/null", "1": log, "2": log}
    assert seen["signals"]["SigBlk"] == "0000000000000000"
    # as in a fresh interpreter: PIPE and XFSZ are Python's own
    assert int(seen["signals"]["SigIgn"], 16) & ~(1 << 12 | 1 << 24) == 0
    again = await host.launch(spec(home, "say", n=2))
    assert again.tier == "preimported" and again.parent_s == 0.0
    assert (await only(host)).pid == zygote.pid


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["exit", "0"], 0, "at exit"),
        (["exit", "7"], 7, "at exit"),
        (["raise"], 1, "RuntimeError: the engine found no weights"),
    ],
)
async def test_it_ends_as_an_interpreter_ends(
    home: Yard, host: LocalProvider, argv: list[str], code: int, words: str
) -> None:
    made = await host.launch(spec(home, *argv))
    ended = await host.wait(made.name)
    assert (ended.code, ended.reason) == (code, "exit") and words in ended.tail[-1]


async def test_several_at_once_start_one_parent_and_stop_ends_each_alone(
    home: Yard, host: LocalProvider
) -> None:
    slow = parent(home, TOY_FAULT="slow", TOY_SLOW_S="0.5")
    made = await asyncio.gather(
        *(host.launch(spec(home, "sleep", n=n, of=slow)) for n in (1, 2, 3))
    )
    assert {m.tier for m in made} == {"preimported"}
    assert len({procfs.stat(m.shim_pid).ppid for m in made}) == 1  # type: ignore[union-attr]
    ended = await host.stop(made[0].name, 2.0)
    assert ended.signal == signal.SIGTERM
    for other in made[1:]:
        assert (await host.observe(other.name)).state == "running"
        await host.stop(other.name, 2.0)


async def test_the_death_of_the_parent_touches_no_instance_and_the_next_launch_has_a_new_one(
    home: Yard, host: LocalProvider
) -> None:
    made = await host.launch(spec(home, "sleep"))
    first = await only(host)
    os.kill(first.pid, signal.SIGKILL)
    await gone(first.pid)
    assert (await host.observe(made.name)).state == "running"
    other = await host.launch(spec(home, "sleep", n=2))
    assert other.tier == "preimported" and (await only(host)).pid != first.pid
    for each in (made, other):
        assert (await host.stop(each.name, 2.0)).reason == "asked"


async def test_the_death_of_shim_or_engine_leaves_nothing_and_the_parent_lives(
    home: Yard, host: LocalProvider
) -> None:
    shimless: Launched = await host.launch(spec(home, "child"))
    os.kill(shimless.shim_pid, signal.SIGKILL)
    assert (await host.wait(shimless.name)).reason == "lost"
    killed = await host.launch(spec(home, "child", n=2))
    os.kill(killed.pid, signal.SIGKILL)
    ended = await host.wait(killed.name)
    assert (ended.signal, ended.reason) == (signal.SIGKILL, "exit")
    zygote = await only(host)
    left = [
        row for row in procfs.processes() if row.alive and row.session in (shimless.pid, killed.pid)
    ]
    assert left == [] and zygote.ready
    assert (await host.launch(spec(home, "say", n=3))).tier == "preimported"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "ImportError: no module named vllm_of_tomorrow"),
        ("exit", "it left no log"),
        ("threads", "the imports have left 2 threads: nothing can be forked"),
    ],
)
async def test_what_cannot_be_forked_starts_plainly_and_says_why(
    home: Yard, host: LocalProvider, fault: str, words: str
) -> None:
    broken = parent(home, TOY_FAULT=fault)
    made = await host.launch(spec(home, "plain", of=broken))
    assert made.tier == "plain" and words in made.fell_back
    assert (await host.wait(made.name)).tail == ("plain",)
    again = await host.launch(spec(home, "plain", n=2, of=broken))
    assert again.tier == "plain" and "tried again in 10 min" in again.fell_back
    assert await host.parents() == []
    other = await host.launch(spec(home, "say", n=3, of=parent(home, "other")))
    assert other.tier == "preimported"


async def test_a_parent_that_is_killed_while_it_imports_costs_no_launch(
    home: Yard, host: LocalProvider
) -> None:
    slow = parent(home, TOY_FAULT="slow", TOY_SLOW_S="600")
    launch = asyncio.create_task(host.launch(spec(home, "plain", of=slow)))
    async with asyncio.timeout(10):
        while not (seen := await host.parents()):
            await asyncio.sleep(0.02)
    assert not seen[0].ready
    os.kill(seen[0].pid, signal.SIGKILL)
    made = await launch
    assert made.tier == "plain" and made.fell_back


async def test_it_ends_when_it_has_been_idle_and_is_there_again_when_it_is_needed(
    home: Yard, host: LocalProvider
) -> None:
    brief = parent(home, idle_s=0.3)
    made = await host.launch(spec(home, "sleep", of=brief))
    first = await only(host)
    await gone(first.pid)
    assert await host.parents() == [] and not (home.root / "parents" / "toy").exists()
    assert (await host.observe(made.name)).state == "running"
    assert (await host.launch(spec(home, "say", n=2, of=brief))).tier == "preimported"


async def test_another_provider_finds_it_uses_it_and_ends_it(
    home: Yard, host: LocalProvider
) -> None:
    made = await host.launch(spec(home, "sleep"))
    first = await only(host)
    successor = provider(home)
    seen = await only(successor)
    assert (seen.pid, seen.ready, seen.key) == (first.pid, True, "toy") and seen.pss > 0
    assert (await successor.launch(spec(home, "sleep", n=2))).parent_s == 0.0
    await successor.stop_parent("toy")
    await gone(first.pid)
    assert await host.parents() == []
    assert (await successor.observe(made.name)).state == "running"


async def test_many_forks_leave_no_zombie_and_no_descriptor(
    home: Yard, host: LocalProvider
) -> None:
    await host.launch(spec(home, "say", n=1))
    zygote = await only(host)
    fds = Path(f"/proc/{zygote.pid}/fd")
    before = len(list(fds.iterdir()))
    for n in range(2, 32):
        made = await host.launch(spec(home, "say", n=n))
        assert made.tier == "preimported"
        await host.wait(made.name)
    async with asyncio.timeout(10):
        while [r for r in procfs.processes() if r.ppid == zygote.pid]:
            await asyncio.sleep(0.02)
    assert len(list(fds.iterdir())) == before


async def test_a_long_path_of_the_home_is_no_trouble(tmp_path: Path) -> None:
    with yard(tmp_path / ("long" * 40) / "home") as home:
        host = provider(home)
        made = await host.launch(spec(home, "say"))
        assert made.tier == "preimported"
        await host.stop_parent("toy")
