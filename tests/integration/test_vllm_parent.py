"""vLLM workers forked from one pre-imported parent, without a backend: the provider launches them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from nbgpu_backend.clock import SystemClock
from nbgpu_backend.engines.base import WorkerSpec
from nbgpu_backend.engines.vllm.engine import VllmEngine
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import Exit, Launched, LaunchSpec
from nbgpu_backend.providers.local import procfs
from nbgpu_backend.providers.local.provider import LocalProvider

from tests.support.ports import free_port
from tests.support.shared_memory import SHM, abandoned
from tests.support.waiting import until

pytestmark = pytest.mark.vllm

KEY = "a-key"


@dataclass
class Worker:
    name: str
    launched: Launched
    url: str

    def session(self) -> set[int]:
        rows = procfs.processes()
        return {row.pid for row in rows if row.session == self.launched.pid and row.alive}

    def http(self) -> httpx.AsyncClient:
        head = {"authorization": f"Bearer {KEY}"}
        return httpx.AsyncClient(base_url=self.url, headers=head, timeout=60)

    async def chat(self, **more: Any) -> httpx.Response:
        async with self.http() as http:
            return await http.post(
                "/v1/chat/completions",
                json={"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **more},
            )


class Stand:
    """Launches workers as a backend does."""

    def __init__(self, home: Home, model: Path) -> None:
        self.engine, self.model = VllmEngine(home), model
        self.host = LocalProvider(home, SystemClock())
        self.home, self.number = home, 0
        self.shm_before = frozenset(os.listdir(SHM))

    async def launch(self, *options: str, **env: str) -> Worker:
        self.number += 1
        name, port = f"nbgpu-t-w-{self.number}", free_port()
        own = {"HOME": str(self.home.instances / name), **env}
        spec = WorkerSpec("tiny", self.model, port, 1, options, own)
        command = self.engine.command(spec)
        launched = await self.host.launch(
            LaunchSpec(
                name,
                1,
                command.argv,
                {**command.env, "VLLM_API_KEY": KEY},
                ttl_s=300.0,
                parent=self.engine.parent(spec),
            )
        )
        return Worker(name, launched, f"http://127.0.0.1:{port}")

    async def ready(self, worker: Worker) -> None:
        async with worker.http() as http, asyncio.timeout(120):
            while True:
                with suppress(httpx.TransportError):
                    if (await http.get("/health")).status_code == 200:
                        return
                seen = await self.host.observe(worker.name)
                assert seen.state == "running", await self.host.logs(worker.name)
                await asyncio.sleep(0.05)

    async def up(self, *options: str, **env: str) -> Worker:
        worker = await self.launch(*options, **env)
        assert worker.launched.tier == "preimported", worker.launched.fell_back
        await self.ready(worker)
        return worker

    async def ended(self, worker: Worker) -> Exit:
        async with asyncio.timeout(120):
            return await self.host.wait(worker.name)

    async def end(self) -> None:
        for seen in await self.host.list_owned("t"):
            if seen.state == "running":
                await self.host.stop(seen.name, 5.0)
        for parent in await self.host.parents():
            await self.host.stop_parent(parent.key)

    def shared_memory(self) -> list[str]:
        return abandoned(self.shm_before)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Stand]:
    made = Stand(Home(tmp_path_factory.mktemp("parent") / "home"), tiny_llama)
    yield made
    made.host = LocalProvider(made.home, SystemClock())
    asyncio.run(made.end())


@pytest.fixture
def stand(shared: Stand) -> Stand:
    """Each test has a provider of its own, as after a restart; the parent lives on between them."""
    shared.host = LocalProvider(shared.home, SystemClock())
    return shared


async def test_two_at_once_from_one_parent_answer(stand: Stand) -> None:
    first, second = await asyncio.gather(stand.up(), stand.up())
    assert len(await stand.host.parents()) == 1
    # one token of one word as the very first request asks for matrix tiles of the CPU at once
    async with first.http() as http:
        body = {"model": "tiny", "prompt": [5], "max_tokens": 1}
        assert (await http.post("/v1/completions", json=body)).status_code == 200
        http.headers.pop("authorization")
        assert (await http.post("/v1/completions", json=body)).status_code == 401
    for worker in (first, second):
        answer = (await worker.chat(max_tokens=5, temperature=0)).json()
        assert answer["usage"]["completion_tokens"] == 5
        log = await stand.host.logs(worker.name, 1000)
        assert any("non-default args: " in line for line in log)
    ends = await asyncio.gather(*(stand.host.stop(w.name, 30.0) for w in (first, second)))
    assert [(end.code, end.reason) for end in ends] == [(0, "asked")] * 2
    assert not first.session() | second.session() and stand.shared_memory() == []


async def test_a_request_in_progress_ends_before_the_worker_does(stand: Stand) -> None:
    worker = await stand.up()
    long = asyncio.create_task(worker.chat(max_tokens=300, ignore_eos=True))
    await asyncio.sleep(0.3)
    end = await stand.host.stop(worker.name, 60.0)
    assert (await long).json()["usage"]["completion_tokens"] == 300
    assert (end.code, end.reason) == (0, "asked") and stand.shared_memory() == []


async def test_a_killed_api_server_leaves_nothing(stand: Stand) -> None:
    worker = await stand.up()
    assert len(worker.session()) >= 2
    os.kill(worker.launched.pid, signal.SIGKILL)
    assert (await stand.ended(worker)).signal == signal.SIGKILL
    until(lambda: not worker.session())
    assert stand.shared_memory() == []


async def test_threads_are_those_of_the_worker(stand: Stand) -> None:
    """EngineCore computes with as many as the worker was given, the parent with none but its own."""
    one, three = await stand.up(), await stand.up(OMP_NUM_THREADS="3")
    count = {}
    for worker in (one, three):
        assert (await worker.chat(max_tokens=3)).status_code == 200
        below = worker.session() - {worker.launched.pid}  # the tracker has one thread
        count[worker.name] = max(row.threads for pid in below if (row := procfs.stat(pid)))
    (parent,) = await stand.host.parents()
    row = procfs.stat(parent.pid)
    assert row is not None and row.threads == 1
    assert count[three.name] - count[one.name] == 2
    await asyncio.gather(*(stand.host.stop(w.name, 30.0) for w in (one, three)))


async def test_several_workers_of_one_model_are_spawned(stand: Stand) -> None:
    """Only the API server is forked: what its workers share is unlinked as their interpreters end."""
    worker = await stand.up("--tensor-parallel-size", "2")
    assert (await worker.chat(max_tokens=3)).status_code == 200
    assert len(worker.session()) == 5  # API server, tracker, EngineCore, two workers
    assert (await stand.host.stop(worker.name, 30.0)).code == 0
    assert stand.shared_memory() == []


async def test_failures_say_the_same_as_those_of_a_plain_start(
    stand: Stand, tmp_path: Path
) -> None:
    refused = await stand.launch("--max-modle-len", "3")
    end = await stand.ended(refused)
    assert refused.launched.tier == "preimported" and end.code == 2
    assert stand.engine.explain(await stand.host.logs(refused.name, 150)) == (
        "vLLM refuses an option: unrecognized arguments: --max-modle-len 3."
    )
    kept, stand.model = stand.model, tmp_path / "none"
    try:
        missing = await stand.launch()
        end = await stand.ended(missing)
    finally:
        stand.model = kept
    assert end.code == 1
    said = stand.engine.explain(await stand.host.logs(missing.name, 150))
    assert said.startswith("vLLM failed: ") and stand.shared_memory() == []
