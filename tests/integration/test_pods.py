"""Pods of a real backend, with real kernels: opened, used, limited, stopped, adopted, deleted."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.support.pods import (
    AS_USER,
    PodBackend,
    SpawnedBackend,
    path_without,
    processes_with,
    sandboxed,
    status_of,
    text_of,
)
from tests.support.ssh_pods import add_host, share_engines
from tests.support.sshd import Sshd, serving
from tests.support.waiting import until

needs_sandbox = pytest.mark.skipif(not sandboxed(), reason="bubblewrap does not work here")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[PodBackend]:
    backend = PodBackend(tmp_path / "home")
    backend.start()
    yield backend
    backend.shutdown(everything=True)


@pytest.fixture(params=["local", "lab1"])
def anywhere(
    request: pytest.FixtureRequest, tmp_path: Path, pod_engines: Path
) -> Iterator[PodBackend]:
    """A backend whose pods are on this machine, and one whose pods are on a host over SSH."""
    if request.param == "local":
        yield request.getfixturevalue("home")
        return
    backend = PodBackend(tmp_path / "home")
    backend.place = request.param
    with serving(Sshd(tmp_path / "server")) as server:
        share_engines(server, pod_engines)
        add_host(backend, server, request.param)
        backend.start()
        yield backend
        backend.shutdown(everything=True)


def counted(text: str) -> list[int]:
    return [int(line) for line in text.split()]


def test_a_pod_is_opened_used_stopped_started_and_deleted(home: PodBackend) -> None:
    pod = home.open_pod()
    assert (pod["status"], pod["nbgpu"]["state"]) == ("RUNNING", "idle")
    assert pod["nbgpu"]["kernelspec"] == "nbgpu-train"
    assert home.printed("x = 6 * 7; print(x)") == "42\n"
    assert home.printed("print(x + 1)") == "43\n"  # its state stays
    home.run("open('kept.txt', 'w').write('here')")

    stopped = home.stop_pod()
    assert (stopped["status"], stopped["nbgpu"]["reason"]["text"]) == ("EXITED", "stopped by you")
    assert not (home.home.kernels / "nbgpu-train").exists()
    refused = home.http.post("/nbgpu/v1/pods/train/runs", json={"code": "1"})
    assert refused.status_code == 503 and "nbgpu start train" in refused.json()["detail"]

    home.http.post("/v2/pods/train/action", json={"action": "start"}).raise_for_status()
    home.pod_ready()
    assert home.printed("print(open('kept.txt').read())") == "here\n"

    folders = [home.home.root / "pods", home.home.root / "volumes"]
    assert all(any(folder.iterdir()) for folder in folders)
    home.delete_pod()
    assert home.http.get("/v2/pods/train").status_code == 404
    assert not any(any(folder.iterdir()) for folder in [*folders, home.home.instances])
    assert not any(home.home.kernels.iterdir())
    kinds = [e["kind"] for e in home.get("/nbgpu/v1/history")["events"]]
    assert kinds.index("pod.deleted") < kinds.index("pod.ready") < kinds.index("pod.created")


def test_nothing_that_a_cell_started_outlives_its_pod(anywhere: PodBackend) -> None:
    anywhere.open_pod()
    cell = "import subprocess; subprocess.Popen('setsid sh -c \"sleep 98765 &\"', shell=True)"
    anywhere.run(cell)
    until(lambda: processes_with("98765"))
    anywhere.delete_pod()
    assert processes_with("98765") == []


def test_errors_results_and_input_come_as_jupyter_has_them(anywhere: PodBackend) -> None:
    anywhere.open_pod()
    items = anywhere.run("print('before'); 1/0")
    kinds = [i["type"] for i in items]
    assert status_of(items) == "error" and "error" in kinds
    error = next(i for i in items if i["type"] == "error")
    assert error["content"]["ename"] == "ZeroDivisionError" and error["content"]["traceback"]
    result = next(i for i in anywhere.run("{'a': 1}") if i["type"] == "execute_result")
    assert result["content"]["data"]["text/plain"] == "{'a': 1}"

    run = anywhere.start_run("print('hello', input('who? '))")
    heard = []
    for item in anywhere.output(run=run["id"]):
        heard.append(item)
        if item["type"] == "input_request":
            assert item["content"]["prompt"] == "who? "
            given = {"run": run["id"], "value": "Ada"}
            assert anywhere.http.post("/nbgpu/v1/pods/train/input", json=given).status_code == 204
    assert "hello Ada" in text_of(heard)


def test_a_long_cell_is_interrupted_and_the_kernel_restarted_with_its_sockets(
    anywhere: PodBackend,
) -> None:
    anywhere.open_pod()
    before = anywhere.get("/nbgpu/v1/pods/train/kernel")
    run = anywhere.start_run("import time\nprint('up')\ntime.sleep(1000)")
    for item in anywhere.output(run=run["id"]):
        if item["type"] == "stream":
            anywhere.http.post("/nbgpu/v1/pods/train/kernel", json={"action": "interrupt"})
        last = item
    assert last["type"] == "run_ended" and last["content"]["status"] in ("error", "interrupted")
    after = anywhere.http.post("/nbgpu/v1/pods/train/kernel", json={"action": "restart"}).json()
    assert after["generation"] == before["generation"] + 1
    assert after["connection"] is not None
    assert anywhere.printed("print('last' in dir())") == "False\n"


def test_output_goes_on_where_it_broke_off_though_the_backend_was_killed(
    anywhere: PodBackend,
) -> None:
    anywhere.open_pod()
    code = "import time\nfor n in range(1, 101):\n    print(n, flush=True)\n    time.sleep(0.03)"
    run = anywhere.start_run(code)
    items: list[dict[str, Any]] = []
    for _ in range(3):
        for item in anywhere.output(run=run["id"], since=items[-1]["n"] if items else 0):
            items.append(item)
            if len(items) % 7 == 0:
                break
    anywhere.kill()
    anywhere.start()
    anywhere.pod_ready()
    items += anywhere.output(run=run["id"], since=items[-1]["n"])
    assert counted(text_of(items)) == list(range(1, 101))
    assert [i["n"] for i in items] == sorted({i["n"] for i in items})
    assert status_of(items) == "ok"


def test_a_backend_adopts_a_busy_pod_with_its_bill(anywhere: PodBackend) -> None:
    anywhere.http.patch(
        "/nbgpu/v1/settings", json={"rates": {anywhere.place: "3600"}}
    ).raise_for_status()
    anywhere.open_pod()
    pid = anywhere.printed("import os; print(os.getpid())")
    limit = anywhere.pod()["nbgpu"]["use"]["memoryLimit"]
    anywhere.run("kept = 'still here'")
    anywhere.kill()
    anywhere.start()
    anywhere.pod_ready()
    assert anywhere.printed("print(kept)") == "still here\n"
    assert anywhere.printed("import os; print(os.getpid())") == pid
    assert anywhere.pod()["nbgpu"]["use"]["memoryLimit"] == limit
    pod = anywhere.pod()
    seconds = (time.time() * 1e6 - pod["nbgpu"]["startedUs"]) / 1e6
    assert float(pod["nbgpu"]["costSoFar"]) >= seconds - 2  # a dollar a second, from its start on


def test_a_lease_ends_an_idle_pod_without_a_backend_and_spares_a_busy_one(home: PodBackend) -> None:
    home.open_pod("idle", wait=False)
    home.open_pod("busy")
    home.pod_ready("idle")
    home.http.patch("/nbgpu/v1/settings", json={"leasePodS": 2}).raise_for_status()
    run = home.start_run(
        "import time\nfor n in range(60):\n    print(n)\n    time.sleep(0.1)", "busy"
    )
    until(lambda: home.state("busy") == "busy")
    until(
        lambda: len(list(home.output("busy", follow=False))) > 3
    )  # the lease is renewed meanwhile
    ids = {name: home.pod(name)["id"] for name in ("idle", "busy")}
    home.kill()
    agents = home.home.root / "pods"
    until(lambda: not processes_with(str(agents / ids["idle"])), within=15)
    assert processes_with(str(agents / ids["busy"]))
    home.start()
    home.pod_ready("busy")
    assert counted(text_of(list(home.output("busy", run=run["id"])))) == list(range(60))
    gone = home.pod("idle")
    assert gone["status"] == "EXITED" and gone["nbgpu"]["reason"]["code"] == "lease"


def test_an_idle_pod_is_told_of_its_stop_stopped_and_can_be_extended(anywhere: PodBackend) -> None:
    anywhere.open_pod(limits={"idleStopS": 10})
    warned = until(lambda: _event(anywhere, "pod.idle_warning"), within=20)
    assert re.fullmatch(r"train stops in \d+ s: nobody uses it", warned["text"])
    anywhere.http.post("/nbgpu/v1/pods/train/extend", json={"seconds": 12}).raise_for_status()
    at = anywhere.pod()["nbgpu"]["stopsAtUs"]
    assert 8 < at / 1e6 - time.time() < 13
    until(lambda: anywhere.state() == "stopped", within=25)
    assert time.time() >= at / 1e6
    assert anywhere.pod()["nbgpu"]["reason"]["text"] == "nobody used it for 10 s"


def test_a_busy_kernel_is_use(home: PodBackend) -> None:
    home.open_pod(limits={"idleStopS": 10})
    home.start_run("import time; time.sleep(14)")
    time.sleep(12.5)  # past what would have stopped an idle one
    assert home.state() == "busy"


def test_money_ends_it(anywhere: PodBackend) -> None:
    anywhere.http.patch(
        "/nbgpu/v1/settings", json={"rates": {anywhere.place: "3600"}}
    ).raise_for_status()
    anywhere.open_pod(limits={"maxCost": "6"})
    until(lambda: anywhere.state() == "stopped", within=30)
    reason = anywhere.pod()["nbgpu"]["reason"]
    assert (reason["code"], reason["text"]) == ("max_cost", "it has cost $6")


def test_one_that_eats_memory_ends_with_the_reason_and_its_neighbour_lives(
    anywhere: PodBackend,
) -> None:
    anywhere.open_pod("neighbour", wait=False)
    anywhere.open_pod("eater", limits={"memoryBytes": 400_000_000})
    anywhere.pod_ready("neighbour")
    anywhere.start_run("held = bytearray(900 << 20)", "eater")
    until(lambda: anywhere.state("eater") == "failed", within=20)
    assert "GB are allowed" in anywhere.pod("eater")["nbgpu"]["reason"]["text"]
    assert anywhere.printed("print('alive')", "neighbour") == "alive\n"


def test_a_fork_bomb_in_a_pod_is_bounded(anywhere: PodBackend) -> None:
    anywhere.open_pod(limits={"processes": 64})
    anywhere.start_run("import subprocess, time\nwhile True: subprocess.Popen(['sleep', '98764'])")
    until(lambda: anywhere.state() == "failed", within=30)
    assert "64 are allowed" in anywhere.pod()["nbgpu"]["reason"]["text"]
    assert processes_with("98764") == []


def test_before_stop_is_run_and_its_word_is_kept(home: PodBackend) -> None:
    home.open_pod(beforeStop="echo saved > saved.txt")
    workspace = Path(home.pod()["nbgpu"]["workspace"])
    home.stop_pod()
    assert (workspace / "saved.txt").read_text() == "saved\n"


@needs_sandbox
def test_in_a_sandbox_the_rest_of_the_machine_is_not_there(
    home: PodBackend, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    pod = home.open_pod(env={"GREETING": "hello"})
    assert pod["nbgpu"]["isolation"] == "bubblewrap"
    code = f"""
