"""The panel's server extension in a real Jupyter server, under a prefix as JupyterHub gives it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.backend import command_engine
from tests.support.jupyter import TOKEN, JupyterProcess
from tests.support.waiting import until

CHAT = "nbgpu/api/v2/{}/openai/v1/chat/completions"


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterProcess]:
    process = JupyterProcess(tmp_path_factory.mktemp("jupyter"))
    process.start()
    yield process
    process.stop()


def deploy(jupyter: JupyterProcess, name: str, *arguments: str) -> httpx.Response:
    engine = command_engine(*arguments)
    return jupyter.http.post(
        "nbgpu/api/v2/serverless", json={"name": name, "nbgpu": {"engine": engine}}
    )


def test_nothing_is_started_until_a_request_wants_the_backend(jupyter: JupyterProcess) -> None:
    assert not jupyter.home.backend_json.exists()
    assert jupyter.api("nbgpu/v1/summary")["endpoints"] == []
    assert jupyter.home.backend_json.exists()


def test_who_is_not_logged_in_gets_nothing(jupyter: JupyterProcess) -> None:
    with jupyter.client() as stranger:
        for method, path in (("GET", "nbgpu/v1/summary"), ("POST", "v2/serverless")):
            assert stranger.request(method, "nbgpu/api/" + path).status_code == 403


def test_a_page_without_the_xsrf_token_changes_nothing(jupyter: JupyterProcess) -> None:
    with jupyter.client() as browser:
        browser.get("lab", params={"token": TOKEN}, follow_redirects=True)  # a cookie, no header
        assert browser.get("nbgpu/api/nbgpu/v1/summary").status_code == 200
        refused = browser.post("nbgpu/api/v2/serverless", json={})
        assert refused.status_code == 403
        xsrf = {"X-XSRFToken": browser.cookies.get("_xsrf", "")}
        answer = browser.post("nbgpu/api/v2/serverless", json={}, headers=xsrf)
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["nbgpu/v1/shutdown", "metrics", "v2/../nbgpu/v1/shutdown", "v2/%2e%2e/nbgpu/v1/shutdown", "v2//x"]
)  # fmt: skip
def test_only_what_a_panel_needs_is_passed_on(jupyter: JupyterProcess, path: str) -> None:
    answer = jupyter.http.post("nbgpu/api/" + path, json={"all": True})
    assert answer.status_code in (404, 405)
    assert jupyter.api("nbgpu/v1/health")["status"] == "ok"


def test_a_stream_passes_chunk_by_chunk_and_the_backends_token_never_does(
    jupyter: JupyterProcess,
) -> None:
    deploy(jupyter, "flow").raise_for_status()
    body = {
        "model": "flow", "messages": [{"role": "user", "content": "x"}], "stream": True,
        "nbgpu_test": {"chunks": 5, "delay_ms": 150},
    }  # fmt: skip
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
    deploy(jupyter, "away").raise_for_status()
    body = {
        "model": "away", "messages": [], "stream": True,
        "nbgpu_test": {"chunks": 1000, "delay_ms": 20},
    }  # fmt: skip
    with jupyter.http.stream("POST", CHAT.format("away"), json=body) as answer:
        next(answer.iter_text())
    until(lambda: jupyter.backend.row("away")["held"] == 0)


async def test_changes_come_over_jupyters_event_bus_and_not_more_than_twenty_a_second(
    jupyter: JupyterProcess,
) -> None:
    jupyter.api("nbgpu/v1/summary")
    async with jupyter.bus() as bus:
        began = time.monotonic()
        work = asyncio.gather(*(asyncio.to_thread(deploy, jupyter, f"bus-{i}") for i in range(12)))
        heard: list[dict[str, object]] = []
        while not any("endpoint.created" in m["kinds"] for m in heard):  # type: ignore[operator]
            heard.append(json.loads((await bus.receive(10)).data))
        await work
        seconds = time.monotonic() - began
    assert all(m["backend"] == "up" for m in heard) and len(heard) <= 20 * seconds + 2
    assert max(int(str(m["seq"])) for m in heard) > 0


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
