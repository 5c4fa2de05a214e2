"""Engines that are stopped and kept when idle, and woken by the next request."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.support.backend import BackendProcess
from tests.support.waiting import until


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def oom(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def parked(backend: BackendProcess, name: str, **body: Any) -> dict[str, Any]:
    """An endpoint with one worker that was asked once and is parked now."""
    extras = {"policy": {"parkS": 300, **body.pop("policy", {})}}
    backend.deploy(name, workers={"max": 1, "idleTimeout": 1}, nbgpu=extras, **body)
    assert backend.chat(name).status_code == 200
    worker = backend.worker(name, "parked")
    until(lambda: process_state(worker["pid"]) == "T")
    return worker


def test_an_idle_engine_is_stopped_and_the_next_request_wakes_it(
    shared_backend: BackendProcess,
) -> None:
    worker = parked(shared_backend, "park")
    row = shared_backend.row("park")
    assert row["state"] == "asleep"
    until(lambda: shared_backend.row("park")["ratePerHour"] == "0")
    assert "parked" in row["reason"]
    assert oom(worker["pid"]) == 900
    answer = shared_backend.chat("park")
    assert answer.status_code == 200 and answer.headers["x-nbgpu-worker"] == worker["id"]
    assert answer.headers["x-nbgpu-cold"] == "1"
    assert process_state(worker["pid"]) in "SR" and oom(worker["pid"]) == 500
    record = shared_backend.records("park", 2)[1]
    assert record["tier"] == "parked" and list(record["phases"]) == ["resume"]
    assert shared_backend.row("park")["workers"][0]["tier"] == "parked"
    kinds = [e["kind"] for e in shared_backend.get("/nbgpu/v1/history?endpoint=park")["events"]]
    assert kinds[0] == "worker.ready" and "worker.parked" in kinds
    assert kinds.count("worker.launching") == 1


def test_a_parked_engine_costs_nothing(backend: BackendProcess) -> None:
    backend.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "36"}}).raise_for_status()
    parked(backend, "free")
    until(lambda: backend.get("/nbgpu/v1/summary")["perHour"] == "0")
    before = backend.row("free")["costSoFar"]
    backend.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "72"}}).raise_for_status()
    assert backend.row("free")["costSoFar"] == before != "0"
    backend.chat("free")
    assert backend.row("free")["ratePerHour"] == "72"
    table = backend.get("/nbgpu/v1/metrics/ledger?endpoint=free")["columns"]
    assert table["rate_per_hour"] == ["36", "0", "72"]
    assert len(set(table["instance"])) == 1


def test_a_killed_backend_leaves_it_parked_and_the_next_one_wakes_it(
    backend: BackendProcess,
) -> None:
    worker = parked(backend, "stays")
    backend.kill()
    backend.start()
    assert backend.worker("stays", "parked")["pid"] == worker["pid"]
    assert backend.chat("stays").headers["x-nbgpu-worker"] == worker["id"]


def test_it_is_kept_for_so_long_and_ends_with_its_endpoint_or_its_settings(
    shared_backend: BackendProcess,
) -> None:
    first = parked(shared_backend, "short", policy={"parkS": 1})
    until(lambda: not Path(f"/proc/{first['pid']}").exists())
    until(lambda: shared_backend.row("short")["workers"] == [])
    for name, change in (
        ("stops", lambda: shared_backend.http.post("/v2/serverless/stops/action", json={"action": "stop"})),
        ("rolls", lambda: shared_backend.http.patch("/v2/serverless/rolls", json={"env": {"A": "1"}})),
        ("gone", lambda: shared_backend.http.delete("/v2/serverless/gone")),
    ):  # fmt: skip
        worker = parked(shared_backend, name)
        assert change().status_code < 300
        until(lambda pid=worker["pid"]: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]


def test_it_is_a_tier_that_can_be_switched_off(shared_backend: BackendProcess) -> None:
    policy = {"parkS": 300, "tiers": ["preimported"]}
    shared_backend.deploy("never", workers={"max": 1, "idleTimeout": 1}, nbgpu={"policy": policy})
    shared_backend.chat("never")
    until(lambda: shared_backend.row("never")["workers"] == [])


def test_one_that_does_not_wake_is_replaced_and_that_is_said(
    shared_backend: BackendProcess,
) -> None:
    worker = parked(shared_backend, "stuck")
    children = [p for p in Path("/proc").iterdir() if p.name.isdigit()]
    shims = [
        int(p.name) for p in children
        if p.joinpath("stat").exists() and worker["id"] in p.joinpath("cmdline").read_text()
    ]  # fmt: skip
    assert len(shims) == 1
    os.kill(shims[0], signal.SIGSTOP)  # it hears no question
    try:
        answer = shared_backend.chat("stuck")
    finally:
        os.kill(shims[0], signal.SIGCONT)
    assert answer.status_code == 200 and answer.headers["x-nbgpu-worker"] != worker["id"]
    events = shared_backend.get("/nbgpu/v1/history?endpoint=stuck")["events"]
    fell = next(e for e in events if e["kind"] == "worker.fell_back")
    assert "could not be woken" in fell["text"]


def test_one_that_was_killed_meanwhile_is_replaced(shared_backend: BackendProcess) -> None:
    worker = parked(shared_backend, "killed")
    os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: shared_backend.row("killed")["workers"] == [])
    answer = shared_backend.chat("killed")
    assert answer.status_code == 200 and answer.headers["x-nbgpu-worker"] != worker["id"]
