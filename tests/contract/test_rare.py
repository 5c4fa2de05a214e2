"""What seldom happens to jobs. The workers are the test's own and speak the worker protocol directly."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.conftest import ZOO, deploy_handler
from tests.support.backend import BackendProcess
from tests.support.serverless import Jobs, session_of
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="handlers run on Linux")


class Worker:
    """One that nobody here started: `take` and `done` are its requests."""

    def __init__(self, jobs: Jobs, name: str) -> None:
        self.jobs, self.name = jobs, name

    def take(self, slots: int = 1) -> list[dict[str, Any]]:
        query = {"batch_size": slots, "job_in_progress": 0}
        answer = self.jobs.ask(f"job-take-batch/{self.name}", method="GET", params=query)
        assert answer.status_code in (200, 204), answer.text
        found: list[dict[str, Any]] = answer.json() if answer.status_code == 200 else []
        return found

    def done(self, job: str, body: bytes = b'{"output": 1}', verb: str = "job-done") -> int:
        path = f"/v2/{self.jobs.name}/{verb}/{self.name}/{job}"
        return self.jobs.process.http.post(path, content=body).status_code


@pytest.fixture
def alone(serverless: BackendProcess, request: pytest.FixtureRequest) -> Iterator[Jobs]:
    """An endpoint that starts no worker."""
    name = "rare-" + str(abs(hash(request.node.name)) % 10**8)
    jobs = deploy_handler(serverless, name, ZOO / "steps.py", workers={"max": 0})
    yield jobs
    jobs.delete()


class Listener:
    """A webhook. `code` is its answer; `heard` the ids that it was told of."""

    def __init__(self, code: int) -> None:
        self.code, self.heard = code, list[str]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.heard.append(httpx.Response(200, content=body).json()["id"])
                self.send_response(outer.code)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_webhook_is_told_by_the_next_backend_and_three_times_in_vain(
    tmp_path: Path, serverless: BackendProcess
) -> None:
    process = BackendProcess(tmp_path / "home")
    process.start()
    listener = Listener(500)
    try:
        jobs = deploy_handler(process, "hook", ZOO / "steps.py", workers={"max": 0})
        job = jobs.run(1, webhook=listener.url)
        worker = Worker(jobs, "w")
        assert [one["id"] for one in worker.take()] == [job]
        assert worker.done(job) == 200
        until(lambda: listener.heard == [job])
        process.kill()  # between two tries
        process.start()
        until(lambda: jobs.detail(job)["webhookState"] == "failed", within=40)
        assert listener.heard == [job] * 4, "one try of the first backend, three of the next"
        listener.code = 200
        told = jobs.run(2, webhook=listener.url)
        worker.take()
        worker.done(told)
        until(lambda: jobs.detail(told)["webhookState"] == "sent")
    finally:
        listener.server.shutdown()
        process.shutdown(everything=True)


def test_the_jobs_of_a_worker_that_was_wrongly_written_down_as_ended_never_run_twice_at_once(
    tmp_path: Path, serverless: BackendProcess
) -> None:
    process = BackendProcess(tmp_path / "home")
    process.start()
    try:
        jobs = deploy_handler(process, "fenced", ZOO / "steps.py", workers={"max": 1})
        long, short = (jobs.run({"do": "sleep", "s": s}) for s in (1000, 1))
        first = jobs.until(long, "IN_PROGRESS")["workerId"]
        jobs.until(short, "IN_PROGRESS")
        (pid,) = jobs.pids()
        process.kill()
        with closing(sqlite3.connect(process.home.state_db)) as database, database:
            database.execute("UPDATE instances SET ended_us = intent_us WHERE id = ?", (first,))
        time.sleep(1.5)  # the short one ends meanwhile, and its relay keeps that
        assert session_of(pid)
        process.start()
        until(lambda: jobs.status(long).get("workerId") not in ("", first))
        assert not session_of(pid)
        done = jobs.wait(short)
        assert (done["status"], done["workerId"]) == ("COMPLETED", first) and "retries" not in done
        assert jobs.status(long)["retries"] == 1
        assert process.get("/nbgpu/v1/summary")["orphans"] == []
        jobs.cancel(long)
    finally:
        process.shutdown(everything=True)


def test_clients_that_name_themselves_take_turns(alone: Jobs) -> None:
    def run(origin: str) -> str:
        answer = alone.ask("run", {"input": 1}, headers={"X-Nbgpu-Origin": f"notebook={origin}"})
        return str(answer.json()["id"])

    first = [run("a") for _ in range(3)]
    second = run("b")
    took = [one["id"] for one in Worker(alone, "w").take(4)]
    assert took == [first[0], second, first[1], first[2]]


def test_a_result_is_seen_once_however_often_it_is_posted(alone: Jobs) -> None:
    job, worker = alone.run(1), Worker(alone, "w")
    worker.take()
    assert [worker.done(job, b'{"output": %d}' % n) for n in range(3)] == [200] * 3
    assert worker.done(job, b'{"status": "IN_PROGRESS", "output": "late"}') == 200
    assert worker.done("no-such-job") == 200
    assert Worker(alone, "stranger").done(job) == 200
    assert alone.status(job)["output"] == 0 and alone.quiet()["completed"] == 1


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xfe", b"[" * 100_000, b""])
def test_a_post_that_cannot_be_read_fails_its_job_and_no_other(alone: Jobs, body: bytes) -> None:
    bad, good = alone.run(1), alone.run(2)
    worker = Worker(alone, "w")
    worker.take(2)
    assert worker.done(bad, body) == 200 and worker.done(good) == 200
    assert alone.status(bad)["status"] == "FAILED" and alone.status(bad)["error"]
    assert alone.status(good)["status"] == "COMPLETED"


@pytest.mark.parametrize("body", [b"", b"\xff", b'{"input": ' + b"[" * 100_000, b'"input"'])
def test_a_body_that_cannot_be_read_is_refused(alone: Jobs, body: bytes) -> None:
    for verb in ("run", "runsync"):
        refused = alone.process.http.post(f"/v2/{alone.name}/{verb}", content=body)
        assert refused.status_code == 400 and refused.json()["status"] == "FAILED"


def test_clients_that_vanish_leave_the_job_and_the_counters_right(alone: Jobs) -> None:
    backend = alone.process.backend
    vanish = httpx.Client(
        base_url=f"{backend.url}/v2/{alone.name}", timeout=0.3, trust_env=False,
        headers={"Authorization": backend.token},
    )  # fmt: skip
    with pytest.raises(httpx.ReadTimeout):
        vanish.post("/runsync", json={"input": "kept"})
    with pytest.raises(httpx.ReadTimeout):
        vanish.get("/job-stop/w")
    until(lambda: alone.health()["jobs"]["inQueue"] == 1)
    worker = Worker(alone, "w")
    (job,) = worker.take()
    with pytest.raises(httpx.ReadTimeout):
        vanish.get(f"/stream/{job['id']}")
    assert worker.done(job["id"], b'{"output": "chunk"}', "job-stream") == 200
    assert alone.good(f"stream/{job['id']}", method="GET")["stream"] == [{"output": "chunk"}]
    worker.done(job["id"])
    with pytest.raises(httpx.ReadTimeout):
        vanish.get("/job-take/w")  # hangs up while it waits
    later = alone.run("not lost on the one that hung up")
    assert [one["id"] for one in Worker(alone, "other").take()] == [later]
    Worker(alone, "other").done(later)
    alone.quiet()
    vanish.close()


def test_jobs_taken_by_many_at_once_are_each_given_once(alone: Jobs) -> None:
    sent, over = {alone.run(n) for n in range(60)}, threading.Event()

    def work(name: str) -> list[str]:
        worker, mine = Worker(alone, name), list[str]()
        while not over.is_set():
            for one in worker.take(3):
                worker.done(one["id"])
                mine.append(one["id"])
        return mine

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, f"w{n}") for n in range(4)]
        try:
            until(lambda: alone.health()["jobs"]["completed"] == len(sent))
        finally:
            over.set()
            while wait(running, timeout=0.2).not_done:  # a poll that is held ends with a job
                sent.add(alone.run("end"))
    took = [job for one in running for job in one.result()]
    assert len(took) == len(set(took)) and set(took) <= sent
    alone.good("purge-queue")
    alone.quiet()


def test_a_result_is_gone_when_the_endpoint_says_so(alone: Jobs) -> None:
    process = alone.process
    name = alone.name + "-k"
    kept = deploy_handler(
        process, name, ZOO / "steps.py", workers={"max": 0}, policy={"resultsKeptS": 1}
    )
    job, worker = kept.run("x" * 100_000), Worker(kept, "w")
    worker.take()
    worker.done(job, b'{"output": "%s"}' % (b"y" * 100_000))
    until(lambda: kept.ask(f"status/{job}", method="GET").status_code == 404)
    refused = kept.ask(f"retry/{job}")
    assert refused.status_code == 404 and refused.json()["status"] == "FAILED"
    kept.delete()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "nbgpu-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_refuses_and_loses_nothing(
    small_disk: Path, serverless: BackendProcess
) -> None:
    process = BackendProcess(small_disk / "home")
    process.start()
    try:
        jobs = deploy_handler(process, "full", ZOO / "steps.py", workers={"max": 0})
        worker = Worker(jobs, "w")
        running = jobs.run("running")
        worker.take()
        filler = small_disk / "filler"
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), b"\0" * 4096)
        accepted: list[str] = []
        for _ in range(200):
            answer = jobs.ask("run", {"input": "x" * 50_000})
            if answer.status_code != 200:
                break
            accepted.append(answer.json()["id"])
        assert answer.status_code == 507 and "space" in answer.json()["error"]
        assert answer.json()["status"] == "FAILED"
        assert jobs.ask("run", {"input": "x" * 100_000}).status_code == 507
        # a worker tries a post again after a 5xx
        assert worker.done(running, b'{"output": "%s"}' % (b"r" * 60_000)) >= 500
        assert jobs.status(running)["status"] == "IN_PROGRESS"
        filler.unlink()
        assert worker.done(running, b'{"output": "%s"}' % (b"r" * 60_000)) == 200
        assert jobs.status(running)["output"] == "r" * 60_000
        assert jobs.health()["jobs"]["inQueue"] == len(accepted)
        process.kill()
        process.start()
        assert [jobs.status(job)["status"] for job in accepted] == ["IN_QUEUE"] * len(accepted)
        assert jobs.good("purge-queue")["removed"] == len(accepted)
        jobs.quiet()
    finally:
        process.shutdown(everything=True)
