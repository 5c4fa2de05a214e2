"""The unmodified `runpod` package as the handler of a relay below a real shim."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend.clock import SystemClock
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import LaunchSpec
from nbgpu_backend.providers.local.provider import LocalProvider
from nbgpu_backend.providers.local.relay_client import read_spool

from tests.support.relay import Backend, argv, connect, runpod_python
from tests.support.shims import Yard, yard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="instances run on Linux")

NAME = "nbgpu-t-w-1"
ASYNC = """
import asyncio, os, sys
import runpod

async def handler(job):
    given = job["input"]
    do = given["do"]
    if do == "sleep":
        await asyncio.sleep(given["s"])
    elif do == "progress":
        runpod.serverless.progress_update(job, "half")
        await asyncio.sleep(0.5)
    elif do == "raise":
        raise ValueError("no such thing")
    elif do == "error":
        return {"error": "said so"}
    elif do == "nothing":
        return {}
    elif do == "large":
        return "x" * (30 << 20)
    elif do == "exit":
        os._exit(given["code"])
    return {"of": job["id"], "input": given}

runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: int(sys.argv[1])})
"""
GENERATOR = """
import runpod

async def handler(job):
    for n in range(job["input"]):
        yield {"n": n}

runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
"""


@pytest.fixture(scope="module")
def python() -> Path:
    return runpod_python()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Yard]:
    with yard(tmp_path / "home") as made:
        yield made


class Worker:
    """A handler below a relay below a shim."""

    def __init__(self, home: Yard, python: Path, name: str = NAME) -> None:
        self.home, self.python, self.name = home, python, name
        self.host = LocalProvider(Home(home.root), SystemClock())
        self.folder = home.folder(name)
        self.pid = 0

    async def start(self, source: str, *options: str, lease_s: float = 60.0) -> Backend:
        code = self.home.root / f"code-{self.name}"
        code.mkdir()
        (code / "handler.py").write_text(source)
        private = self.home.root / f"home-{self.name}"
        private.mkdir()
        env = self.home.env(
            HOME=str(private), RUNPOD_SKIP_AUTO_SYSTEM_CHECKS="true", RUNPOD_LOG_LEVEL="INFO"
        )
        made = await self.host.launch(
            LaunchSpec(
                name=self.name,
                generation=1,
                argv=argv([str(self.python), "-u", "handler.py", *options], code, lease_s=lease_s),
                env=env,
                ttl_s=lease_s,
                grace_s=5.0,
            )
        )
        self.pid = made.pid
        return await self.backend()

    async def backend(self) -> Backend:
        return Backend(await connect(self.folder))


@contextlib.asynccontextmanager
async def worker(home: Yard, python: Path, name: str = NAME) -> AsyncIterator[Worker]:
    made = Worker(home, python, name)
    yield made
    await made.host.stop(name, 0)


def job(name: str, given: Any) -> tuple[str, bytes]:
    return name, json.dumps({"id": name, "input": given}).encode()


async def results(backend: Backend, count: int) -> dict[str, Any]:
    """The final posts of so many jobs."""
    found: dict[str, Any] = {}
    while len(found) < count:
        frame = await backend.next("post", within=30)
        backend.client.ack(frame.header["n"])
        if frame.header["final"]:
            found[frame.header["job"]] = json.loads(frame.body)
    return found


async def feed(backend: Backend, jobs: list[tuple[str, bytes]]) -> dict[str, Any]:
    """Give the jobs as the handler asks for them. -> the final posts"""
    left, found, count = list(jobs), {}, len(jobs)
    progress: dict[str, Any] = {}
    while len(found) < count:
        frame = await backend.next("want", "post", "returned", within=30)
        assert frame.op != "returned"
        if frame.op == "want":
            n = frame.header["n"]
            if left:
                backend.client.jobs(frame.header["poll"], left[:n])
                del left[:n]
        else:
            backend.client.ack(frame.header["n"])
            where = found if frame.header["final"] else progress
            where[frame.header["job"]] = json.loads(frame.body)
    return {**found, "progress": progress}


async def test_jobs_of_every_kind_come_back_as_they_ended(home: Yard, python: Path) -> None:
    async with worker(home, python) as made:
        backend = await made.start(ASYNC, "4")
        ping = await backend.next("ping", within=30)
        assert ping.header == {"op": "ping", "ids": [], "version": "1.12.0"}
        kinds = ["value", "progress", "raise", "error", "nothing", "large"]
        found = await feed(backend, [job(kind, {"do": kind}) for kind in kinds])
        assert found["value"] == {"output": {"of": "value", "input": {"do": "value"}}}
        assert found["error"] == {"error": "said so"}
        assert found["nothing"] == {}
        assert "no such thing" in json.loads(found["raise"]["error"])["error_message"]
        assert found["large"] == {"output": "x" * (30 << 20)}
        assert found["progress"] == {"progress": {"status": "IN_PROGRESS", "output": "half"}}
        assert read_spool(made.folder).held == []


async def test_a_concurrent_handler_takes_batches_and_stops_single_jobs(
    home: Yard, python: Path
) -> None:
    async with worker(home, python) as made:
        backend = await made.start(ASYNC, "4")
        want = await backend.next("want", within=30)
        assert want.header["n"] > 1
        long, short = job("long", {"do": "sleep", "s": 100}), job("short", {"do": "sleep", "s": 1})
        backend.client.jobs(want.header["poll"], [long, short])
        assert (await backend.next("took")).header["poll"] == want.header["poll"]
        busy = await backend.next("want", within=30)
        assert busy.header["busy"] and busy.header["n"] == 2
        backend.client.stop(["long"])
        assert set(await results(backend, 1)) == {"short"}
        async with asyncio.timeout(20):
            while (ping := await backend.next("ping")).header["ids"]:
                pass
        assert ping.header["version"] == "1.12.0"
        assert read_spool(made.folder).held == ["long"]  # it posts nothing for that one
        assert "Job stopped" in "".join(await made.host.logs(NAME))


async def test_a_generator_streams_each_chunk(home: Yard, python: Path) -> None:
    async with worker(home, python) as made:
        backend = await made.start(GENERATOR)
        want = await backend.next("want", within=30)
        backend.client.jobs(want.header["poll"], [job("g", 3)])
        posts = [await backend.next("post") for _ in range(4)]
        assert [(one.header["kind"], one.header["stream"]) for one in posts] == [
            ("stream", False),
            ("stream", False),
            ("stream", False),
            ("done", True),
        ]
        assert [json.loads(one.body)["output"] for one in posts] == [
            *({"n": n} for n in range(3)),
            [{"n": n} for n in range(3)],
        ]


async def test_a_stopped_worker_finishes_its_job_without_a_backend(
    home: Yard, python: Path
) -> None:
    async with worker(home, python) as made:
        backend = await made.start(ASYNC, "2")
        want = await backend.next("want", within=30)
        backend.client.jobs(want.header["poll"], [job("last", {"do": "sleep", "s": 1})])
        await backend.next("took")
        backend.client.close()
        began = time.monotonic()
        ended = await made.host.stop(NAME, 20.0)
        assert (ended.code, ended.signal, ended.reason) == (0, None, "asked")
        assert time.monotonic() - began < 8  # its polls were not held on to
        read = read_spool(made.folder)
        assert read.held == [] and [one.job for one in read.posts] == ["last"]
        assert json.loads(read.posts[0].body)["output"]["of"] == "last"


async def test_a_lease_ends_an_idle_worker_and_never_one_at_work(home: Yard, python: Path) -> None:
    async with worker(home, python) as made:
        backend = await made.start(ASYNC, "1", lease_s=6.0)
        want = await backend.next("want", within=30)
        given = [job("long", {"do": "sleep", "s": 8})]
        backend.client.jobs(want.header["poll"], given)
        await backend.next("took")
        backend.client.close()  # the backend goes; the job takes longer than the lease
        ended = await asyncio.wait_for(made.host.wait(NAME), 40)
        assert ended.reason == "lease"
        assert [one.job for one in read_spool(made.folder).posts] == ["long"]


async def test_a_handler_that_exits_is_recorded_with_its_code(home: Yard, python: Path) -> None:
    async with worker(home, python) as made:
        backend = await made.start(ASYNC, "1")
        want = await backend.next("want", within=30)
        backend.client.jobs(want.header["poll"], [job("bad", {"do": "exit", "code": 7})])
        ended = await made.host.wait(NAME)
        assert (ended.code, ended.reason) == (7, "exit")
        assert read_spool(made.folder).held == ["bad"]
        assert home.engines() == []


async def test_a_killed_relay_takes_everything_with_it_but_the_spool(
    home: Yard, python: Path
) -> None:
    async with worker(home, python) as made:
        backend = await made.start(ASYNC, "2")
        want = await backend.next("want", within=30)
        jobs = [job("done", {"do": "value"}), job("open", {"do": "sleep", "s": 100})]
        backend.client.jobs(want.header["poll"], jobs)
        await backend.next("post")
        os.kill(made.pid, signal.SIGKILL)
        ended = await made.host.wait(NAME)
        assert (ended.code, ended.signal) == (None, signal.SIGKILL)
        assert home.engines() == []
        read = read_spool(made.folder)
        assert read.held == ["open"] and [one.job for one in read.posts] == ["done"]
        assert await backend.ended()