import os
print(os.path.exists({str(tmp_path / "secret.txt")!r}), os.getcwd(), os.environ['HOME'],
      os.environ['GREETING'], len([p for p in os.listdir('/proc') if p.isdigit()]) < 12,
      'NBGPU_AGENT' in os.environ)
"""
    assert home.printed(code) == "False /workspace /home/pod hello True False\n"


@needs_sandbox
def test_a_pod_without_a_network_reaches_nobody(home: PodBackend) -> None:
    home.open_pod(network="none")
    port = home.backend.url.rpartition(":")[2]
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
    assert status_of(home.run(code)) == "error"
    assert home.printed("print('and its kernel works')") == "and its kernel works\n"


def test_secrets_reach_the_pod_and_nothing_else(home: PodBackend) -> None:
    missing = home.http.post("/v2/pods", json={"name": "t", "nbgpu": {"secrets": ["HF_TOKEN"]}})
    assert missing.status_code == 404 and "nbgpu secret add HF_TOKEN" in missing.json()["detail"]
    home.http.put("/nbgpu/v1/secrets/HF_TOKEN", json={"value": "hush-98763"}).raise_for_status()
    assert "hush" not in home.http.get("/nbgpu/v1/secrets").text
    assert home.home.secrets.stat().st_mode & 0o777 == 0o600
    home.open_pod(secrets=["HF_TOKEN"])
    assert home.printed("import os; print(os.environ['HF_TOKEN'])") == "hush-98763\n"
    assert processes_with("hush-98763") == []
    assert "hush" not in str(home.pod())
    for path in home.home.root.rglob("*"):
        if path.is_file() and path != home.home.secrets and "spool" not in path.parts:
            assert b"hush-98763" not in path.read_bytes(), path


def test_opening_again_attaches_changes_or_says_what_would_be_lost(anywhere: PodBackend) -> None:
    asked: dict[str, Any] = {"name": "train", "nbgpu": {"converge": True}}
    anywhere.http.post("/v2/pods", json=asked).raise_for_status()
    anywhere.pod_ready()
    anywhere.run("kept = 1")
    again = anywhere.http.post("/v2/pods", json=asked)
    assert (again.status_code, again.json()["nbgpu"]["outcome"]) == (200, "attached")
    asked["nbgpu"]["limits"] = {"idleStopS": 600}
    changed = anywhere.http.post("/v2/pods", json=asked).json()["nbgpu"]
    assert changed["outcome"] == "changed"
    assert changed["changes"] == [{"field": "limits.idleStopS", "old": 1800, "new": 600}]
    asked["env"] = {"A": "1"}
    lost = anywhere.http.post("/v2/pods", json=asked)
    assert lost.status_code == 409 and "nbgpu stop train" in lost.json()["detail"]
    assert anywhere.printed("print(kept)") == "1\n"
    anywhere.stop_pod()
    anywhere.http.post("/v2/pods", json=asked).raise_for_status()
    anywhere.pod_ready()
    assert anywhere.printed("import os; print(os.environ['A'])") == "1\n"


def test_names_are_shared_with_endpoints_and_bad_wishes_are_refused(home: PodBackend) -> None:
    home.deploy("chat")
    for body, status, words in (
        ({"name": "chat"}, 409, "is an endpoint"),
        ({"name": "Bad Name"}, 400, "is no name"),
        ({"name": "t", "gpu": {"ids": ["H100"]}}, 503, "No GPU"),
        ({"name": "t", "env": {"MY_TOKEN": "x"}}, 400, "nbgpu secret add MY_TOKEN"),
        ({"name": "t", "nbgpu": {"limits": {"untilUs": 1}}}, 400, "is past"),
        ({"name": "t", "nbgpu": {"requirements": ["-e ."]}}, 400, "cannot be made"),
        ({"name": "t", "nbgpu": {"place": {"on": "lab1"}}}, 404, "no place"),
        ({"name": "t", "colour": "red"}, 400, "colour"),
    ):
        answer = home.http.post("/v2/pods", json=body)
        assert answer.status_code == status and words in answer.text, (body, answer.text)
    home.open_pod("train", wait=False)
    taken = home.http.post("/v2/serverless", json={"name": "train", "nbgpu": {"model": "x/y"}})
    assert taken.status_code in (404, 409)


def test_a_requirement_that_does_not_exist_is_named(anywhere: PodBackend) -> None:
    anywhere.open_pod(requirements=["nbgpu-no-such-package==9.9"], wait=False)
    until(lambda: anywhere.state() == "failed", within=60)
    reason = anywhere.pod()["nbgpu"]["reason"]
    assert reason["code"] == "environment" and "nbgpu-no-such-package" in reason["text"]


def test_a_network_volume_outlives_its_pods_and_is_shared(home: PodBackend) -> None:
    home.open_pod("one", volume="data")
    home.run("open('/tmp/x', 'w'); open('shared.txt', 'w').write('both')", "one")
    used = home.http.delete("/v2/network-volumes/data")
    assert used.status_code == 409 and "one" in used.json()["detail"]
    home.delete_pod("one")
    home.open_pod("two", volume="data")
    assert home.printed("print(open('shared.txt').read())", "two") == "both\n"
    home.delete_pod("two")
    (volume,) = home.get("/v2/network-volumes")["networkVolumes"]
    assert volume["nbgpu"]["pods"] == [] and volume["nbgpu"]["bytesUsed"] > 0
    assert home.http.delete("/v2/network-volumes/data").status_code == 204


def test_a_volume_of_its_own_can_be_kept(home: PodBackend) -> None:
    home.open_pod()
    home.run("open('kept.txt', 'w').write('x')")
    home.delete_pod(keep_volume=True)
    (volume,) = home.get("/v2/network-volumes")["networkVolumes"]
    assert (Path(volume["nbgpu"]["path"]) / "kept.txt").exists()


def test_files_go_in_and_out_and_a_broken_transfer_goes_on(anywhere: PodBackend) -> None:
    import hashlib

    anywhere.open_pod()
    data = bytes(range(256)) * 8192  # 2 MiB
    digest, half = hashlib.sha256(data).hexdigest(), len(data) // 2
    whole = {"path": "in/data.bin", "size": len(data)}
    short = anywhere.http.put("/nbgpu/v1/pods/train/file", params=whole, content=data[:half])
    assert short.status_code >= 400

    def part() -> bool:
        stat = anywhere.http.get("/nbgpu/v1/pods/train/stat", params={"path": "in/data.bin"}).json()
        return not stat["exists"] and stat["part"] == half

    until(part)  # it writes what it has got
    rest = {**whole, "offset": half, "sha256": digest}
    put = anywhere.http.put("/nbgpu/v1/pods/train/file", params=rest, content=data[half:])
    assert put.status_code == 200, put.text
    stat = anywhere.http.get(
        "/nbgpu/v1/pods/train/stat", params={"path": "in/data.bin", "hash": True}
    ).json()
    assert (stat["sha256"], stat["part"]) == (digest, 0)
    got = anywhere.http.get(
        "/nbgpu/v1/pods/train/file", params={"path": "in/data.bin", "offset": 5}
    )
    assert got.content == data[5:]
    listed = anywhere.http.get(
        "/nbgpu/v1/pods/train/files", params={"path": ".", "recursive": True}
    )
    assert "in/data.bin" in [f["path"] for f in listed.json()["files"]]
    lost = anywhere.http.get("/nbgpu/v1/pods/train/file", params={"path": "nothing"})
    assert lost.status_code == 404


def test_a_port_in_the_pod_is_reached_from_here(anywhere: PodBackend) -> None:
    import urllib.request

    anywhere.open_pod(network="none" if sandboxed() else "host")
    code = (
        "import http.server, threading\n"
        "server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "open('hello.txt', 'w').write('from inside')\n"
        "print(server.server_address[1])"
    )
    port = int(anywhere.printed(code))
    found = anywhere.http.post("/nbgpu/v1/pods/train/ports", json={"port": port}).json()
    with urllib.request.urlopen(found["url"] + "hello.txt", timeout=10) as answer:
        assert answer.read() == b"from inside"
    anywhere.stop_pod()
    with pytest.raises(OSError):
        urllib.request.urlopen(found["url"], timeout=5)


def test_a_pods_own_token_looks_uses_and_ends_only_itself(home: PodBackend) -> None:
    home.deploy("chat")
    home.open_pod()
    home.open_pod("other", wait=False)
    code = """
