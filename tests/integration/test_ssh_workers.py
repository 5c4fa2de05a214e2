"""Endpoints whose workers run on hosts with links that break: requests wait or go elsewhere, nothing is
lost, nothing runs twice."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.ssh_workers import HostsBackend, engines_there
from tests.support.sshd import Net, Sshd, needs_sshd, serving, tunnel_pid
from tests.support.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    needs_sshd()
    with serving(Sshd(tmp_path / "server")) as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, server: Sshd) -> Iterator[HostsBackend]:
    backend = HostsBackend(tmp_path / "home", {"lab1": server})
    backend.start()
    yield backend
    backend.shutdown(everything=True)


def test_a_worker_there_survives_all_that_stands_between(home: HostsBackend, server: Sshd) -> None:
    home.http.patch("/nbgpu/v1/settings", json={"rates": {"lab1": "36"}}).raise_for_status()
    home.deploy_on("far", "lab1")
    assert home.chat("far").status_code == 200
    worker = home.workers("far")[0]
    assert worker["nbgpu"]["place"] == "lab1" and worker["nbgpu"]["ratePerHour"] == "36"
    assert home.row("far")["ratePerHour"] == "36"

    def same() -> None:
        assert home.chat("far").status_code == 200
        assert [w["id"] for w in home.workers("far")] == [worker["id"]]

    os.kill(tunnel_pid(home.home.hosts / "lab1"), signal.SIGKILL)
    same()
    for pid in server.sessions():
        os.kill(pid, signal.SIGKILL)
    same()
    for pid in server.programs():
        os.kill(pid, signal.SIGKILL)
    same()
    home.kill()
    home.start()
    same()
    home.http.delete("/v2/serverless/far").raise_for_status()
    assert home.instances("lab1") == []


def test_a_killed_worker_there_is_replaced_and_its_request_answered(home: HostsBackend) -> None:
    home.deploy_on("far", "lab1")
    assert home.chat("far").status_code == 200
    pid = home.workers("far")[0]["nbgpu"]["pid"]
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(home.chat, "far", nbgpu_test={"stall_s": 2})
        until(lambda: home.states("far") == {"lab1": "running"})
        os.kill(pid, signal.SIGKILL)
        assert late.result().status_code == 200
    assert home.workers("far")[0]["nbgpu"]["pid"] != pid
    assert len(home.instances("lab1")) == 1


def test_an_idle_worker_there_is_parked_and_woken(home: HostsBackend) -> None:
    policy = {"tiers": ["parked"], "parkS": 600}
    home.deploy_on("far", "lab1", workers={"max": 1, "idleTimeout": 1}, nbgpu={"policy": policy})
    assert home.chat("far").status_code == 200
    until(lambda: home.states("far") == {"lab1": "parked"})
    (worker,) = home.workers("far")
    assert home.chat("far").status_code == 200
    assert [w["id"] for w in home.workers("far")] == [worker["id"]]
    assert home.workers("far")[0]["nbgpu"]["tier"] == "parked"


def test_where_it_may_run_is_checked_before_anything_is_stored(home: HostsBackend) -> None:
    def refused(on: str, **place: object) -> str:
        extras = {"model": "x", "engine": {"name": "command", "options": ["cat", "{port}"]}, "place": {"on": on, **place}}  # fmt: skip
        answer = home.http.post("/v2/serverless", json={"name": "no", "nbgpu": extras})
        assert answer.status_code in (400, 404, 503), answer.text
        return str(answer.json()["detail"])

    assert "There is no place 'lab2'" in refused("lab1,lab2")
    assert "names no place" in refused(" , ")
    assert "H100" in refused("lab1,local", gpu=["H100"])
    assert home.get("/nbgpu/v1/summary")["endpoints"] == []


def test_a_host_with_workers_is_not_removed(home: HostsBackend) -> None:
    home.deploy_on("far", "lab1")
    assert home.chat("far").status_code == 200
    refused = home.http.delete("/nbgpu/v1/hosts/lab1")
    assert refused.status_code == 409 and "far" in refused.json()["detail"]


def test_offers_and_use_know_the_hosts(home: HostsBackend) -> None:
    home.http.patch("/nbgpu/v1/settings", json={"rates": {"lab1": "0.5"}}).raise_for_status()
    listed = home.cli("offers")
    assert listed.returncode == 0, listed.stderr
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert "$0.5" in lines["lab1"] and "processors" in lines["lab1"] and "local" in lines
    assert home.cli("use", "lab1").returncode == 0
    made = home.cli("deploy", "--name", "app", "--lb", "--", "sleep", "60")
    assert made.returncode == 0, made.stderr
    assert home.get("/v2/serverless/app")["nbgpu"]["place"]["on"] == "lab1"


# links that are cut


@pytest.fixture
def net() -> Iterator[Net]:
    found = Net(2)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def labs(tmp_path: Path, net: Net) -> Iterator[HostsBackend]:
    needs_sshd()
    one = Sshd(tmp_path / "one", net.address(0), enter=net.enter(0), port=2222)
    two = Sshd(tmp_path / "two", net.address(1), enter=net.enter(1), port=2222)
    with serving(one), serving(two):
        backend = HostsBackend(tmp_path / "home", {"lab1": one, "lab2": two})
        backend.start()
        try:
            yield backend
        finally:
            net.restore(0)
            backend.shutdown(everything=True)


def test_a_cut_mid_stream_ends_it_and_the_next_request_goes_elsewhere(
    labs: HostsBackend, net: Net
) -> None:
    labs.http.patch("/nbgpu/v1/settings", json={"rates": {"lab1": "36"}}).raise_for_status()
    labs.deploy_on("far", "lab1,lab2", workers={"max": 1})
    assert labs.chat("far").status_code == 200
    assert labs.states("far") == {"lab1": "idle"}
    (first,) = labs.workers("far")
    heard: list[str] = []
    begun = threading.Event()

    def read() -> None:
        body = {
            "model": "far", "messages": [{"role": "user", "content": "hi"}], "stream": True,
            "nbgpu_test": {"chunks": 2000, "delay_ms": 50},
        }  # fmt: skip
        path = "/v2/far/openai/v1/chat/completions"
        with labs.client() as client, client.stream("POST", path, json=body) as answer:
            for line in answer.iter_lines():
                heard.append(line)
                begun.set()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert begun.wait(10)
        net.cut(0)
        reading.result(timeout=40)
    said = [json.loads(line[6:]) for line in heard if line.startswith("data: {")]
    assert "error" in said[-1] and "lab1" not in heard[0]
    assert labs.chat("far").status_code == 200
    states = labs.states("far")
    assert states["lab1"] == "unreachable" and states["lab2"] in ("idle", "running")
    away = labs.worker_at("far", "lab1")
    assert away is not None and "meter goes on" in away["nbgpu"]["reason"]["text"]
    second = labs.worker_at("far", "lab2")
    assert second is not None
    spent = float(away["nbgpu"]["costSoFar"])
    facts = " ".join(labs.get("/nbgpu/v1/why/far")["facts"])
    assert "not on lab1" in facts and "unreachable" in facts
    net.restore(0)
    # another one has its place: the first ends, once that can be said, and its bill with it
    until(lambda: list(labs.states("far")) == ["lab2"], within=90)
    until(lambda: labs.instances("lab1") == [], within=20)
    ended = labs.get(f"/nbgpu/v1/why/{first['id']}")
    assert "another took its place" in ended["reason"]["text"]
    assert float(ended["costSoFar"]) > spent
    assert labs.chat("far").status_code == 200
    assert [w["id"] for w in labs.workers("far")] == [second["id"]]


def test_where_there_is_no_other_place_a_request_waits_with_its_reason(
    labs: HostsBackend, net: Net
) -> None:
    labs.deploy_on("far", "lab1")
    assert labs.chat("far").status_code == 200
    (worker,) = labs.workers("far")
    net.cut(0)
    with ThreadPoolExecutor(1) as pool:
        until(lambda: labs.states("far") == {"lab1": "unreachable"}, within=40)
        waiting = pool.submit(labs.chat, "far")
        until(lambda: "lab1" in labs.get("/nbgpu/v1/why/far")["reason"]["text"], within=20)
        labs.kill()  # the next backend finds a worker that it cannot ask
        with pytest.raises(httpx.TransportError):
            waiting.result(timeout=30)
    labs.start()
    until(lambda: labs.states("far") == {"lab1": "unreachable"}, within=20)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(labs.chat, "far")
        until(lambda: labs.row("far")["queued"] == 1)
        net.restore(0)
        assert waiting.result(timeout=60).status_code == 200
    assert [w["id"] for w in labs.workers("far")] == [worker["id"]]


def test_what_is_stopped_while_its_host_is_away_ends_there_later(
    labs: HostsBackend, net: Net
) -> None:
    labs.deploy_on("far", "lab1")
    assert labs.chat("far").status_code == 200
    net.cut(0)
    until(lambda: labs.states("far") == {"lab1": "unreachable"}, within=40)
    labs.http.post("/v2/serverless/far/action", json={"action": "stop"})
    early = labs.http.delete("/v2/serverless/far", timeout=30)
    assert early.status_code == 503 and "lab1 is not heard" in early.json()["detail"]
    net.restore(0)
    until(lambda: labs.workers("far") == [] and labs.instances("lab1") == [], within=40)
    labs.http.delete("/v2/serverless/far").raise_for_status()


# real engines


@pytest.mark.vllm
def test_a_real_model_is_served_from_there(tmp_path: Path, server: Sshd, tiny_llama: Path) -> None:
    engines_there(server)
    home = HostsBackend(tmp_path / "home", {"lab1": server})
    home.start()
    try:
        home.deploy_on("tiny", "lab1", nbgpu={"engine": {"name": "vllm"}, "model": str(tiny_llama)})
        answer = home.chat("tiny", max_tokens=8)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] >= 1
        (worker,) = home.workers("tiny")
        assert worker["nbgpu"]["place"] == "lab1"
        assert worker["nbgpu"]["memoryBytes"] is None or worker["nbgpu"]["memoryBytes"] > 1e8
        assert {p["name"] for p in worker["nbgpu"]["phases"]} >= {"import", "weights"}
        copied = [p.name for p in (server.nbgpu / "models").iterdir()]
        home.http.delete("/v2/serverless/tiny").raise_for_status()
        assert home.instances("lab1") == []
        home.deploy_on(
            "again", "lab1", nbgpu={"engine": {"name": "vllm"}, "model": str(tiny_llama)}
        )
        until(lambda: home.row("again")["state"] == "asleep", within=20)
        assert [p.name for p in (server.nbgpu / "models").iterdir()] == copied  # once per host
    finally:
        home.shutdown(everything=True)


def test_a_handlers_job_is_done_once_while_its_host_is_away(
    home: HostsBackend, server: Sshd, tmp_path: Path
) -> None:
    handler = tmp_path / "job" / "handler.py"
    handler.parent.mkdir()
    handler.write_text(
        "import time, runpod\n"
        "def handler(job):\n"
        "    open('runs', 'a').write('x')\n"
        "    time.sleep(job['input']['s'])\n"
        "    return job['input']['s']\n"
        "runpod.serverless.start({'handler': handler})\n"
    )
    extras = {"engine": {"name": "handler"}, "model": str(handler)}
    home.deploy_on("work", "lab1", nbgpu=extras)
    until(lambda: home.row("work")["state"] != "fetching", within=200)
    first = home.http.post("/v2/work/runsync", json={"input": {"s": 0}}, timeout=60).json()
    assert first.get("output") == 0, (first, home.get("/nbgpu/v1/why/work"))
    job = home.http.post("/v2/work/run", json={"input": {"s": 6}}).json()["id"]
    until(lambda: home.get(f"/v2/work/status/{job}")["status"] == "IN_PROGRESS")
    server.hang_up()
    until(lambda: home.states("work") == {"lab1": "unreachable"}, within=60)
    home.kill()
    home.start()
    assert home.get(f"/v2/work/status/{job}")["status"] == "IN_PROGRESS"
    server.start()
    until(lambda: home.get(f"/v2/work/status/{job}")["status"] == "COMPLETED", within=60)
    (runs,) = (server.nbgpu / "apps").glob("*/runs")
    assert runs.read_text() == "xx"
