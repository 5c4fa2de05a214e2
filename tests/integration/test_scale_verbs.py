"""scale, warm, events, why and the charts of workers, from the client to real workers of the tiny upstream."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from nbgpu import errors
from nbgpu.client import Client

from tests.support.backend import BackendProcess, command_engine
from tests.support.waiting import until


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def gpu(shared_backend: BackendProcess, said: list[str]) -> Iterator[Client]:
    with Client(home=shared_backend.home, say=said.append) as client:
        yield client


def deploy(gpu: Client, name: str, *engine: str, **options: Any) -> Any:
    argv = command_engine(*engine)["options"]
    return gpu.do("deploy", name=name, engine="command", engine_options=argv, **options)


def test_scale_changes_what_is_given_and_starts_no_worker_anew(
    gpu: Client, shared_backend: BackendProcess, said: list[str]
) -> None:
    gpu.settings(pairs={"rate.local": "0.10"})
    ep = deploy(gpu, "grow")
    worker = shared_backend.chat("grow").headers["x-nbgpu-worker"]
    ep.scale(workers=4, idle=120)
    assert said[-1] == (
        "at most 4 workers now; a worker stops after 2 min without work now; "
        "grow may cost up to $0.40/h"
    )
    ep.scale(per_worker=2)
    assert "a worker for every 2 requests that wait or run" in ep.text()
    ep.scale(delay=1.5)
    assert "another worker once a request has waited 1.5 s" in ep.text()
    assert (ep.data.workers.max, ep.data.workers.idle_timeout) == (4, 120)
    assert shared_backend.chat("grow").headers["x-nbgpu-worker"] == worker
    with pytest.raises(errors.ServiceError, match="Raise --workers or lower --always-on"):
        ep.scale(always_on=5)
    # the same cell, run again, sets its own
    deploy(gpu, "grow", workers=2, delay=2, tiers=["none"], park=0)
    deploy(gpu, "grow", workers=2, delay=2, tiers=["none"], park=0)
    assert said[-1].startswith("grow is already up")


def test_warm_returns_with_ready_workers_that_outlast_their_idle_time(
    gpu: Client, shared_backend: BackendProcess, said: list[str]
) -> None:
    ep = deploy(gpu, "cosy", "--startup-s", "0.5", workers=2, idle=1).warm("10m", workers=2)
    assert [w.nbgpu.state for w in ep.data.nbgpu.workers] == ["idle", "idle"]
    assert said[-1].startswith("cosy is warm until ") and "2 workers" in said[-1]
    assert ep.data.nbgpu.requests_total == 0
    since = shared_backend.row("cosy")["workers"][0]["sinceUs"]
    until(lambda: shared_backend.get("/nbgpu/v1/summary")["atUs"] > since + 2_000_000)
    assert len(shared_backend.row("cosy")["workers"]) == 2
    with pytest.raises(errors.ServiceError, match="Allow more first: nbgpu scale cosy --workers 3"):
        ep.warm(workers=3)
    ep.cool()
    assert said[-1] == "cosy is no longer kept warm: its workers stop after 1 s without work."
    shared_backend.wait_state("cosy", "asleep")
    assert "2 starts" in ep.chart("workers").text()


def test_a_worker_that_cannot_start_leaves_nothing_warm(gpu: Client) -> None:
    argv = ["false", "--port", "{port}"]
    gpu.do("deploy", name="broken", engine="command", engine_options=argv)
    with pytest.raises(
        errors.ServiceError, match="broken did not get warm, and is no longer kept so: "
    ):
        gpu.warm("broken")
    assert gpu.endpoint("broken").data.nbgpu.warm is None


def test_a_burst_is_explained_told_and_drawn(gpu: Client, shared_backend: BackendProcess) -> None:
    ep = deploy(gpu, "crowd", "--startup-s", "0.5", workers=3, idle=60, per_worker=1)
    slow = {"chunks": 4, "delay_ms": 300}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: shared_backend.chat("crowd", nbgpu_test=slow), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    shared_backend.records("crowd", 6)

    request, worker = (answers[0].headers[f"x-nbgpu-{what}"] for what in ("request", "worker"))
    found = ep._client.why(request)
    assert found.text().startswith(f"request {request} is answered: answered by worker {worker}")
    assert found.why.facts and all(line in found.text() for line in found.why.facts)
    found = gpu.why(worker)
    assert found.text().startswith(f"worker {worker} is ") and "tier: plain start" in found.text()
    with pytest.raises(errors.NotFound, match="There is no worker w-none"):
        gpu.why("w-none")

    kinds = list(ep.events().df["kind"])
    assert kinds[0] == "endpoint.created" and kinds.count("worker.ready") == 3

    chart = ep.chart("workers")
    head, starts, asked = chart.text().split("\n")
    assert "rose to 3 of at most 3, 3 starts" in head and "plain" in starts
    assert asked.startswith("6 requests, at most 6 waiting at once")
    assert chart.df["requests_running"].max() >= 3 and chart.png
    assert "plain, 3 starts" in ep.chart("coldstart").text()
    row = next(line for line in gpu.ls().text().split("\n") if line.startswith("crowd"))
    assert "3 idle, max 3" in row


def test_a_parked_worker_is_shown_and_its_waking_is_a_start_of_its_own(
    gpu: Client, shared_backend: BackendProcess
) -> None:
    ep = deploy(gpu, "nap", "--startup-s", "0.5", idle=1, park=60)
    worker = shared_backend.chat("nap").headers["x-nbgpu-worker"]
    until(lambda: [w["state"] for w in shared_backend.row("nap")["workers"]] == ["parked"])
    assert "1 parked, max 1" in gpu.ls().text() and "0 of 1, 1 parked" in gpu.status().text()
    assert shared_backend.chat("nap").headers["x-nbgpu-worker"] == worker
    shared_backend.records("nap", 2)
    (row,) = ep.show().df.to_dict("records")
    assert row["tier"] == "parked" and list(row["phases"]) == ["resume"]
    timeline = ep.workers_timeline()
    assert timeline["at"].is_monotonic_increasing
    head, starts, _ = ep.chart("workers").text().split("\n")
    assert "rose to 1 of at most 1, 2 starts, 1 parked" in head
    assert starts.endswith(" parked") and " plain, " in starts
    assert "parked, 1 start" in ep.chart("coldstart").text()


def test_an_endpoint_may_be_called_as_workers_are(gpu: Client) -> None:
    deploy(gpu, "w-1")
    assert gpu.why("w-1").text().startswith("w-1 is asleep")
