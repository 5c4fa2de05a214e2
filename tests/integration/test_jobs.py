"""Handlers from deploy to a result, through the API, with the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backend import BackendProcess

HANDLER = """
import runpod

def handler(job):
    print("before", flush=True)
    runpod.serverless.log.info("at work", job["id"])
    return {"echo": job["input"]}

runpod.serverless.start({"handler": handler})
"""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "handler.py").write_text(HANDLER)
    process = BackendProcess(folder / "home")
    process.start()
    process.deploy(
        "echo", nbgpu={"engine": {"name": "handler"}, "model": str(folder / "handler.py")}
    )
    yield process
    process.shutdown(everything=True)


def test_a_job_wakes_a_handler_and_its_log_lines_are_its_own(backend: BackendProcess) -> None:
    answer = backend.http.post(
        "/v2/echo/runsync?wait=200000", json={"input": {"n": 1}}, timeout=220
    )
    job = answer.json()
    assert (job["status"], job["output"]) == ("COMPLETED", {"echo": {"n": 1}})
    shown = backend.get(f"/nbgpu/v1/jobs/{job['id']}")
    assert [moment["what"] for moment in shown["timeline"]] == [
        "IN_QUEUE",
        "IN_PROGRESS",
        "COMPLETED",
    ]
    assert any("at work" in line for line in shown["log"])
    (record,) = backend.records("echo", 1)
    assert (record["id"], record["route"], record["status"]) == (job["id"], "/run", 200)


def test_a_handler_is_no_model_and_says_where_jobs_go(backend: BackendProcess) -> None:
    answer = backend.chat("echo")
    assert answer.status_code == 404 and "/v2/echo/run" in answer.json()["error"]["message"]
    assert backend.get("/openai/v1/models")["data"] == []
    endpoint = backend.get("/v2/serverless/echo")
    assert endpoint["nbgpu"]["baseUrl"].endswith("/v2/echo")


def test_why_of_a_handler_names_a_job(backend: BackendProcess) -> None:
    assert ".run(" in backend.get("/nbgpu/v1/why/echo")["nextStep"]


def test_a_new_backend_adopts_before_it_starts_workers_for_jobs_that_wait(
    tmp_path: Path,
) -> None:
    process = BackendProcess(tmp_path / "home")
    process.start()
    try:
        process.deploy("x", workers={"min": 1, "max": 1})
        process.wait_state("x", "ready")
        body = {"input": {"messages": [{"role": "user", "content": "hi"}], "sampling_params": {}}}
        jobs = [process.http.post("/v2/x/run", json=body).json()["id"] for _ in range(60)]
        process.kill()
        process.start()
        for job in jobs:
            done = process.http.get(f"/v2/x/status-sync/{job}?wait=30000").json()
            assert done["status"] == "COMPLETED"
        ledger = process.get("/nbgpu/v1/metrics/ledger?endpoint=x")["columns"]
        assert len(set(ledger["instance"])) == 1
    finally:
        process.shutdown(everything=True)
