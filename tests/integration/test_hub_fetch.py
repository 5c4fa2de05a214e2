"""Fetching models: the real huggingface_hub against a loopback stand-in of the hub."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbgpu_backend.errors import (
    BadRequest,
    DiskError,
    NbgpuError,
    NotFound,
    Unavailable,
    UpstreamError,
)
from nbgpu_backend.home import Home
from nbgpu_backend.hub.fetcher import Fetcher, FetchProgress
from nbgpu_backend.hub.library import HubModel

from tests.support.hub import Hub

WEIGHTS = os.urandom(6_000_000)
MODEL = HubModel("lab/tiny")
FILES = {
    "config.json": b"{}",
    "README.md": b"read me",
    "tokenizer.json": b"t" * 1000,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"b" * 500_000,
    "onnx/model.onnx": b"o" * 500_000,
}
NEEDED = sum(len(FILES[name]) for name in ("config.json", "README.md", "tokenizer.json"))
NEEDED += len(WEIGHTS)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with Hub() as hub:
        hub.add("lab/tiny", FILES)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def fetcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetcher:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return Fetcher(Home(tmp_path / "home"))


async def kill_after(fetcher: Fetcher, bytes_done: int) -> None:
    """Begin to fetch and cancel once `bytes_done` bytes are there."""
    there = asyncio.Event()

    def watch(progress: FetchProgress) -> None:
        if progress.bytes_done >= bytes_done:
            there.set()

    plan = await fetcher.plan(MODEL)
    task = asyncio.create_task(fetcher.fetch(plan, watch))
    await asyncio.wait_for(there.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_plan_tells_commit_and_sizes_and_downloads_nothing(
    hub: Hub, fetcher: Fetcher
) -> None:
    plan = await fetcher.plan(MODEL)
    assert plan.commit == hub.repos["lab/tiny"].refs["main"]
    assert (plan.bytes_total, plan.bytes_cached) == (NEEDED, 0)
    assert hub.served_all() == 0
    assert not plan.path.exists()


async def test_a_fetch_reports_bytes_and_leaves_the_needed_files(
    hub: Hub, fetcher: Fetcher
) -> None:
    hub.rate = 6_000_000
    seen: list[tuple[float, FetchProgress]] = []
    plan = await fetcher.plan(MODEL)
    path = await fetcher.fetch(plan, lambda progress: seen.append((time.monotonic(), progress)))

    assert path == plan.path
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert names == {"config.json", "README.md", "tokenizer.json", "model.safetensors"}
    done = [progress.bytes_done for _, progress in seen]
    assert done == sorted(done) and done[-1] == NEEDED
    assert len(seen) <= 2 + (seen[-1][0] - seen[0][0]) * 5
    middle = seen[len(seen) // 2][1]
    assert middle.bytes_per_s > 0
    assert middle.seconds_left is not None

    again = await fetcher.plan(MODEL)
    assert again.bytes_cached == again.bytes_total == NEEDED


async def test_what_a_killed_fetch_left_is_not_fetched_again(hub: Hub, fetcher: Fetcher) -> None:
    hub.rate = 4_000_000
    await kill_after(fetcher, 2_000_000)
    plan = await fetcher.plan(MODEL)
    assert plan.bytes_cached >= 2_000_000

    hub.rate = None
    path = await fetcher.fetch(plan)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    # lost is at most a chunk and what the sockets held
    assert hub.served["model.safetensors"] < len(WEIGHTS) + 1_500_000


async def test_a_connection_that_is_cut_is_resumed(hub: Hub, fetcher: Fetcher) -> None:
    hub.cut_once_after(3_000_000)
    path = await fetcher.fetch(await fetcher.plan(MODEL))
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.served["model.safetensors"] < len(WEIGHTS) + 1_000_000


async def test_a_damaged_rest_is_noticed_and_fetched_anew(hub: Hub, fetcher: Fetcher) -> None:
    hub.rate = 4_000_000
    await kill_after(fetcher, 2_000_000)
    hub.rate = None
    plan = await fetcher.plan(MODEL)
    (partial,) = plan.path.parents[1].glob("blobs/*.incomplete")
    with partial.open("r+b") as file:
        file.write(b"damaged")
    with pytest.raises(UpstreamError, match="did not arrive intact"):
        await fetcher.fetch(plan)
    path = await fetcher.fetch(plan)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS


async def test_the_planned_commit_is_fetched_though_the_branch_moves(
    hub: Hub, fetcher: Fetcher
) -> None:
    plan = await fetcher.plan(MODEL)
    hub.add("lab/tiny", {**FILES, "config.json": b'{"new": true}'})
    path = await fetcher.fetch(plan)
    assert path.name == plan.commit
    assert (path / "config.json").read_bytes() == b"{}"
    assert (await fetcher.plan(MODEL)).commit != plan.commit


async def test_a_tag_is_a_revision(hub: Hub, fetcher: Fetcher) -> None:
    commit = hub.add("lab/tiny", {**FILES, "config.json": b'{"v": 1}'}, ref="v1")
    path = await fetcher.fetch(await fetcher.plan(HubModel("lab/tiny", "v1")))
    assert path.name == commit
    assert (path / "config.json").read_bytes() == b'{"v": 1}'


async def test_two_fetches_of_one_model_fetch_it_once(hub: Hub, fetcher: Fetcher) -> None:
    hub.rate = 8_000_000
    plan = await fetcher.plan(MODEL)
    paths = await asyncio.gather(fetcher.fetch(plan), fetcher.fetch(plan))
    assert paths[0] == paths[1] == plan.path
    assert (plan.path / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.served["model.safetensors"] == len(WEIGHTS)
    assert not list(plan.path.parents[1].glob("blobs/*.incomplete"))


@pytest.mark.parametrize(
    ("model", "kind", "code", "what", "then"),
    [
        ("lab/nothing", NotFound, "unknown_repo", "no model lab/nothing", "HF_TOKEN"),
        ("lab/tiny@v9", NotFound, "unknown_revision", "no revision 'v9'", "@v9"),
        ("lab/gated", BadRequest, "hub_gated", "licence must be accepted", "HF_TOKEN"),
        ("lab/private", NotFound, "unknown_repo", "private", "HF_TOKEN"),
        ("lab/gguf", BadRequest, "no_weights", "holds no weights", "original repository"),
        ("lab/huge", DiskError, "disk", "GB more", "HF_HOME"),
    ],
)
async def test_what_cannot_be_fetched_is_one_sentence_with_a_next_step(
    hub: Hub, fetcher: Fetcher, model: str, kind: type[NbgpuError], code: str, what: str, then: str
) -> None:
    hub.add("lab/gated", FILES, gated=True)
    hub.add("lab/private", FILES, private=True)
    hub.add("lab/gguf", {"config.json": b"{}", "model.gguf": b"g"})
    hub.add("lab/huge", FILES, claims={"model.safetensors": 10**16})
    repo, _, revision = model.partition("@")
    with pytest.raises(NbgpuError) as caught:
        await fetcher.fetch(await fetcher.plan(HubModel(repo, revision or "main")))
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert what in caught.value.what
    assert then in caught.value.next_step
    assert hub.served["model.safetensors"] == 0


async def test_a_token_opens_gated_and_private_repositories(hub: Hub, fetcher: Fetcher) -> None:
    hub.add("lab/gated", FILES, gated=True, private=True)
    model = HubModel("lab/gated")
    path = await fetcher.fetch(await fetcher.plan(model, hub.token), token=hub.token)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS


async def test_a_hub_in_trouble_is_said(hub: Hub, fetcher: Fetcher) -> None:
    hub.status = 500
    with pytest.raises(UpstreamError, match="answered 500"):
        await fetcher.plan(MODEL)


@pytest.mark.parametrize("how", ["offline", "unreachable"])
async def test_without_the_hub_the_cache_serves_what_it_holds(
    hub: Hub, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = await fetcher.fetch(await fetcher.plan(MODEL))
    if how == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    plan = await fetcher.plan(MODEL)
    assert plan.bytes_cached == plan.bytes_total
    assert await fetcher.fetch(plan) == path
    with pytest.raises(Unavailable) as caught:
        await fetcher.plan(HubModel("lab/other"))
    assert caught.value.code == f"hub_{how}"


async def test_the_child_ends_with_its_parent(hub: Hub, tmp_path: Path) -> None:
    hub.rate = 1_000_000
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nbgpu_backend.hub.fetch",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout
    request = {"repo": "lab/tiny", "revision": "main", "cache_dir": str(tmp_path)}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    async for line in process.stdout:
        if json.loads(line)["kind"] == "progress":
            break
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 5) == 1


async def test_a_child_that_is_killed_is_an_error_and_not_a_hang(
    hub: Hub, fetcher: Fetcher
) -> None:
    hub.rate = 1_000_000
    plan = await fetcher.plan(MODEL)

    def kill(progress: FetchProgress) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in children:
            if b"nbgpu_backend.hub.fetch" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(int(pid), signal.SIGKILL)

    with pytest.raises(UpstreamError, match="ended without a result"):
        await fetcher.fetch(plan, kill)
