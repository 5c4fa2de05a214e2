"""The data path in front of a tiny upstream whose faults the request chooses."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.support.backend import BackendProcess, command_engine, events_of
from tests.support.waiting import until

CHAT = "/v2/{}/openai/v1/chat/completions"


def body(name: str, **more: object) -> dict[str, object]:
    return {"model": name, "messages": [{"role": "user", "content": "hi"}], **more}


def stream(backend: BackendProcess, name: str, **more: object) -> tuple[int, str]:
    answer = backend.http.post(CHAT.format(name), json=body(name, stream=True, **more))
    return answer.status_code, answer.text


def test_the_first_request_starts_a_worker_and_is_held_until_it_answers(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("held", nbgpu={"engine": command_engine("--startup-s", "0.5")})
    assert shared_backend.row("held")["workers"] == []
    answer = shared_backend.chat("held")
    assert answer.status_code == 200 and answer.headers["x-nbgpu-cold"] == "1"
    cold, warm = shared_backend.chat("held"), shared_backend.records("held", 2)
    assert cold.headers["x-nbgpu-cold"] == "0"
    assert warm[0]["cold"] and warm[0]["start_ms"] > 400 and "api" in warm[0]["phases"]
    assert not warm[1]["cold"] and warm[1]["start_ms"] == 0 and warm[1]["queue_ms"] < 100


def test_all_requests_of_a_burst_from_zero_are_answered_by_one_worker(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("burst", nbgpu={"engine": command_engine("--startup-s", "0.3")})
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: shared_backend.chat("burst"), range(40)))
    assert [a.status_code for a in answers] == [200] * 40
    assert len({a.headers["x-nbgpu-worker"] for a in answers}) == 1


def test_the_unmodified_openai_package_works(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("sdk")
    client = openai.OpenAI(
        base_url=f"{shared_backend.backend.url}/v2/sdk/openai/v1",
        api_key=shared_backend.backend.token,
    )
    assert [m.id for m in client.models.list()] == ["sdk"]
    whole = client.chat.completions.create(model="sdk", messages=[{"role": "user", "content": "x"}])
    assert whole.choices[0].message.content and whole.usage and whole.usage.completion_tokens == 4
    chunks = list(
        client.chat.completions.create(
            model="sdk", messages=[{"role": "user", "content": "x"}], stream=True
        )
    )
    assert sum(bool(c.choices[0].delta.content) for c in chunks) == 4
    text = client.completions.create(model="sdk", prompt="x")
    assert text.choices[0].text
    with pytest.raises(openai.NotFoundError, match="serves no model 'other'"):
        client.chat.completions.create(model="other", messages=[])
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_the_model_name_alone_finds_the_endpoint(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("byname")
    answer = shared_backend.http.post("/openai/v1/chat/completions", json=body("byname"))
    assert answer.status_code == 200
    missing = shared_backend.http.post("/openai/v1/chat/completions", json=body("bynane"))
    assert missing.status_code == 404
    assert "Did you mean 'byname'?" in missing.json()["error"]["message"]


def test_usage_is_counted_and_stripped_where_the_client_did_not_ask(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("usage")
    _, plain = stream(shared_backend, "usage", nbgpu_test={"chunks": 7})
    assert '"usage":' not in plain and plain.endswith("data: [DONE]\n\n")
    _, asked = stream(
        shared_backend, "usage", nbgpu_test={"chunks": 7}, stream_options={"include_usage": True}
    )
    assert asked.count('"usage":') == 1
    assert len(events_of(asked)) == len(events_of(plain)) + 1
    records = shared_backend.records("usage", 2)
    assert [r["tokens_out"] for r in records] == [7, 7] and records[0]["tokens_in"] == 1


def test_a_worker_that_dies_before_the_first_byte_costs_the_client_nothing(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("phoenix")
    first = shared_backend.chat("phoenix").headers["x-nbgpu-worker"]
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(shared_backend.chat, "phoenix", nbgpu_test={"stall_s": 2})
        until(lambda: shared_backend.row("phoenix")["held"] == 1)
        pid = shared_backend.worker("phoenix")["pid"]
        os.kill(pid, signal.SIGKILL)
        answer = waiting.result()
    assert answer.status_code == 200
    assert answer.headers["x-nbgpu-worker"] != first
    record = shared_backend.records("phoenix", 2)[1]
    assert record["retries"] == 1 and record["cold"] and record["start_ms"] > 0
    history = shared_backend.get("/nbgpu/v1/why/phoenix")["history"]
    assert any("killed by signal 9" in line for line in history)


def test_a_request_that_kills_every_worker_is_given_up_with_a_sentence(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("poison")
    answer = shared_backend.chat("poison", nbgpu_test={"die_before_first_byte": True})
    assert answer.status_code == 502
    assert "died while it worked on this request, 3 times" in answer.json()["error"]["message"]
    assert shared_backend.chat("poison").status_code == 200


def test_a_worker_that_dies_in_the_middle_ends_the_stream_with_an_error_event(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("middle")
    status, text = stream(
        shared_backend, "middle", nbgpu_test={"chunks": 9, "delay_ms": 5, "die_after_chunks": 3}
    )
    events = events_of(text)
    assert status == 200 and "[DONE]" not in text
    assert json.loads(events[-1])["error"]["code"] == "worker_died"
    record = shared_backend.records("middle", 1)[0]
    assert record["status"] == 502 and "died while it answered" in record["error"]


def test_a_held_stream_is_kept_open_by_comments_and_later_failures_are_events(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy(
        "slow",
        nbgpu={
            "engine": command_engine("--startup-s", "30"),
            "policy": {"heartbeatS": 0.2, "holdS": 1.5},
        },
    )
    status, text = stream(shared_backend, "slow")
    comments = [line for line in text.splitlines() if line.startswith(": waiting")]
    assert status == 200 and len(comments) >= 4 and "starting a worker" in comments[-1]
    error = json.loads(events_of(text)[-1])["error"]
    assert error["code"] == "hold_timeout" and "nbgpu why slow" in error["message"]
    whole = shared_backend.chat("slow")
    assert whole.status_code == 504


def test_a_stream_that_asks_for_progress_hears_of_it_at_once_and_of_its_figures_at_the_end(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("chatty", nbgpu={"engine": command_engine("--startup-s", "1.2")})
    answer = shared_backend.http.post(
        CHAT.format("chatty"),
        json=body("chatty", stream=True),
        headers={"X-Nbgpu-Progress": "1", "X-Nbgpu-Origin": "notebook=a%20b.ipynb&session=7"},
    )
    assert shared_backend.records("chatty", 1)[0]["notebook"] == "a b.ipynb"
    lines = answer.text.splitlines()
    waiting = [json.loads(x[8:]) for x in lines if x.startswith(": nbgpu {")]
    (done,) = [json.loads(x[13:]) for x in lines if x.startswith(": nbgpu-done ")]
    assert len(waiting) >= 2 and waiting[-1]["state"] == "starting"
    assert done["cold"] and done["tokens_out"] == 4 and done["start_ms"] > 1000
    assert done["first_byte_ms"] <= done["total_ms"]


def test_a_client_that_goes_away_frees_its_slot_and_is_recorded(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("gone")
    shared_backend.chat("gone")
    with pytest.raises(httpx.ReadTimeout):
        shared_backend.http.post(
            CHAT.format("gone"), json=body("gone", nbgpu_test={"stall_s": 30}), timeout=0.5
        )
    until(lambda: shared_backend.row("gone")["held"] == 0)
    assert shared_backend.records("gone", 2)[1]["status"] == 499


def test_a_full_queue_is_refused_with_the_time_to_come_back(shared_backend: BackendProcess) -> None:
    shared_backend.deploy(
        "full",
        nbgpu={"engine": command_engine("--startup-s", "1"), "policy": {"queueMax": 3}},
    )
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shared_backend.chat("full"), range(8)))
    refused = [a for a in answers if a.status_code == 429]
    assert len(refused) == 5 and all(int(a.headers["retry-after"]) > 0 for a in refused)
    assert sum(a.status_code == 200 for a in answers) == 3


def test_errors_of_the_engine_pass_through_as_they_are(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("strict")
    answer = shared_backend.chat("strict", prompt="x" * 3000)
    assert answer.status_code == 400 and "error" in answer.json()
    status, text = stream(shared_backend, "strict", nbgpu_test={"status": 422})
    assert status == 422 and json.loads(text)["error"]


def test_malformed_requests_are_told_so_in_openais_shape(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("shape")
    post = shared_backend.http.post
    assert post(CHAT.format("shape"), content=b"{").json()["error"]["code"] == "bad_json"
    assert post(CHAT.format("shape"), content=b"[]").status_code == 400
    assert post("/openai/v1/chat/completions", json={}).status_code == 400
    too_large = post(CHAT.format("shape"), content=b'"' + b"x" * (21 << 20) + b'"')
    assert too_large.status_code == 413
    assert shared_backend.row("shape")["workers"] == []


def test_slots_bound_what_a_worker_holds_and_nothing_is_lost(
    shared_backend: BackendProcess,
) -> None:
    engine = command_engine()
    engine["options"] = ["--concurrency", "2", *engine["options"]]
    shared_backend.deploy("narrow", nbgpu={"engine": engine})
    shared_backend.chat("narrow")
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        with httpx.Client(trust_env=False) as client:
            port = shared_backend.worker("narrow")["port"]
            key = (
                shared_backend.home.instances / next(
                    p.name for p in shared_backend.home.instances.iterdir()
                    if shared_backend.worker("narrow")["id"] in p.name
                ) / "key"
            ).read_text()  # fmt: skip
            while not stop.is_set():
                answer = client.get(
                    f"http://127.0.0.1:{port}/nbgpu_test/stats",
                    headers={"Authorization": f"Bearer {key}"},
                )
                seen.append(answer.json()["most_active"])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with ThreadPoolExecutor(10) as pool:
            answers = list(
                pool.map(
                    lambda _: shared_backend.chat("narrow", nbgpu_test={"stall_s": 0.1}), range(10)
                )
            )
    finally:
        stop.set()
        thread.join()
    assert [a.status_code for a in answers] == [200] * 10
    assert max(seen) == 2


def test_a_stopped_process_makes_requests_wait_and_go_on(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("frozen")
    shared_backend.chat("frozen")
    pid = shared_backend.worker("frozen")["pid"]
    os.killpg(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(shared_backend.chat, "frozen")
        until(lambda: shared_backend.row("frozen")["held"] == 1)
        assert not waiting.done()
        os.killpg(pid, signal.SIGCONT)
        assert waiting.result().status_code == 200


def test_a_worker_that_does_not_answer_health_is_replaced(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("sick", nbgpu={"policy": {"unhealthyS": 1}})
    first = shared_backend.chat("sick").headers["x-nbgpu-worker"]
    os.killpg(shared_backend.worker("sick")["pid"], signal.SIGSTOP)
    until(lambda: shared_backend.row("sick")["workers"] == [])
    assert shared_backend.chat("sick").headers["x-nbgpu-worker"] != first
    assert any("/health" in x for x in shared_backend.get("/nbgpu/v1/why/sick")["history"])