import json, os, urllib.request, urllib.error
def ask(method, path, body=None):
    request = urllib.request.Request(os.environ['NBGPU_URL'] + path, method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={'Authorization': 'Bearer ' + os.environ['NBGPU_TOKEN'], 'Content-Type': 'application/json'})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
me = os.environ['RUNPOD_POD_ID']
print(ask('GET', '/nbgpu/v1/summary'), ask('POST', '/v2/chat/openai/v1/chat/completions',
      {'model': 'chat', 'messages': [{'role': 'user', 'content': 'hi'}]}),
      ask('POST', '/nbgpu/v1/shutdown', {}), ask('DELETE', '/v2/pods/other'),
      ask('GET', '/nbgpu/v1/pods/other/kernel'), ask('PUT', '/nbgpu/v1/secrets/X', {'value': 'y'}),
      ask('POST', f'/nbgpu/v1/pods/{me}/extend', {'seconds': 60}))
"""
    assert home.printed(code) == "200 200 403 403 403 403 200\n"


def test_everything_is_stopped_at_once(home: PodBackend) -> None:
    home.deploy("chat")
    home.open_pod()
    stopped = home.http.post("/nbgpu/v1/stop-all").json()["stopped"]
    assert sorted(stopped) == ["chat", "train"]
    assert home.state() == "stopped" and home.row("chat")["state"] == "stopped"


def test_why_logs_and_history_know_pods(anywhere: PodBackend) -> None:
    anywhere.open_pod(limits={"idleStopS": 600}, beforeStop="echo saved at last")
    why = anywhere.get("/nbgpu/v1/why/train")
    assert why["subject"] == "pod" and any("it stops in" in fact for fact in why["facts"])
    with (
        ThreadPoolExecutor(1) as pool,
        anywhere.client() as http,
        http.stream("GET", "/v2/pods/train/logs?tail=5000") as log,
    ):
        shown = pool.submit(anywhere.cli, "logs", "train", "--follow")
        anywhere.http.post("/v2/pods/train/action", json={"action": "stop"}).raise_for_status()
        told = [line for line in log.iter_lines() if line]  # it ends with the pod
        assert shown.result().stdout.splitlines()[-1:] == ["saved at last"]
    assert 'data: {"line": "saved at last"}' in told
    anywhere.http.post("/v2/pods/train/action", json={"action": "start"}).raise_for_status()
    anywhere.pod_ready()
    kinds = [e["kind"] for e in anywhere.get("/nbgpu/v1/history?endpoint=train")["events"]]
    assert "pod.ready" in kinds
    summary = anywhere.get("/nbgpu/v1/summary")
    assert [p["name"] for p in summary["pods"]] == ["train"]


def test_without_bubblewrap_a_pod_works_and_says_what_separates_it(tmp_path: Path) -> None:
    backend = SpawnedBackend(tmp_path / "home")
    backend.environment["PATH"] = path_without(tmp_path / "bin", "bwrap")
    backend.start()
    try:
        pod = backend.open_pod()
        assert pod["nbgpu"]["isolation"] == "process"
        assert "bubblewrap is not installed" in pod["nbgpu"]["isolationText"]
        workspace = pod["nbgpu"]["workspace"]
        assert backend.printed("import os; print(os.getcwd())") == workspace + "\n"
        cell = "import subprocess; subprocess.Popen('setsid sh -c \"sleep 98762 &\"', shell=True)"
        backend.run(cell)
        until(lambda: processes_with("98762"))
        backend.run("%pip install --quiet humanize")
        assert backend.printed("import humanize; print(humanize.intword(10**6))") == "1.0 million\n"
        backend.delete_pod()
        assert processes_with("98762") == []
    finally:
        backend.shutdown(everything=True)


def test_an_ordinary_user_has_pods_too(tmp_path: Path) -> None:
    if subprocess.run([*AS_USER, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives nobody a user namespace")
    backend = SpawnedBackend(tmp_path / "home", *AS_USER)
    backend.start()
    try:
        pod = backend.open_pod()
        assert pod["nbgpu"]["isolation"] == ("bubblewrap" if sandboxed() else "process")
        assert backend.printed("import os; print(os.geteuid())") == "1000\n"
        backend.delete_pod()
    finally:
        backend.shutdown(everything=True)


SMI = """#!/bin/sh
echo '0, GPU-aaa, NVIDIA H100 80GB HBM3, 81559'
echo '1, GPU-bbb, NVIDIA L4, 23034'
"""


def test_gpus_are_given_in_the_order_of_the_wish_and_to_one_pod_each(tmp_path: Path) -> None:
    """The driver's listing is a stand-in; whether a pod can use what it gets needs a GPU."""
    backend = SpawnedBackend(tmp_path / "home")
    (tmp_path / "smi").mkdir()
    (tmp_path / "smi" / "nvidia-smi").write_text(SMI)
    (tmp_path / "smi" / "nvidia-smi").chmod(0o755)
    backend.environment["PATH"] = f"{tmp_path / 'smi'}:{backend.environment['PATH']}"
    backend.start()
    try:
        gpu = {"ids": ["H100", "L4"]}
        first, second = backend.open_pod("one", gpu=gpu), backend.open_pod("two", gpu=gpu)
        assert (first["gpu"]["id"], second["gpu"]["id"]) == ("H100", "L4")
        assert "0 of 1 are free" in second["nbgpu"]["skipped"][0]["text"]
        code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
        assert backend.printed(code, "two") == "GPU-bbb\n"
        backend.open_pod("three", gpu=gpu, wait=False)
        until(lambda: backend.pod("three")["nbgpu"]["reason"]["code"] == "no_capacity")
        backend.kill()
        backend.start()  # who has what is known to the next one
        backend.pod_ready("one")
        assert backend.pod("three")["nbgpu"]["reason"]["code"] in ("no_capacity", "preparing")
        backend.delete_pod("one")
        assert backend.pod_ready("three")["gpu"]["id"] == "H100"
    finally:
        backend.shutdown(everything=True)


