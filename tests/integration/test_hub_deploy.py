"""A model of the hub, from deploy to an answer: a real backend, and a loopback stand-in of the hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from nbgpu_backend import runtime
from nbgpu_backend.providers.local import procfs

from tests.support.backend import CLONE, BackendProcess, command_engine
from tests.support.hub import Hub
from tests.support.waiting import until

REPO = "lab/tiny"
WEIGHTS = "model.safetensors"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"t" * 1000,
    WEIGHTS: os.urandom(6_000_000),
    "pytorch_model.bin": b"b" * 500_000,  # the same weights again: not wanted
}
NEEDED = sum(len(FILES[name]) for name in ("config.json", "tokenizer.json", WEIGHTS))
SLOW = 2_000_000  # bytes a second: 3 s for the weights
PART = 1_500_000  # bytes after which something happens to a fetch
LOST = 1_000_000  # bytes that were on their way when something ended


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Before the backend, which inherits where the hub and its cache are."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with Hub(rate=SLOW) as hub:
        hub.add(REPO, FILES)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


def deploy(backend: BackendProcess, model: str = REPO, **extras: Any) -> httpx.Response:
    return backend.http.post(
        "/v2/serverless",
        json={"name": "small", "nbgpu": {"engine": command_engine(), "model": model, **extras}},
    )


def model(backend: BackendProcess) -> dict[str, Any]:
    found: dict[str, Any] = backend.get("/v2/serverless/small")["nbgpu"]["model"]
    return found


def fetch(backend: BackendProcess) -> dict[str, Any]:
    found: dict[str, Any] = model(backend)["fetch"]
    return found


def wait_part(backend: BackendProcess) -> None:
    until(lambda: fetch(backend)["bytesDone"] >= PART)


def wait_done(backend: BackendProcess) -> None:
    until(lambda: fetch(backend)["state"] == "done")
    found = model(backend)
    assert (Path(found["path"]) / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def children(backend: BackendProcess) -> list[int]:
    """Its living child processes: while nothing else goes on, the fetch."""
    pid = backend.backend.pid
    return [row.pid for row in procfs.processes() if row.alive and row.ppid == pid]


def test_deploy_answers_at_once_and_a_request_is_held_until_the_weights_are_here(
    hub: Hub, backend: BackendProcess
) -> None:
    answer = deploy(backend)
    made = answer.json()["nbgpu"]
    assert answer.status_code == 201 and made["state"] == "fetching"
    assert made["model"]["source"] == "hub" and made["model"]["bytes"] == NEEDED
    assert made["model"]["fetch"]["state"] == "running"
    assert made["model"]["fetch"]["bytesTotal"] == NEEDED
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backend.chat, "small")
        wait_part(backend)
        assert not waiting.done() and backend.row("small")["queued"] == 1
        assert backend.row("small")["state"] == "fetching"
        assert "MB" in backend.get("/nbgpu/v1/why/small")["reason"]["text"]
        held = waiting.result()
    assert held.status_code == 200 and held.headers["x-nbgpu-cold"] == "1"
    wait_done(backend)
    assert hub.served_all() == NEEDED and hub.served["pytorch_model.bin"] == 0
    assert backend.records("small", 1)[0]["queue_ms"] > 1000


def test_the_revision_is_pinned_until_somebody_deploys_again(
    hub: Hub, backend: BackendProcess
) -> None:
    hub.rate = None
    commit = hub.repos[REPO].refs["main"]
    assert deploy(backend).json()["nbgpu"]["model"]["revision"] == commit
    wait_done(backend)
    newer = hub.add(REPO, {**FILES, "config.json": b'{"newer": true}'})
    backend.kill()
    backend.start()
    assert backend.chat("small").status_code == 200
    assert model(backend)["revision"] == commit and commit in model(backend)["path"]
    again = deploy(backend, converge=True).json()["nbgpu"]
    assert [(c["field"], c["old"], c["new"]) for c in again["changes"]] == [
        ("revision", commit, newer)
    ]
    wait_done(backend)
    assert model(backend)["revision"] == newer and newer in model(backend)["path"]
    assert hub.served[WEIGHTS] == len(FILES[WEIGHTS])  # the same file in both commits
    assert backend.chat("small").status_code == 200


def test_weights_that_are_in_the_cache_are_not_fetched_again(
    hub: Hub, backend: BackendProcess
) -> None:
    hub.rate = None
    deploy(backend)
    wait_done(backend)
    backend.http.delete("/v2/serverless/small").raise_for_status()
    made = deploy(backend).json()["nbgpu"]
    assert made["state"] == "asleep" and made["model"]["fetch"]["state"] == "done"
    assert hub.served_all() == NEEDED


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("lab/unknown", "There is no model lab/unknown on "),
        (f"{REPO}@v9", f"{REPO} has no revision 'v9'."),
    ],
)
def test_what_the_hub_does_not_have_is_told_and_stores_nothing(
    backend: BackendProcess, wanted: str, says: str
) -> None:
    answer = deploy(backend, wanted)
    assert answer.status_code == 404 and says in answer.json()["detail"]
    assert backend.get("/v2/serverless")["endpoints"] == []
    assert backend.chat("small").status_code == 404


def test_the_next_backend_goes_on_where_a_killed_one_was(hub: Hub, backend: BackendProcess) -> None:
    deploy(backend)
    wait_part(backend)
    (child,) = children(backend)
    backend.kill()
    until(lambda: runtime.start_time(child) is None)
    hub.rate = None  # now, or what it still sends to the dead one would count
    backend.start()
    assert backend.chat("small").status_code == 200
    wait_done(backend)
    assert hub.served[WEIGHTS] < len(FILES[WEIGHTS]) + LOST


def test_a_hub_that_fails_meanwhile_is_told_and_deploying_again_goes_on(
    hub: Hub, backend: BackendProcess
) -> None:
    deploy(backend)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backend.chat, "small")
        wait_part(backend)
        hub.status = 503
        hub.cut_once_after(0)
        held = waiting.result()
    assert held.status_code == 503
    assert f"503 for {REPO}" in held.json()["error"]["message"]
    failed = fetch(backend)
    assert failed["state"] == "failed" and f"503 for {REPO}" in failed["error"]
    why = backend.get("/nbgpu/v1/why/small")
    assert f"deploy {REPO} --name small" in why["nextStep"]
    hub.status, hub.rate = None, None
    again = deploy(backend, converge=True).json()["nbgpu"]
    assert again["outcome"] == "attached" and again["state"] == "fetching"
    assert backend.chat("small").status_code == 200
    wait_done(backend)
    assert hub.served[WEIGHTS] < len(FILES[WEIGHTS]) + LOST


def test_why_says_that_the_weights_are_missing_after_a_failed_fetch(
    hub: Hub, backend: BackendProcess
) -> None:
    deploy(backend)
    wait_part(backend)
    hub.status = 503
    hub.cut_once_after(0)
    until(lambda: fetch(backend)["state"] == "failed", within=60)
    why = backend.get("/nbgpu/v1/why/small")
    assert f"503 for {REPO}" in why["reason"]["text"]

    def told() -> bool:
        history = backend.get("/nbgpu/v1/why/small")["history"]
        return any("could not be fetched" in line for line in history)

    until(told)  # the event is stored a moment later


def test_a_hub_that_is_gone_is_told_and_the_next_backend_goes_on_with_another(
    hub: Hub, backend: BackendProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with hub_process(tmp_path) as (gone, process):
        restart(backend, gone, monkeypatch)
        deploy(backend)
        wait_part(backend)
        process.kill()
        # the hub's own library tries it five times, with pauses
        until(lambda: fetch(backend)["state"] == "failed", within=60)
    assert f"{gone} cannot be reached" in fetch(backend)["error"]
    hub.rate = None
    restart(backend, hub.endpoint, monkeypatch)
    assert backend.chat("small").status_code == 200
    wait_done(backend)
    assert hub.served[WEIGHTS] < len(FILES[WEIGHTS]) - PART + LOST


@contextmanager
def hub_process(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The same hub in a process: with it, every connection goes at once."""
    (repo := folder / "repo").mkdir()
    for name, content in FILES.items():
        (repo / name).write_bytes(content)
    script = f"""
import sys
from pathlib import Path
from tests.support.hub import Hub
with Hub(rate={SLOW}) as hub:
    hub.add({REPO!r}, {{path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}})
    print(hub.endpoint, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(repo)],
        cwd=CLONE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process


def restart(backend: BackendProcess, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    backend.shutdown(everything=False)
    backend.start()


def test_deleting_ends_the_fetch(hub: Hub, backend: BackendProcess) -> None:
    deploy(backend)
    wait_part(backend)
    (child,) = children(backend)
    assert backend.http.delete("/v2/serverless/small").status_code == 204
    assert runtime.start_time(child) is None
    assert hub.served[WEIGHTS] < len(FILES[WEIGHTS])


def test_a_disk_that_is_too_small_is_told_at_deploy_and_stores_nothing(
    hub: Hub, backend: BackendProcess
) -> None:
    hub.repos[REPO].claims[WEIGHTS] = 10**15
    answer = deploy(backend)
    assert answer.status_code == 507
    assert "Free some space" in answer.json()["detail"]
    assert backend.get("/v2/serverless")["endpoints"] == []
