"""Workers from zero to many and back: bursts, rolls, crashes, what is kept warm."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.support.backend import BackendProcess, command_engine
from tests.support.crowd import vanish
from tests.support.timeline import Timeline
from tests.support.waiting import until

QUICK = {"type": "QUEUE_DELAY", "queueDelay": 0.5}


def engine(slots: int, startup_s: float = 0.0) -> dict[str, Any]:
    found = command_engine("--startup-s", str(startup_s))
    return {**found, "options": ["--concurrency", str(slots), *found["options"]]}


def kinds(backend: BackendProcess, name: str) -> list[str]:
    events = backend.get(f"/nbgpu/v1/history?endpoint={name}&limit=500")["events"]
    return [event["kind"] for event in events]


def test_a_burst_is_answered_workers_rise_to_the_most_and_fall_to_none(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy(
        "burst",
        workers={"max": 4, "idleTimeout": 1},
        scaling=QUICK,
        nbgpu={"engine": engine(4, 1.0)},
    )
    body = {"stream": True, "nbgpu_test": {"chunks": 6, "delay_ms": 60}}
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda _: shared_backend.chat("burst", **body), range(60)))
    assert [a.status_code for a in answers] == [200] * 60
    assert all("data: [DONE]" in a.text for a in answers)
    until(lambda: shared_backend.row("burst")["workers"] == [])
    seen = Timeline.of(shared_backend, "burst", 60, slots=4)
    assert seen.most_up() == 4
    assert len({record["worker_id"] for record in seen.records}) == 4
    assert seen.waits_beside_room(longer_than_s=0.02) == []


def test_one_request_during_a_cold_start_starts_one_worker(shared_backend: BackendProcess) -> None:
    shared_backend.deploy(
        "single", workers={"max": 4}, scaling=QUICK, nbgpu={"engine": engine(2, 2.0)}
    )
    assert shared_backend.chat("single").status_code == 200
    assert kinds(shared_backend, "single").count("worker.launching") == 1


def test_new_settings_roll_a_busy_worker_ends_its_answers_and_max_is_never_exceeded(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("roll", workers={"max": 1}, nbgpu={"engine": engine(4)})
    shared_backend.chat("roll")
    old = shared_backend.worker("roll", "idle")["id"]
    long = {"stream": True, "nbgpu_test": {"chunks": 20, "delay_ms": 100}}
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(shared_backend.chat, "roll", **long)
        shared_backend.worker("roll", "running")
        shared_backend.http.patch(
            "/v2/serverless/roll", json={"env": {"A": "1"}}
        ).raise_for_status()
        listed = shared_backend.get("/v2/serverless/roll/workers")["workers"]
        assert [(w["id"], w["isStale"]) for w in listed] == [(old, True)]
        fresh = pool.submit(shared_backend.chat, "roll")
        assert "data: [DONE]" in answer.result().text
        assert fresh.result().headers["x-nbgpu-worker"] != old
    assert answer.result().headers["x-nbgpu-worker"] == old
    assert Timeline.of(shared_backend, "roll", 3, slots=4).most_billed() == 1


def test_workers_that_die_and_answer_nothing_are_given_up_with_the_reason(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("loop", workers={"max": 1}, nbgpu={"engine": engine(1)})
    assert shared_backend.chat("loop").status_code == 200
    for _ in range(3):
        shared_backend.chat("loop", nbgpu_test={"die_before_first_byte": True})
    shared_backend.wait_state("loop", "failed")
    row = shared_backend.row("loop")
    assert row["workers"] == [] and row["reason"].startswith("its workers die again and again")
    assert row["ratePerHour"] == "0"
    refused = shared_backend.chat("loop")
    assert refused.status_code == 503 and "die again and again" in refused.text
    shared_backend.http.post("/v2/serverless/loop/action", json={"action": "start"})
    assert shared_backend.chat("loop").status_code == 200


def test_deaths_with_answers_between_are_no_loop(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("luck", workers={"max": 1}, nbgpu={"engine": engine(1)})
    for _ in range(4):
        shared_backend.chat("luck", nbgpu_test={"die_before_first_byte": True})
        assert shared_backend.chat("luck").status_code == 200
    assert shared_backend.row("luck")["state"] in ("ready", "busy")


def test_warm_starts_workers_without_a_request_and_keeps_them_for_so_long(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("warm", workers={"max": 2, "idleTimeout": 1}, nbgpu={"engine": engine(1)})
    too_many = shared_backend.http.post("/nbgpu/v1/warm/warm", json={"seconds": 60, "workers": 3})
    assert too_many.status_code == 400 and "nbgpu scale warm --workers 3" in too_many.text
    began = time.time_ns() // 1000
    answer = shared_backend.http.post("/nbgpu/v1/warm/warm", json={"seconds": 3, "workers": 2})
    until_us = answer.json()["nbgpu"]["warm"]["untilUs"]
    assert 2.5 < (until_us - began) / 1e6 < 4
    until(lambda: [w["state"] for w in shared_backend.row("warm")["workers"]] == ["idle", "idle"])
    assert shared_backend.row("warm")["warmUntilUs"] == until_us
    until(lambda: shared_backend.row("warm")["workers"] == [])
    assert time.time_ns() // 1000 >= until_us
    shared_backend.http.post("/nbgpu/v1/warm/warm", json={"seconds": 600})
    shared_backend.worker("warm", "idle")
    shared_backend.http.post("/nbgpu/v1/warm/warm", json={"seconds": 0})
    until(lambda: shared_backend.row("warm")["workers"] == [])


def test_warm_survives_a_backend(backend: BackendProcess) -> None:
    backend.deploy("kept", workers={"max": 1, "idleTimeout": 1}, nbgpu={"engine": engine(1)})
    backend.http.post("/nbgpu/v1/warm/kept", json={"seconds": 600}).raise_for_status()
    worker = backend.worker("kept", "idle")
    backend.kill()
    backend.start()
    assert backend.row("kept")["warmUntilUs"] is not None
    assert backend.worker("kept", "idle")["id"] == worker["id"]


def test_scaling_down_cuts_no_busy_worker(shared_backend: BackendProcess) -> None:
    shared_backend.deploy(
        "down", workers={"min": 2, "max": 2, "idleTimeout": 1}, nbgpu={"engine": engine(1)}
    )
    until(lambda: [w["state"] for w in shared_backend.row("down")["workers"]] == ["idle", "idle"])
    long = {"stream": True, "nbgpu_test": {"chunks": 15, "delay_ms": 100}}
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(shared_backend.chat, "down", **long) for _ in range(2)]
        until(lambda: {w["state"] for w in shared_backend.row("down")["workers"]} == {"running"})
        shared_backend.http.patch(
            "/v2/serverless/down", json={"workers": {"min": 0, "max": 1}}
        ).raise_for_status()
        assert all("data: [DONE]" in answer.result().text for answer in both)
    assert shared_backend.get("/v2/serverless/down")["workers"]["idleTimeout"] == 1
    until(lambda: shared_backend.row("down")["workers"] == [])


def test_clients_that_vanish_leave_nothing_counted(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("vanish", workers={"max": 1}, nbgpu={"engine": engine(256)})
    assert shared_backend.chat("vanish").status_code == 200
    vanish(shared_backend, "vanish", 200, {"nbgpu_test": {"chunks": 1000, "delay_ms": 50}})
    until(lambda: shared_backend.row("vanish")["held"] == 0, within=5)
    worker = shared_backend.worker("vanish")
    assert worker["state"] == "idle" and worker["held"] == 0


def test_why_tells_of_a_request_that_waits_of_its_worker_and_of_both_afterwards(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("asks", workers={"max": 1}, nbgpu={"engine": engine(1, 3.0)})
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(shared_backend.chat, "asks")
        worker = shared_backend.worker("asks", "starting")
        of_endpoint = shared_backend.get("/nbgpu/v1/why/asks")
        waiting = next(line for line in of_endpoint["facts"] if line.startswith("  req-"))
        request = waiting.split()[0]
        of_request = shared_backend.get(f"/nbgpu/v1/why/{request}")
        assert of_request["subject"] == "request" and of_request["state"] == "waiting"
        assert "it waits for a worker: starting a worker" in of_request["reason"]["text"]
        of_worker = shared_backend.get(f"/nbgpu/v1/why/{worker['id']}")
        assert of_worker["subject"] == "worker" and of_worker["state"] == "starting"
        assert of_worker["endpoint"] == "asks" and of_worker["seconds"] < 3
        assert answer.result().headers["x-nbgpu-request"] == request
    done = shared_backend.get(f"/nbgpu/v1/why/{request}")
    assert done["state"] == "answered" and "cold start (plain start)" in " ".join(done["facts"])
    shared_backend.http.post("/v2/serverless/asks/action", json={"action": "stop"})
    ended = shared_backend.get(f"/nbgpu/v1/why/{worker['id']}")
    assert ended["state"] == "stopped" and "its endpoint was stopped" in ended["reason"]["text"]
    for unknown, next_step in (("w-nothing", "nbgpu ls"), ("req-nothing", "X-Nbgpu-Request")):
        missing = shared_backend.http.get(f"/nbgpu/v1/why/{unknown}")
        assert missing.status_code == 404 and next_step in missing.text
