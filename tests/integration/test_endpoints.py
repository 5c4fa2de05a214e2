"""Endpoints through HTTP: deploy, converge, change, stop, start, delete, idle, bad input."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.backend import BackendProcess, command_engine
from tests.support.waiting import until


def test_deploy_stores_and_starts_nothing_and_a_name_is_unique(
    shared_backend: BackendProcess,
) -> None:
    made = shared_backend.deploy("once")
    assert made["nbgpu"]["outcome"] == "created" and made["nbgpu"]["state"] == "asleep"
    assert shared_backend.row("once")["workers"] == []
    again = shared_backend.http.post(
        "/v2/serverless", json={"name": "once", "nbgpu": {"engine": command_engine()}}
    )
    assert again.status_code == 409 and again.json()["nbgpu"]["code"] == "name_taken"
    assert again.headers["content-type"] == "application/problem+json"
    by_id = shared_backend.get(f"/v2/serverless/{made['id']}")
    assert by_id["name"] == "once" and by_id["requestUrls"]["runSync"].endswith("/runsync")


def test_deploying_again_attaches_and_changed_settings_roll(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("conv")
    worker = shared_backend.chat("conv").headers["x-nbgpu-worker"]
    same = shared_backend.deploy("conv", nbgpu={"converge": True})
    assert same["nbgpu"]["outcome"] == "attached" and same["nbgpu"]["changes"] == []
    idle = shared_backend.deploy("conv", workers={"idleTimeout": 7}, nbgpu={"converge": True})
    assert [c["field"] for c in idle["nbgpu"]["changes"]] == ["workers.idleTimeout"]
    assert shared_backend.chat("conv").headers["x-nbgpu-worker"] == worker
    rolled = shared_backend.deploy(
        "conv", workers={"idleTimeout": 7}, env={"GREETING": "hi"}, nbgpu={"converge": True}
    )
    assert rolled["nbgpu"]["version"] == 2
    assert shared_backend.chat("conv").headers["x-nbgpu-worker"] != worker


def test_another_notebooks_endpoint_is_changed_only_when_it_is_taken(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("owned", nbgpu={"origin": {"notebook": "a.ipynb"}})
    theirs = {"converge": True, "origin": {"notebook": "b.ipynb"}, "engine": command_engine()}
    change = {"name": "owned", "workers": {"idleTimeout": 9}, "nbgpu": theirs}
    attach = shared_backend.http.post("/v2/serverless", json={"name": "owned", "nbgpu": theirs})
    assert attach.json()["nbgpu"]["outcome"] == "attached"
    refused = shared_backend.http.post("/v2/serverless", json=change)
    assert refused.status_code == 409 and "--take" in refused.json()["detail"]
    theirs["take"] = True
    assert shared_backend.http.post("/v2/serverless", json=change).status_code == 200


def test_patch_changes_what_it_names_and_keeps_the_rest(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("patch", env={"A": "1"})
    answer = shared_backend.http.patch(
        "/v2/serverless/patch", json={"workers": {"min": 0, "max": 2, "idleTimeout": 11}}
    )
    found = answer.json()
    assert found["workers"] == {"min": 0, "max": 2, "idleTimeout": 11} and found["env"] == {
        "A": "1"
    }
    typo = shared_backend.http.patch("/v2/serverless/patch", json={"worker": {}})
    assert typo.status_code == 400 and typo.json()["errors"] == ["worker: there is no such field"]


def test_an_idle_worker_ends_after_its_time_and_leaves_nothing(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("idle", workers={"idleTimeout": 1})
    shared_backend.chat("idle")
    pid = shared_backend.worker("idle")["pid"]
    shared_backend.wait_state("idle", "asleep")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    names = [p.name for p in shared_backend.home.instances.iterdir()]
    ledger = shared_backend.get("/nbgpu/v1/metrics/ledger?endpoint=idle")["columns"]
    assert ledger["ended_us"][0] is not None and not ledger["estimated"][0]
    assert not any(ledger["instance"][0] in name for name in names)


def test_stop_refuses_requests_until_start(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("halt")
    shared_backend.chat("halt")
    stopped = shared_backend.http.post("/v2/serverless/halt/action", json={"action": "stop"}).json()
    assert stopped["nbgpu"]["state"] == "stopped" and stopped["nbgpu"]["workers"] == []
    refused = shared_backend.chat("halt")
    assert refused.status_code == 503 and "nbgpu start halt" in refused.json()["error"]["message"]
    shared_backend.http.post("/v2/serverless/halt/action", json={"action": "start"})
    assert shared_backend.chat("halt").status_code == 200


def test_delete_ends_everything_and_frees_the_name(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("brief")
    shared_backend.chat("brief")
    pid = shared_backend.worker("brief")["pid"]
    assert shared_backend.http.delete("/v2/serverless/brief").status_code == 204
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert shared_backend.chat("brief").status_code == 404
    shared_backend.deploy("brief")


def test_an_always_on_worker_is_there_before_any_request(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("eager", workers={"min": 1, "max": 1})
    first = shared_backend.worker("eager", "idle")
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: shared_backend.worker("eager", "idle")["id"] != first["id"])


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"name": "pods"}, 400, "reserved"),
        ({"name": "Bad Name"}, 400, "Try --name bad-name"),
        ({"name": "x", "workers": {"min": 3, "max": 1}}, 400, "contradict"),
        ({"name": "x", "env": {"HF_TOKEN": "s"}}, 400, "looks like a secret"),
        ({"name": "x", "nbgpu": {"place": {"on": "moon"}}}, 404, "no place 'moon'"),
        ({"name": "x", "nbgpu": {"place": {"gpu": ["H100"]}}}, 503, "no H100"),
        ({"name": "x", "nbgpu": {"place": {"cpu": 9999}}}, 400, "cores"),
        ({"name": "x", "nbgpu": {"model": "./nowhere"}}, 404, "no folder"),
        ({"name": "x", "nbgpu": {"engine": {"name": "vllm"}, "model": "/etc"}}, 0, ""),
        ({"name": "x", "nbgpu": {"surprise": 1}}, 400, "there is no such field"),
    ],
)
def test_bad_input_is_one_sentence_and_stores_nothing(
    shared_backend: BackendProcess, body: dict[str, object], status: int, says: str
) -> None:
    extras = {"engine": command_engine(), **body.pop("nbgpu", {})}  # type: ignore[dict-item]
    answer = shared_backend.http.post("/v2/serverless", json={**body, "nbgpu": extras})
    problem = answer.json()
    assert answer.status_code == status or (status == 0 and answer.status_code >= 400)
    assert says in problem["detail"] and problem["nbgpu"]["code"]
    assert all(row["name"] != body["name"] for row in shared_backend.get("/nbgpu/v1/summary")["endpoints"])  # fmt: skip


def test_an_engine_that_cannot_start_is_told_with_its_last_words_and_bills_nothing_more(
    shared_backend: BackendProcess, tmp_path: Path
) -> None:
    script = tmp_path / "broken.py"
    script.write_text("raise RuntimeError('the weights are upside down')  # {port}\n")
    import sys

    engine = {"name": "command", "options": [sys.executable, str(script), "{port}"]}
    shared_backend.deploy("broken", nbgpu={"engine": engine})
    answer = shared_backend.chat("broken")
    message = answer.json()["error"]["message"]
    assert answer.status_code == 503
    assert "the weights are upside down" in message and "nbgpu start broken" in message
    shared_backend.wait_state("broken", "failed")
    why = shared_backend.get("/nbgpu/v1/why/broken")
    assert any("upside down" in line for line in why["tail"]) and why["state"] == "failed"
    assert shared_backend.chat("broken").status_code == 503
    assert shared_backend.row("broken")["workers"] == []
    script.write_text(Path("tests/support/upstream.py").read_text())
    fixed = command_engine()
    fixed["options"][1] = str(script)
    shared_backend.deploy("broken", nbgpu={"engine": fixed, "converge": True})
    assert shared_backend.chat("broken").status_code == 200


def test_too_little_memory_is_said_with_its_sums(shared_backend: BackendProcess) -> None:
    engine = command_engine()
    engine["options"] = ["--memory", "9000G", *engine["options"]]
    shared_backend.deploy("huge", nbgpu={"engine": engine})
    answer = shared_backend.chat("huge")
    assert answer.status_code == 503
    assert "it needs 96" in answer.json()["error"]["message"].replace(",", "")


def test_events_come_with_a_growing_seq_and_can_be_taken_up_again(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("tale")
    shared_backend.chat("tale")
    seen: list[tuple[int, str]] = []
    with shared_backend.http.stream(
        "GET", "/nbgpu/v1/events", params={"since": 0, "endpoint": "tale"}
    ) as answer:
        kind, seq = "", 0
        for line in answer.iter_lines():
            if line.startswith("id: "):
                seq = int(line[4:])
            if line.startswith("event: "):
                kind = line[7:]
                seen.append((seq, kind))
            if kind == "worker.ready":
                break
    assert [k for _, k in seen] == ["endpoint.created", "worker.launching", "worker.ready"]
    assert [s for s, _ in seen] == sorted({s for s, _ in seen})
    with shared_backend.http.stream(
        "GET", "/nbgpu/v1/events", headers={"Last-Event-ID": str(seen[1][0])}, params={"endpoint": "tale"}
    ) as answer:  # fmt: skip
        first = next(line for line in answer.iter_lines() if line.startswith("id: "))
    assert int(first[4:]) == seen[2][0]


def test_a_rate_makes_money_of_time_and_is_rounded_up_once(shared_backend: BackendProcess) -> None:
    shared_backend.http.patch(
        "/nbgpu/v1/settings", json={"rates": {"local": "3600"}, "source": "a test"}
    ).raise_for_status()
    try:
        shared_backend.deploy("paid", workers={"idleTimeout": 1})
        shared_backend.chat("paid")  # it wakes
        began = time.monotonic()
        shared_backend.chat("paid", nbgpu_test={"stall_s": 0.3})
        took = time.monotonic() - began
        shared_backend.wait_state("paid", "asleep")
        table = shared_backend.get("/nbgpu/v1/metrics/ledger?endpoint=paid")["columns"]
        seconds, amount = table["seconds"][0], table["amount"][0]
        assert float(amount) == -(-seconds // 1) and table["rate_source"] == ["a test"]
        series = shared_backend.get("/nbgpu/v1/metrics/cost?endpoint=paid")
        parts = [series[share][-1] for share in ("start", "busy", "idle")]
        assert float(series["total"]) == pytest.approx(sum(parts)) == pytest.approx(float(amount))
        first, second = (float(r["cost"]) for r in shared_backend.records("paid", 2))
        assert 0.3 <= second <= took
        assert parts[1] == pytest.approx(first + second, abs=0.05) and parts[2] >= 1
        assert shared_backend.row("paid")["costSoFar"] == amount
    finally:
        shared_backend.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "0"}})


def test_two_notebooks_that_deploy_at_once_get_one_endpoint(shared_backend: BackendProcess) -> None:
    extras = {"engine": command_engine(), "converge": True}

    def deploy(_: int) -> tuple[str, str]:
        body = {"name": "both", "nbgpu": extras}
        found = shared_backend.http.post("/v2/serverless", json=body).json()
        return found["id"], found["nbgpu"]["outcome"]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(deploy, range(6)))
    assert len({i for i, _ in answers}) == 1
    assert sorted(o for _, o in answers) == ["attached"] * 5 + ["created"]