def test_its_time_ends_a_busy_pod_without_a_backend(home: PodBackend) -> None:
    end = time.time() + 12
    home.open_pod(limits={"untilUs": int(end * 1e6), "graceS": 1})
    home.start_run("import time; time.sleep(1000)")
    until(lambda: home.state() == "busy")
    folder = str(home.home.root / "pods" / home.pod()["id"])
    home.kill()
    until(lambda: not processes_with(folder), within=30)
    assert time.time() > end
    home.start()
    pod = home.pod()
    assert (pod["status"], pod["nbgpu"]["reason"]["text"]) == ("EXITED", "its time is over")


def test_a_full_disk_is_told_and_hurts_nothing_else(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "nbgpu-test", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        backend = PodBackend(small / "home")
        backend.start()
        backend.open_pod()
        filled = backend.run("open('big', 'wb').write(bytes(60 << 20))")
        assert status_of(filled) == "error"
        assert any("No space left" in i["content"].get("evalue", "") for i in filled)
        backend.run("import os; os.remove('big')")
        assert backend.printed("print('well')") == "well\n"
        backend.shutdown(everything=True)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_home_with_a_long_path_has_kernels(tmp_path: Path) -> None:
    backend = PodBackend(tmp_path / ("long" * 20) / ("er" * 40))
    backend.home.root.mkdir(parents=True)
    backend.start()
    try:
        backend.open_pod("a" * 60)
        assert backend.printed("print('reached')", "a" * 60) == "reached\n"
    finally:
        backend.shutdown(everything=True)


def test_a_notebooks_kernel_in_a_pod_completes_and_opens_widgets(home: PodBackend) -> None:
    home.open_pod(requirements=["ipywidgets>=8.1,<9"])
    specs = KernelSpecManager()
    specs.kernel_dirs = [str(home.home.kernels)]
    manager = KernelManager(kernel_name="nbgpu-train", kernel_spec_manager=specs)
    manager.start_kernel()
    client = manager.blocking_client()
    heard: list[dict[str, Any]] = []
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        code = "import ipywidgets; only_here = ipywidgets.IntSlider(value=7); only_here"
        client.execute_interactive(code, timeout=60, output_hook=heard.append)
        reply = client.complete("only_h", reply=True, timeout=30)
        assert reply["content"]["matches"] == ["only_here"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    opened = [m["content"] for m in heard if m["msg_type"] == "comm_open"]
    assert {o["target_name"] for o in opened} == {"jupyter.widget"}
    assert any(o["data"]["state"].get("value") == 7 for o in opened)
    views = [m["content"]["data"] for m in heard if m["msg_type"] == "execute_result"]
    assert "application/vnd.jupyter.widget-view+json" in views[0]


def _event(home: PodBackend, kind: str) -> dict[str, Any] | None:
    events = home.get("/nbgpu/v1/history?endpoint=train")["events"]
    return next((e for e in events if e["kind"] == kind), None)
