"""The panel's server extension in a real Jupyter server, under a prefix as JupyterHub gives it."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from tests.support.jupyter import TOKEN, JupyterProcess
from tests.support.waiting import until

CHAT = "nbgpu/api/v2/{}/openai/v1/chat/completions"


def question(name: str, **upstream: Any) -> dict[str, Any]:
    """A streamed one; `upstream`: how the tiny upstream answers it."""
    messages = [{"role": "user", "content": "x"}]
    return {"model": name, "messages": messages, "stream": True, "nbgpu_test": upstream}


def test_nothing_is_started_until_a_request_wants_the_backend(jupyter: JupyterProcess) -> None:
    assert not jupyter.home.backend_json.exists()
    never = {"X-Nbgpu-Start": "never"}
    answer = jupyter.http.get("nbgpu/api/nbgpu/v1/changes", headers=never)
    assert (answer.status_code, answer.content) == (204, b"")
    assert not jupyter.home.backend_json.exists()
    assert jupyter.api("nbgpu/v1/summary")["endpoints"] == []
    assert jupyter.http.get("nbgpu/api/nbgpu/v1/changes", headers=never).json()["gap"] is True
    assert jupyter.home.backend_json.exists()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_who_is_not_logged_in_gets_nothing(jupyter: JupyterProcess, method: str) -> None:
    with jupyter.client() as stranger, jupyter.client({"Authorization": "token wrong"}) as guesser:
        for path in ("nbgpu/v1/summary", "nbgpu/v1/events", "v2/serverless", "nowhere"):
            for client in (stranger, guesser):
                answer = client.request(method, "nbgpu/api/" + path)
                assert answer.status_code == 403
                assert "nbgpu" not in answer.text


async def test_who_is_not_logged_in_hears_nothing(jupyter: JupyterProcess) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with jupyter.bus(token="wrong"):
            pass
    assert refused.value.status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_page_without_the_xsrf_token_changes_nothing(
    jupyter: JupyterProcess, method: str
) -> None:
    with jupyter.client() as browser:
        browser.get("lab", params={"token": TOKEN}, follow_redirects=True)  # a cookie, no header
        assert browser.get("nbgpu/api/nbgpu/v1/summary").status_code == 200
        path = "nbgpu/api/v2/serverless/nothing"
        assert browser.request(method, path, json={}).status_code == 403
        xsrf = {"X-XSRFToken": browser.cookies.get("_xsrf", "")}
        answer = browser.request(method, path, json={}, headers=xsrf)
        assert answer.status_code in (404, 405)  # of the backend
        assert answer.headers["content-type"] == "application/problem+json"


def test_routes_lie_under_the_prefix_alone(jupyter: JupyterProcess) -> None:
    assert jupyter.url.endswith("/user/ada%40example/")
    with jupyter.client({"Authorization": f"token {TOKEN}"}) as client:
        for root in ("/", "/user/eve/", "/user/ada/"):
            answer = client.get(httpx.URL(jupyter.url).join(root + "nbgpu/api/nbgpu/v1/summary"))
            assert answer.status_code == 404


@pytest.mark.parametrize(
    "path", ["nbgpu/v1/shutdown", "metrics", "v2/../nbgpu/v1/shutdown", "v2/%2e%2e/nbgpu/v1/shutdown",
             "v2//x", "v2/%2F/x", "nbgpu/v1/./shutdown", "nbgpu/v1/shutdown/", "nbgpu/v1/%73hutdown", "", "v2",
             "openapi.json", "docs", "lb/x", "http://127.0.0.1/v2/"]
)  # fmt: skip
def test_only_what_a_panel_needs_is_passed_on(jupyter: JupyterProcess, path: str) -> None:
    answer = jupyter.http.post("nbgpu/api/" + path, json={"all": True})
    assert answer.status_code in (404, 405)
    assert jupyter.api("nbgpu/v1/health")["status"] == "ok"


def test_a_stream_passes_chunk_by_chunk_and_the_backends_token_never_does(
    jupyter: JupyterProcess,
) -> None:
    jupyter.deploy("flow").raise_for_status()
    body = question("flow", chunks=5, delay_ms=150)
    heard: list[float] = []
    text = ""
    with jupyter.http.stream("POST", CHAT.format("flow"), json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for chunk in answer.iter_text():
            heard.append(time.monotonic())
            text += chunk
        seen = text + str(answer.headers)
    assert text.rstrip().endswith("[DONE]") and heard[-1] - heard[0] > 0.4
    token = jupyter.backend.backend.token
    assert token not in seen
    assert token not in json.dumps(jupyter.api("v2/serverless"))


def test_a_browser_that_goes_away_ends_the_request(jupyter: JupyterProcess) -> None:
    jupyter.deploy("away").raise_for_status()
    body = question("away", chunks=1000, delay_ms=20)
    with jupyter.http.stream("POST", CHAT.format("away"), json=body) as answer:
        pieces = answer.iter_text()  # dropped, it would end the answer
        assert next(pieces)
        assert jupyter.backend.row("away")["held"] == 1
    until(lambda: jupyter.backend.row("away")["held"] == 0)


async def test_changes_come_over_jupyters_event_bus_and_not_more_than_twenty_a_second(
    jupyter: JupyterProcess,
) -> None:
    jupyter.deploy("bus").raise_for_status()
    before = jupyter.api("nbgpu/v1/changes")["seq"]

    def stir(_: int) -> None:
        for action in ("stop", "start"):
            jupyter.http.post("nbgpu/api/v2/serverless/bus/action", json={"action": action})

    heard: list[tuple[float, dict[str, Any]]] = []
    async with jupyter.bus() as bus:
        work = asyncio.gather(*(asyncio.to_thread(stir, n) for n in range(60)))
        while True:
            message = json.loads((await bus.receive(10)).data)
            heard.append((time.monotonic(), message))
            if work.done() and message["seq"] == jupyter.api("nbgpu/v1/changes")["seq"]:
                break
    messages = [message for _, message in heard]
    assert all(message["backend"] == "up" for message in messages)
    assert {"endpoint.stopped", "endpoint.started"} <= {k for m in messages for k in m["kinds"]}
    assert len(messages) < messages[-1]["seq"] - before  # several in one
    assert [m["seq"] for m in messages] == sorted(m["seq"] for m in messages)
    at = [when for when, _ in heard]
    assert all(late - early > 0.9 for early, late in zip(at, at[20:], strict=False))


def test_the_page_knows_jupyters_root_without_its_tilde(jupyter: JupyterProcess) -> None:
    page = jupyter.http.get("lab").text
    assert f'"nbgpuRoot": "{jupyter.folder / "root"}"' in page
    assert '"serverRoot": "~/root"' in page


def kernels(jupyter: JupyterProcess) -> dict[str, Any]:
    found: dict[str, Any] = jupyter.http.get("api/kernelspecs").json()["kernelspecs"]
    return found


def write_kernel(jupyter: JupyterProcess, name: str, display_name: str) -> Path:
    """As the backend does while a pod runs; Jupyter's own provisioner will do here."""
    folder = jupyter.home.root / "kernels" / name
    folder.mkdir(parents=True)
    spec = {"argv": ["true"], "display_name": display_name, "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    return folder


def test_the_kernel_of_a_pod_is_listed_while_its_file_is_there(jupyter: JupyterProcess) -> None:
    assert not (jupyter.home.root / "kernels").exists()
    assert "nbgpu-train" not in kernels(jupyter) and "python3" in kernels(jupyter)
    folder = write_kernel(jupyter, "nbgpu-train", "Python 3 · train (cpu)")
    (folder / "logo-svg.svg").write_text("<svg/>")
    listed = kernels(jupyter)
    assert listed["nbgpu-train"]["spec"]["display_name"] == "Python 3 · train (cpu)"
    assert "python3" in listed
    one = jupyter.http.get("api/kernelspecs/nbgpu-train")
    assert one.json()["spec"]["display_name"] == "Python 3 · train (cpu)"
    resource = one.json()["resources"]["logo-svg"]
    logo = jupyter.http.get(httpx.URL(jupyter.url).join(resource))
    assert (logo.status_code, logo.text) == (200, "<svg/>")
    shutil.rmtree(folder)
    assert "nbgpu-train" not in kernels(jupyter)


def test_a_manager_of_another_class_lists_them_too(tmp_path: Path) -> None:
    """One that filters and renames what it finds, as others' do."""
    module = tmp_path / "module"
    module.mkdir()
    (module / "own_specs.py").write_text(
        "from jupyter_client.kernelspec import KernelSpecManager\n"
        "class Own(KernelSpecManager):\n"
        "    def find_kernel_specs(self):\n"
        "        return {n: d for n, d in super().find_kernel_specs().items() if n != 'python3'}\n"
    )
    process = JupyterProcess(tmp_path / "own", kernel_spec_manager_class="own_specs.Own")
    process.backend.environment["PYTHONPATH"] = str(module)
    process.start()
    try:
        write_kernel(process, "nbgpu-train", "Python 3 · train (cpu)")
        assert set(kernels(process)) == {"nbgpu-train"}
    finally:
        process.stop()


def test_the_page_knows_what_attaches_a_terminal_to_a_pod(jupyter: JupyterProcess) -> None:
    """Whatever the shell's PATH, home and folder are."""
    page = jupyter.http.get("lab").text
    told = re.search(r'"nbgpuTerminal": ("(?:[^"\\]|\\.)*")', page)
    assert told is not None
    command = json.loads(told[1])
    folder = jupyter.folder / "shadow"
    folder.mkdir()
    for name in ("nbgpu", "nbgpu_lab"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        ["sh", "-c", command + " no-such-pod; echo 'the shell goes on'"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"},
        input="\n",
        capture_output=True,
        text=True,
    )
    assert done.stderr.startswith("nbgpu: ") and "the wrong one" not in done.stderr
    assert done.stdout == "\nPress Enter to close. "  # exec: what follows is never run
    assert command.endswith(f" {jupyter.home.root}")


def test_after_a_gap_there_is_a_snapshot(jupyter: JupyterProcess) -> None:
    found = jupyter.api("nbgpu/v1/changes?since=999999999")
    assert found["gap"] and found["events"] and found["summary"]["endpoints"]
    assert jupyter.api(f"nbgpu/v1/changes?since={found['seq']}")["gap"] is False


async def test_a_killed_backend_is_told_and_comes_back_with_the_next_request(
    jupyter: JupyterProcess,
) -> None:
    jupyter.api("nbgpu/v1/summary")
    async with jupyter.bus() as bus:

        async def hear(state: str) -> None:
            while json.loads((await bus.receive(10)).data)["backend"] != state:
                pass

        await asyncio.to_thread(jupyter.backend.kill)
        await hear("down")
        await asyncio.to_thread(jupyter.api, "nbgpu/v1/summary")
        await hear("up")


def test_requests_that_find_no_backend_start_exactly_one(jupyter: JupyterProcess) -> None:
    jupyter.api("nbgpu/v1/summary")
    jupyter.backend.kill()
    with ThreadPoolExecutor(8) as many:
        found = list(many.map(lambda _: jupyter.api("nbgpu/v1/health"), range(8)))
    assert {one["pid"] for one in found} == {jupyter.backend.backend.pid}
    # what changes something is sent to the new one, too: the dead one never got it
    jupyter.backend.kill()
    assert jupyter.deploy("after-a-kill").status_code == 201


def test_a_stream_that_its_backend_breaks_off_ends_broken(jupyter: JupyterProcess) -> None:
    jupyter.deploy("broken-off").raise_for_status()
    body = question("broken-off", chunks=1000, delay_ms=20)
    with (
        pytest.raises(httpx.TransportError),
        jupyter.http.stream("POST", CHAT.format("broken-off"), json=body) as answer,
    ):
        for number, _ in enumerate(answer.iter_text()):
            if number == 1:
                jupyter.backend.kill()
    assert jupyter.api("nbgpu/v1/health")["status"] == "ok"


def test_a_request_that_goes_away_while_it_waits_leaves_the_queue(jupyter: JupyterProcess) -> None:
    jupyter.deploy("waits", "--startup-s", "60").raise_for_status()
    with jupyter.client({"Authorization": f"token {TOKEN}"}) as hasty:
        with pytest.raises(httpx.ReadTimeout):
            hasty.post(CHAT.format("waits"), json=question("waits"), timeout=0.5)
        until(lambda: jupyter.backend.row("waits")["queued"] == 0)
    jupyter.http.delete("nbgpu/api/v2/serverless/waits").raise_for_status()


def test_a_backend_that_cannot_start_is_one_sentence(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    process = JupyterProcess(tmp_path / "own", home=blocker / "home")
    process.start()
    try:
        answer = process.http.get("nbgpu/api/nbgpu/v1/summary")
        assert answer.status_code == 503
        assert "cannot be written" in answer.json()["detail"]
    finally:
        process.stop()


def test_the_backends_token_is_in_no_answer_no_header_and_no_log(jupyter: JupyterProcess) -> None:
    """Of this server as all tests above have used it, with its log at its most talkative."""
    token = jupyter.backend.backend.token
    said = []
    for path in (
        "nbgpu/v1/summary", "nbgpu/v1/health", "nbgpu/v1/settings", "nbgpu/v1/changes",
        "v2/serverless", "v2/serverless/nothing", "nbgpu/v1/why/nothing", "v2/nothing/health", "v2/x",
    ):  # fmt: skip
        answer = jupyter.http.get("nbgpu/api/" + path)
        said.append(f"{answer.headers} {answer.text}")
    assert "nbgpu/api/nbgpu/v1/summary" in jupyter.log()  # it does log what is asked
    assert not any(token in text for text in [*said, jupyter.log(), jupyter.backend.log()])
