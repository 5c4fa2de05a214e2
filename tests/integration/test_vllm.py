"""The real engine in the hands of a real backend: few tests, because a start takes about 20 s.

`vllm` holds the endpoint `tiny`, kept ready, for what leaves its worker alive. What ends workers
happens on the endpoint `short` of `own`, whose options went through the command line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from nbgpu_backend import runtime
from nbgpu_backend.providers.local import procfs

from tests.support.backend import BackendProcess
from tests.support.crowd import vanish
from tests.support.shared_memory import SHM, abandoned
from tests.support.shims import Yard
from tests.support.timeline import Timeline
from tests.support.waiting import until

pytestmark = pytest.mark.vllm

CONTEXT = 384  # tokens, of `short`


@dataclass(frozen=True)
class Own:
    backend: BackendProcess
    shm_before: frozenset[str]

    def launches(self, name: str) -> int:
        """How many workers this endpoint has been given so far."""
        ledger = self.backend.get(f"/nbgpu/v1/metrics/ledger?endpoint={name}")["columns"]
        return len(set(ledger["instance"]))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Own]:
    """A backend whose workers may be killed, with the endpoint `short`: asleep."""
    before = frozenset(os.listdir(SHM))
    process = BackendProcess(tmp_path_factory.mktemp("own") / "home")
    process.start()
    try:
        done = process.cli(
            "deploy", str(tiny_llama), "--name", "short", "--idle", "10m",
            "--", "--max-model-len", str(CONTEXT),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield Own(process, before)
    finally:
        process.shutdown(everything=True)


def client_of(backend: BackendProcess, name: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{backend.backend.url}/v2/{name}/openai/v1",
        api_key=backend.backend.token,
        max_retries=0,
    )


def ask(backend: BackendProcess, name: str, **more: Any) -> Any:
    """A request that may have to wait for a cold start."""
    return backend.http.post(
        f"/v2/{name}/openai/v1/chat/completions",
        json={"model": name, "messages": [{"role": "user", "content": "hi"}],
              "max_tokens": 4, **more},
        timeout=180,
    )  # fmt: skip


def test_the_unmodified_openai_package_streams(vllm: BackendProcess) -> None:
    stream = client_of(vllm, "tiny").chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Say something."}],
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) > 1
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 24
    assert {c.model for c in chunks} == {"tiny"}
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    record = vllm.records("tiny", 1)[-1]
    assert record["status"] == 200 and record["tokens_out"] == 24 and not record["cold"]


def test_a_prompt_longer_than_the_context_is_refused_and_the_worker_lives(
    vllm: BackendProcess,
) -> None:
    worker = vllm.worker("tiny", "idle")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="maximum context length") as refused:
            client_of(vllm, "tiny").chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "word " * 9000}], stream=stream
            )
        assert refused.value.status_code == 400
        assert isinstance(refused.value.body, dict) and refused.value.body["message"]
    answer = ask(vllm, "tiny")
    assert answer.status_code == 200 and answer.headers["x-nbgpu-worker"] == worker["id"]


def test_a_bad_option_is_refused_before_anything_starts(
    vllm: BackendProcess, tiny_llama: Path
) -> None:
    engine = {"name": "vllm", "options": ["--max-model-length", "128"]}
    answer = vllm.http.post(
        "/v2/serverless",
        json={"name": "typo", "nbgpu": {"engine": engine, "model": str(tiny_llama)}},
    )
    assert answer.status_code == 422
    assert "has no option --max-model-length" in answer.json()["detail"]
    assert "Did you mean --max-model-len?" in answer.json()["detail"]
    assert [row["name"] for row in vllm.get("/nbgpu/v1/summary")["endpoints"]] == ["tiny"]


def test_an_engine_that_is_not_installed_is_one_sentence(
    backend: BackendProcess, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.shutdown(everything=False)
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("NBGPU_ENGINES", str(tmp_path / "none"))
    backend.start()
    answer = backend.http.post(
        "/v2/serverless",
        json={"name": "early", "nbgpu": {"engine": {"name": "vllm"}, "model": str(tiny_llama)}},
    )
    assert answer.status_code == 503 and answer.json()["nbgpu"]["code"] == "engine_missing"
    assert "`nbgpu engine add vllm`" in answer.json()["detail"]
    assert backend.get("/v2/serverless")["endpoints"] == []
    typed = BackendProcess(backend.home.root).cli("deploy", str(tiny_llama), "--name", "early")
    assert typed.returncode == 1 and "nbgpu engine add vllm" in typed.stderr
    assert "Traceback" not in typed.stderr


def test_a_stopped_group_makes_a_request_wait_and_go_on(vllm: BackendProcess) -> None:
    pid = vllm.worker("tiny", "idle")["pid"]
    os.killpg(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, vllm, "tiny")
            until(lambda: vllm.row("tiny")["held"] == 1)
            assert not waiting.done()
            os.killpg(pid, signal.SIGCONT)
            assert waiting.result().status_code == 200
    finally:
        os.killpg(pid, signal.SIGCONT)
    assert vllm.worker("tiny")["pid"] == pid


def test_options_behind_two_dashes_reach_the_engine(own: Own) -> None:
    assert ask(own.backend, "short").status_code == 200
    refused = ask(own.backend, "short", max_tokens=CONTEXT + 1)
    assert refused.status_code == 400 and str(CONTEXT) in refused.json()["error"]["message"]
    log = own.backend.get("/nbgpu/v1/logs/short?tail=5000")["lines"]
    assert any("non-default args" in line and f"'max_model_len': {CONTEXT}" in line for line in log)


def test_after_a_kill_the_next_request_is_answered_by_a_new_worker(own: Own) -> None:
    before = ask(own.backend, "short").headers["x-nbgpu-worker"]
    worker = own.backend.worker("short")
    os.kill(worker["pid"], signal.SIGKILL)
    after = ask(own.backend, "short")
    assert after.status_code == 200 and after.headers["x-nbgpu-worker"] != before
    assert worker["pid"] not in living_sessions()  # it led its session: the rest went with it
    why = own.backend.get("/nbgpu/v1/why/short")
    assert any("killed by signal 9" in line for line in why["history"]), why["history"]
    assert [phase["name"] for phase in why["phases"]] == [
        "import", "engine", "weights", "kv", "api",
    ]  # fmt: skip


def test_damaged_weights_are_one_sentence_and_hold_the_endpoint_down(
    own: Own, tiny_llama: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama, broken)
    weights = broken / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    own.backend.deploy("broken", nbgpu={"engine": {"name": "vllm"}, "model": str(broken)})
    answer = ask(own.backend, "broken")
    message = answer.json()["error"]["message"]
    assert answer.status_code == 503 and "The weights are damaged or incomplete" in message
    assert "nbgpu start broken" in message and "\n" not in message
    assert own.backend.row("broken")["state"] == "failed"
    again = ask(own.backend, "broken")
    assert again.status_code == 503 and own.launches("broken") == 1
    why = own.backend.get("/nbgpu/v1/why/broken")
    assert why["reason"]["code"] == "start_failed" and why["tail"]
    own.backend.http.delete("/v2/serverless/broken").raise_for_status()


def test_several_are_forked_at_once_parked_and_woken(own: Own, tiny_llama: Path) -> None:
    own.backend.deploy(
        "pair",
        workers={"min": 2, "max": 2, "idleTimeout": 1},
        nbgpu={"engine": {"name": "vllm"}, "model": str(tiny_llama)},
    )
    until(
        lambda: [w["state"] for w in own.backend.row("pair")["workers"]] == ["idle"] * 2, within=60
    )
    assert {w["tier"] for w in own.backend.row("pair")["workers"]} == {"preimported"}
    (parent,) = own.backend.get("/nbgpu/v1/memory")["parents"]  # the one that `short` had
    assert parent["ready"] and parent["memoryBytes"] > 100_000_000
    own.backend.http.patch("/v2/serverless/pair", json={"workers": {"min": 0}}).raise_for_status()
    until(lambda: {w["state"] for w in own.backend.row("pair")["workers"]} == {"parked"})
    answer = ask(own.backend, "pair")
    assert answer.status_code == 200 and answer.headers["x-nbgpu-cold"] == "1"
    assert own.backend.records("pair", 1)[-1]["tier"] == "parked"
    own.backend.http.delete("/v2/serverless/pair").raise_for_status()


def test_the_death_of_the_parent_costs_no_answer(own: Own) -> None:
    worker = ask(own.backend, "short").headers["x-nbgpu-worker"]
    (parent,) = own.backend.get("/nbgpu/v1/memory")["parents"]
    os.kill(parent["pid"], signal.SIGKILL)
    until(lambda: own.backend.get("/nbgpu/v1/memory")["parents"] == [])
    assert ask(own.backend, "short").headers["x-nbgpu-worker"] == worker
    os.kill(own.backend.worker("short")["pid"], signal.SIGKILL)
    assert ask(own.backend, "short").headers["x-nbgpu-worker"] != worker
    (fresh,) = own.backend.get("/nbgpu/v1/memory")["parents"]
    assert fresh["pid"] != parent["pid"]


def test_200_clients_that_vanish_leave_nothing_running(own: Own, tiny_llama: Path) -> None:
    own.backend.deploy(
        "many",
        nbgpu={
            "engine": {
                "name": "vllm",
                "options": ["--max-num-seqs", "256", "--max-model-len", "2048"],
            },
            "model": str(tiny_llama),
        },
    )
    assert ask(own.backend, "many").status_code == 200
    vanish(own.backend, "many", 200, {"max_tokens": 2000, "ignore_eos": True})
    worker = own.backend.worker("many")

    def ours() -> bool:
        jobs = own.backend.get("/v2/many/health")["jobs"]
        return own.backend.row("many")["held"] == 0 and jobs["inProgress"] == 0

    def running() -> float:
        gauges = httpx.get(f"http://127.0.0.1:{worker['port']}/metrics").text
        found = re.search(r"^vllm:num_requests_running\S* (\S+)$", gauges, re.M)
        assert found is not None
        return float(found[1])

    until(ours, within=5)
    # the engine's own turn; with both cores taken by others it has needed 5 s
    until(lambda: running() == 0.0, within=20)
    assert own.backend.row("many")["workers"][0]["state"] == "idle"
    own.backend.http.delete("/v2/serverless/many").raise_for_status()


def test_a_burst_of_60_has_four_engines_and_then_none(own: Own, tiny_llama: Path) -> None:
    own.backend.deploy(
        "burst",
        workers={"max": 4, "idleTimeout": 1},
        scaling={"type": "REQUEST_COUNT", "requestCount": 15},
        nbgpu={
            "engine": {"name": "vllm", "options": ["--max-num-seqs", "8"]},
            "model": str(tiny_llama),
            "policy": {"tiers": ["preimported"]},
        },
    )
    with ThreadPoolExecutor(60) as pool:
        answers = list(
            pool.map(
                lambda _: ask(own.backend, "burst", max_tokens=800, ignore_eos=True), range(60)
            )
        )
    assert [answer.status_code for answer in answers] == [200] * 60
    until(lambda: own.backend.row("burst")["workers"] == [])
    seen = Timeline.of(own.backend, "burst", 60, slots=8)
    assert seen.most_up() == 4 and seen.most_billed() == 4
    assert seen.waits_beside_room(longer_than_s=0.02) == []
    assert {record["tier"] for record in seen.records if record["cold"]} == {"preimported"}


def test_shutdown_all_leaves_no_process_and_no_shared_memory(own: Own) -> None:
    assert ask(own.backend, "short").status_code == 200
    started = sessions(own.backend)
    assert started
    done = own.backend.cli("shutdown", "--all", "--yes")
    assert done.returncode == 0, done.stderr
    until(lambda: runtime.locate(own.backend.home) is None)
    assert not started & living_sessions()
    assert Yard(own.backend.home.root).everything() == []
    assert abandoned(own.shm_before) == []
    assert list(own.backend.home.instances.iterdir()) == []


def sessions(backend: BackendProcess) -> set[int]:
    """The sessions of all living processes that have this home in their environment."""
    mine = set(Yard(backend.home.root).everything())
    return {row.session for row in procfs.processes() if row.alive and row.pid in mine}


def living_sessions() -> set[int]:
    return {row.session for row in procfs.processes() if row.alive}


def test_jobs_in_every_form_are_answered_by_the_engine(vllm: BackendProcess) -> None:
    parameters = {"max_tokens": 3, "temperature": 0}
    messages = [{"role": "user", "content": "hi"}]
    forms: list[dict[str, Any]] = [
        {"prompt": "hi", "sampling_params": parameters},
        {"messages": messages, "sampling_params": parameters},
        {
            "openai_route": "/v1/chat/completions",
            "openai_input": {"messages": messages, **parameters},
        },
    ]
    for given in forms:
        done = vllm.http.post("/v2/tiny/runsync", json={"input": given}).json()
        assert done["status"] == "COMPLETED", done
        (answer,) = done["output"]
        assert answer["usage"]["completion_tokens"] == 3
    listed = vllm.http.post(
        "/v2/tiny/runsync", json={"input": {"openai_route": "/v1/models"}}
    ).json()
    assert listed["output"][0]["data"][0]["id"] == "tiny"
    streamed = {"messages": messages, "sampling_params": parameters, "stream": True}
    pieces = vllm.http.post("/v2/tiny/runsync", json={"input": streamed}).json()["output"]
    assert "".join(pieces).rstrip().endswith("data: [DONE]")
    refused = vllm.http.post(
        "/v2/tiny/runsync", json={"input": {"prompt": "x", "sampling_params": {"n": -1}}}
    )
    assert refused.json()["status"] == "FAILED" and refused.json()["error"]
