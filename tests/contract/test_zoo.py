"""Handlers as they are in the wild: what the client sees, what is counted, what is left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.conftest import ZOO, Deploy, deploy_handler
from tests.support.backend import BackendProcess
from tests.support.serverless import Jobs, session_of
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="handlers run on Linux")


@pytest.fixture(scope="module")
def odd(serverless: BackendProcess) -> Iterator[Jobs]:
    jobs = deploy_handler(serverless, "odd", ZOO / "odd.py", workers={"max": 1})
    yield jobs
    jobs.quiet()
    jobs.delete()


@pytest.mark.parametrize(
    ("do", "output"), [("nothing", None), ("garbage", "printed"), ("large", "x" * (30 << 20))]
)
def test_what_it_returns_is_the_output(odd: Jobs, do: str, output: Any) -> None:
    done = odd.result({"do": do})
    assert done["status"] == "COMPLETED" and done["output"] == output


def test_an_empty_answer_completes(odd: Jobs) -> None:
    assert odd.result({"do": "empty"})["status"] == "COMPLETED"


def test_an_error_that_is_an_object_fails_the_job_and_is_readable(odd: Jobs) -> None:
    done = odd.result({"do": "error"})
    assert done["status"] == "FAILED" and "no luck" in done["error"]


def test_progress_is_seen_while_it_runs_and_does_not_undo_the_end(odd: Jobs) -> None:
    job = odd.run({"do": "progress"})
    seen = until(lambda: (s := odd.status(job)).get("output") == "half" and s)
    assert seen and seen["status"] == "IN_PROGRESS"
    assert odd.wait(job)["output"] == "whole"


def test_what_a_handler_forks_ends_with_its_worker(odd: Jobs) -> None:
    child = odd.result({"do": "fork"})["output"]
    (worker,) = odd.pids()
    assert child in session_of(worker)
    odd.process.http.post(f"/v2/serverless/{odd.name}/action", json={"action": "stop"})
    until(lambda: not session_of(worker))
    odd.process.http.post(f"/v2/serverless/{odd.name}/action", json={"action": "start"})


def test_a_job_that_kills_its_workers_fails_with_the_reason(odd: Jobs) -> None:
    done = odd.result({"do": "exit", "code": 3})
    assert done["status"] == "FAILED" and done["retries"] == 2
    assert "3 workers died with it" in done["error"] and "3" in done["error"].split("last:")[1]
    assert odd.result({"do": "echo"})["status"] == "COMPLETED"


def test_a_job_that_leaves_the_program_fails_with_the_place(odd: Jobs) -> None:
    done = odd.result({"do": "leave"})
    assert done["status"] == "FAILED" and done["retries"] == 2
    assert done["error"].startswith("3 workers died with it. The last: SystemExit: 0 (odd.py, line")
    assert odd.result({"do": "echo"})["status"] == "COMPLETED"


@pytest.mark.parametrize("do", ["block", "spin"])
def test_a_job_that_never_ends_is_timed_out_and_its_worker_ended(
    odd: Jobs, do: str, tmp_path: Path
) -> None:
    before = odd.result({"do": "echo"})["output"]["pid"]
    mark = tmp_path / "mark"
    given = {"do": do, "s": 1000, "until": str(mark)}
    done = odd.result(given, policy={"executionTimeout": 5_000})
    assert done["status"] == "TIMED_OUT" and "5 s" in done["error"]
    after = odd.result({"do": "echo"})["output"]["pid"]
    assert after != before and not session_of(before)
    if do == "spin":  # what kept it from its end is no more, and it is retried
        mark.touch()
        assert odd.good(f"retry/{done['id']}")["status"] == "IN_QUEUE"
        again = odd.wait(done["id"])
        assert (again["status"], again["output"]) == ("COMPLETED", "found")
        assert "error" not in again and again["workerId"] != done["workerId"]


def test_an_answer_after_a_cancel_is_ignored(odd: Jobs) -> None:
    job = odd.run({"do": "block", "s": 2})
    odd.until(job, "IN_PROGRESS")
    assert odd.cancel(job)["status"] == "CANCELLED"
    assert odd.result({"do": "echo"})["status"] == "COMPLETED"
    assert odd.status(job)["status"] == "CANCELLED" and "output" not in odd.status(job)


def test_a_worker_that_asks_for_it_is_replaced(odd: Jobs) -> None:
    done = odd.result({"do": "refresh"})
    assert done["status"] == "COMPLETED"
    assert odd.result({"do": "echo"})["output"]["pid"] != done["output"]["pid"]


def test_log_lines_are_those_of_the_job(odd: Jobs) -> None:
    first, second = (odd.run({"do": "log"}) for _ in range(2))
    odd.wait(first)
    odd.wait(second)
    for job in (first, second):
        lines = [line for line in odd.detail(job)["log"] if "a line of its own" in line]
        assert len(lines) == 1


def test_a_failed_job_can_be_retried_by_hand(odd: Jobs) -> None:
    job = odd.run({"do": "error"})
    odd.wait(job)
    assert odd.good(f"retry/{job}") == {"id": job, "status": "IN_QUEUE"}
    assert odd.wait(job)["status"] == "FAILED"
    assert odd.ask(f"retry/{odd.run({'do': 'echo'})}").status_code == 409


def test_a_generator_streams_and_aggregates(deploy: Deploy) -> None:
    jobs = deploy("pieces.py")
    job = jobs.run({"to": 3, "size": 2_000_000})
    seen, last = jobs.stream(job)
    assert [piece["n"] for piece in seen] == [0, 1, 2] and last["status"] == "COMPLETED"
    assert {len(piece["text"]) for piece in seen} == {2_000_000}
    assert [piece["n"] for piece in jobs.status(job)["output"]] == [0, 1, 2]
    broken = jobs.run({"to": 3, "raise_at": 1})
    seen, last = jobs.stream(broken)
    assert [piece["n"] for piece in seen] == [0] and last["status"] == "FAILED"
    assert "in the middle" in jobs.status(broken)["error"]
    jobs.quiet()


def test_a_fresh_worker_for_each_job(deploy: Deploy) -> None:
    jobs = deploy("once.py")
    pids = [jobs.result({})["output"] for _ in range(3)]
    assert len(set(pids)) == 3


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        ("crash.py", "the model file is missing"),
        ("leaves.py", "ended before it asked for a job"),
        (
            "missing.py",
            "There is no module cv2 (missing.py, line 3): add opencv-python-headless to "
            "requirements.txt",
        ),
    ],
)
def test_a_handler_that_does_not_start_fails_its_jobs_and_is_held_down(
    deploy: Deploy, file: str, cause: str
) -> None:
    jobs = deploy(file)
    done = jobs.result({})
    assert done["status"] == "FAILED" and cause in done["error"]
    refused = jobs.ask("run", {"input": {}})
    assert refused.status_code == 503 and cause in refused.json()["error"]
    why = jobs.process.get(f"/nbgpu/v1/why/{jobs.name}")
    assert why["state"] == "failed" and cause in why["reason"]["text"]
    assert f"nbgpu start {jobs.name}" in why["nextStep"]
    assert jobs.workers() == [] and jobs.quiet()["failed"] == 1


def test_low_priority_starts_no_worker_but_uses_one_that_runs(deploy: Deploy) -> None:
    delay = {"type": "QUEUE_DELAY", "queueDelay": 0.5}
    jobs = deploy("odd.py", workers={"max": 2}, scaling=delay)
    low = jobs.run({"do": "echo"}, policy={"lowPriority": True})
    time.sleep(2 * delay["queueDelay"])
    assert jobs.status(low)["status"] == "IN_QUEUE" and jobs.workers() == []
    first = jobs.run({"do": "block", "s": 3})  # it is reason enough, and goes first
    jobs.until(first, "IN_PROGRESS")
    time.sleep(3 * delay["queueDelay"])
    assert jobs.status(low)["status"] == "IN_QUEUE" and len(jobs.workers()) == 1
    normal = jobs.run({"do": "echo"})  # what waits with normal priority starts the second
    until(lambda: len(jobs.workers()) == 2)
    ends = [jobs.wait(job) for job in (first, normal, low)]
    assert [end["status"] for end in ends] == ["COMPLETED"] * 3
    jobs.quiet()


def test_low_priority_waits_behind_others(odd: Jobs) -> None:
    first = odd.run({"do": "block", "s": 1})
    low = odd.run({"do": "echo"}, policy={"lowPriority": True})
    high = odd.run({"do": "echo"})
    for job in (first, low, high):
        odd.wait(job)
    began = {
        job: next(m["atUs"] for m in odd.detail(job)["timeline"] if m["what"] == "IN_PROGRESS")
        for job in (low, high)
    }
    assert began[high] < began[low]


def test_a_job_that_nobody_takes_outlives_its_time_to_live_as_timed_out(deploy: Deploy) -> None:
    jobs = deploy("odd.py", workers={"max": 0})
    began = time.monotonic()
    done = jobs.result({"do": "echo"}, policy={"ttl": 10_000})
    assert done["status"] == "TIMED_OUT" and time.monotonic() - began < 15
    assert jobs.good("purge-queue") == {"removed": 0, "status": "completed"}


def test_too_much_is_refused_with_a_sentence(deploy: Deploy) -> None:
    jobs = deploy("odd.py", workers={"max": 0}, policy={"jobsMax": 3})
    for verb, size in (("run", 11_000_000), ("runsync", 21_000_000)):
        refused = jobs.ask(verb, {"input": "x" * size})
        assert refused.status_code == 413 and "MB" in refused.json()["error"]
    for _ in range(3):
        jobs.run({})
    full = jobs.ask("run", {"input": {}})
    assert full.status_code == 429 and int(full.headers["retry-after"]) > 0
    assert jobs.good("purge-queue")["removed"] == 3
    for body in (b"{", b"[1]", b'{"inputs": 1}', b'{"input": 1, "policy": {"ttl": 1}}'):
        refused = jobs.process.http.post(f"/v2/{jobs.name}/run", content=body)
        assert refused.status_code == 400 and refused.json()["error"]
    unknown = jobs.ask("status/none-such", method="GET")
    assert unknown.status_code == 404 and unknown.json()["status"] == "FAILED"


def test_keys_for_a_bucket_never_enter_the_database(deploy: Deploy) -> None:
    jobs = deploy("odd.py", workers={"max": 0})
    jobs.run({"do": "echo"}, s3Config={"accessId": "AKIA", "accessSecret": "sesame-9f3"})
    root = jobs.process.home.root
    for path in root.glob("*.db*"):
        assert b"sesame-9f3" not in path.read_bytes()
    (kept,) = [p for p in (root / "jobs").iterdir() if b"sesame-9f3" in p.read_bytes()]
    assert kept.stat().st_mode & 0o077 == 0


class Listener:
    """A webhook: `codes` are its answers, one after the other; the last one stays."""

    def __init__(self, codes: list[int]) -> None:
        heard: list[bytes] = []
        self.heard = heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/told"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_webhook_is_told_of_the_end_and_again_if_it_fails(odd: Jobs) -> None:
    good, bad = Listener([200]), Listener([500, 200])
    told = odd.run({"do": "echo"}, webhook=good.url)
    again = odd.run({"do": "echo"}, webhook=bad.url)
    odd.wait(told)
    odd.wait(again)
    until(lambda: len(good.heard) == 1)
    assert httpx.Response(200, content=good.heard[0]).json() == odd.status(told)
    until(lambda: odd.detail(again)["webhookState"] == "sent", within=20)
    assert len(bad.heard) == 2 and len(good.heard) == 1
    for listener in (good, bad):
        listener.server.shutdown()
