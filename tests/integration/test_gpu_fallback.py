"""GPUs in order of choice, on a stand-in for a place that has some: what is taken, and why not another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend import command_engine
from tests.support.gpu_host import GpuBackend
from tests.support.waiting import until

H100: dict[str, Any] = {"gpu": "H100", "total": 2, "perHour": "3.6"}
A100: dict[str, Any] = {"gpu": "A100", "total": 4, "perHour": "1.8"}
L4: dict[str, Any] = {"gpu": "L4", "total": 8, "perHour": "0.72"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[GpuBackend]:
    process = GpuBackend(tmp_path / "home")
    process.say(H100, A100, L4)
    process.start()
    yield process
    process.shutdown(everything=True)


def deploy(place: GpuBackend, name: str, gpus: list[str], **body: Any) -> None:
    place.deploy(name, nbgpu={"place": {"gpu": gpus}}, **body)


def launching(place: GpuBackend, name: str) -> list[dict[str, Any]]:
    events = place.get(f"/nbgpu/v1/history?endpoint={name}&limit=500")["events"]
    return [e for e in events if e["kind"] == "worker.launching"][::-1]


def test_the_first_that_can_be_had_and_the_reason_for_each_before_it(place: GpuBackend) -> None:
    place.say({**H100, "total": 0}, {**A100, "fault": "The host of this A100 is lost."}, L4)
    deploy(place, "falls", ["B200", "H100", "A100", "L4"])
    assert place.chat("falls").status_code == 200
    worker = place.worker("falls", "idle")
    assert worker["gpu"] == "L4"
    first, second = launching(place, "falls")
    assert first["values"]["gpu"] == "A100" and second["values"]["gpu"] == "L4"
    assert [(s["what"], s["code"]) for s in second["values"]["skipped"]] == [
        ("B200", "unknown"), ("H100", "unknown"), ("A100", "failed"),
    ]  # fmt: skip
    assert "A100: The host of this A100 is lost" in second["text"]
    of_endpoint = place.get("/nbgpu/v1/why/falls")["facts"]
    of_worker = place.get(f"/nbgpu/v1/why/{worker['id']}")["facts"]
    for facts in (of_endpoint, of_worker):
        assert "not on A100: The host of this A100 is lost" in " ".join(facts)
    assert place.row("falls")["ratePerHour"] == "0.72"
    ledger = place.get("/nbgpu/v1/metrics/ledger?endpoint=falls")["columns"]
    assert ledger["rate_source"] == ["price of L4"]


def test_what_claims_to_be_free_and_is_not_costs_a_try_and_no_request(place: GpuBackend) -> None:
    place.say({**H100, "total": 1, "hidden": True}, A100)
    deploy(place, "first", ["H100"], workers={"min": 1, "max": 1})
    place.worker("first", "idle")
    deploy(place, "second", ["H100", "A100"])
    assert place.chat("second").status_code == 200
    assert place.worker("second", "idle")["gpu"] == "A100"
    skipped = launching(place, "second")[-1]["values"]["skipped"]
    assert skipped == [{"what": "H100", "code": "failed", "text": "No H100 is free after all"}]


def test_where_none_is_free_it_waits_with_the_reason_and_goes_on_when_one_is(
    place: GpuBackend,
) -> None:
    deploy(place, "holds", ["H100:2"], workers={"min": 1, "max": 1})
    assert place.worker("holds", "idle")["gpu"] == "H100"
    assert place.row("holds")["ratePerHour"] == "7.2"
    deploy(place, "waits", ["H100"])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(place.chat, "waits")
        place.wait_state("waits", "throttled")
        reason = place.get("/nbgpu/v1/why/waits")
        assert reason["reason"]["text"] == "no GPU can be had: H100: 0 of 2 are free"
        assert reason["reason"]["code"] == "no_capacity" and "--gpu" in reason["nextStep"]
        assert place.get("/v2/waits/health")["workers"]["throttled"] == 1
        place.http.delete("/v2/serverless/holds").raise_for_status()
        assert answer.result().status_code == 200
    assert place.worker("waits", "idle")["gpu"] == "H100"


def test_from_five_workers_on_they_are_spread(place: GpuBackend) -> None:
    place.say({**H100, "total": 9}, {**A100, "total": 9}, {**L4, "total": 9})
    deploy(place, "spread", ["H100", "A100", "L4"], workers={"min": 6, "max": 6})
    until(lambda: len(place.row("spread")["workers"]) == 6)
    found = Counter(w["gpu"] for w in place.row("spread")["workers"])
    assert found == {"H100": 3, "A100": 2, "L4": 1}


def test_a_typo_and_what_is_not_there_are_told_at_deploy(place: GpuBackend) -> None:
    for gpus, hint in (
        (["H10"], "Did you mean 'H100'?"),
        (["H100:3"], "3 are asked for and 2 are here"),
    ):
        answer = place.http.post(
            "/v2/serverless",
            json={"name": "typo", "nbgpu": {"engine": command_engine(), "place": {"gpu": gpus}}},
        )
        assert answer.status_code == 503 and hint in answer.text
    assert place.get("/nbgpu/v1/summary")["endpoints"] == []


def test_a_price_of_a_gpu_is_not_the_places_rate(place: GpuBackend) -> None:
    deploy(place, "priced", ["L4"], workers={"min": 1, "max": 1})
    place.worker("priced", "idle")
    place.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "9"}}).raise_for_status()
    assert place.row("priced")["ratePerHour"] == "0.72"
    place.kill()
    place.start()
    place.worker("priced", "idle")
    assert place.row("priced")["ratePerHour"] == "0.72"


def test_a_worker_with_a_gpu_is_parked_by_vllms_sleep_mode_or_ends(place: GpuBackend) -> None:
    plain, asleep = command_engine(), command_engine("--sleep-mode")
    asleep["options"] = ["--sleep-mode", *asleep["options"]]
    for name, engine in (("ends", plain), ("sleeps", asleep)):
        place.deploy(
            name,
            workers={"max": 1, "idleTimeout": 1},
            nbgpu={"engine": engine, "policy": {"parkS": 600}, "place": {"gpu": ["L4"]}},
        )
        assert place.chat(name).status_code == 200
    until(lambda: place.row("ends")["workers"] == [])
    worker = place.worker("sleeps", "parked")
    assert place.row("sleeps")["ratePerHour"] == "0.72"  # the GPU is still its
    place.kill()
    place.start()
    assert place.worker("sleeps", "parked")["id"] == worker["id"]
    answer = place.chat("sleeps")
    assert answer.status_code == 200 and answer.headers["x-nbgpu-worker"] == worker["id"]
    assert place.records("sleeps", 2)[1]["tier"] == "parked"


def sized(memory: str) -> dict[str, Any]:
    found = command_engine()
    return {**found, "options": ["--memory", memory, *found["options"]]}


def test_a_parked_engine_gives_way_to_a_worker_that_needs_its_memory(place: GpuBackend) -> None:
    floor = place.get("/nbgpu/v1/memory")["floor"]
    place.deploy(
        "old", workers={"max": 1, "idleTimeout": 1},
        nbgpu={"engine": sized("200M"), "policy": {"parkS": 600}},
    )  # fmt: skip
    place.chat("old")
    parked = place.worker("old", "parked")
    place.say(memory=floor + (300 << 20))
    place.deploy("new", nbgpu={"engine": sized("301M")})
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(place.chat, "new")
        until(lambda: place.row("old")["workers"] == [])
        place.say(memory=floor + (400 << 20))  # as it would be on a machine
        assert answer.result().status_code == 200
    ended = place.get(f"/nbgpu/v1/why/{parked['id']}")
    assert ended["reason"]["code"] == "evicted" and "needed by new" in ended["reason"]["text"]
    events = [e["kind"] for e in place.get("/nbgpu/v1/history?endpoint=new")["events"]]
    assert "worker.evicting" in events


def test_too_little_memory_is_told_with_its_sums(place: GpuBackend) -> None:
    floor = place.get("/nbgpu/v1/memory")["floor"]
    place.say(memory=floor + (600 << 20))
    place.deploy("busy", workers={"min": 1, "max": 1}, nbgpu={"engine": sized("500M")})
    place.worker("busy", "idle")
    place.say(memory=floor + (100 << 20))
    place.deploy("more", nbgpu={"engine": sized("110M")})
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(place.chat, "more")
        place.wait_state("more", "throttled")
        why = place.get("/nbgpu/v1/why/more")
        assert "it needs 0.1 GB and 0.1 GB are available (1 worker" in why["reason"]["text"]
        place.say(memory=floor + (600 << 20))
        assert answer.result().status_code == 200
    place.deploy("huge", nbgpu={"engine": sized("900G")})
    refused = place.chat("huge")
    assert refused.status_code == 503 and "it needs 966.4 GB" in refused.text


def test_where_memory_runs_short_for_others_what_is_parked_goes_by_itself(
    place: GpuBackend,
) -> None:
    place.deploy("yields", workers={"max": 1, "idleTimeout": 1}, nbgpu={"policy": {"parkS": 600}})
    place.chat("yields")
    parked = place.worker("yields", "parked")
    place.say(memory=1 << 20)
    place.get("/nbgpu/v1/memory")  # it looks every 10 s; and when it is asked
    until(lambda: place.row("yields")["workers"] == [])
    ended = place.get(f"/nbgpu/v1/why/{parked['id']}")
    assert "memory runs short" in ended["reason"]["text"]
