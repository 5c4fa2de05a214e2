"""The real clients, unmodified, each in a process of its own, against real handlers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend.engines.handler.environment import Environment

from tests.contract.conftest import ZOO, deploy_handler
from tests.support.backend import BackendProcess
from tests.support.serverless import Jobs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="handlers run on Linux")

CLIENTS = Path(__file__).parent / "clients"
NPM = "1.1.2"
VERSIONS = {"stable": "1.12.0", "next": "2.0.0rc2"}
PYTHONS = ["stable-sync", "stable-asynchronous", "next-sync", "next-asynchronous"]
Seen = dict[str, Any]


@pytest.fixture(scope="module")
def endpoints(serverless: BackendProcess) -> Iterator[dict[str, Jobs]]:
    """The clients share two, the one with the pre-release of the package below it."""
    one = {"max": 1}
    made = {
        "steps": deploy_handler(serverless, "steps", ZOO / "steps.py", workers=one),
        "next": deploy_handler(serverless, "next", ZOO / "next" / "handler.py", workers=one),
        "count": deploy_handler(serverless, "count", ZOO / "count.py", workers={"max": 5}),
    }
    yield made
    for jobs in made.values():
        jobs.delete()


@pytest.fixture(scope="module")
def running(
    serverless: BackendProcess, endpoints: dict[str, Jobs]
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All clients at once, since they mostly sleep."""
    started: dict[str, subprocess.Popen[str]] = {}
    commands = {name: python(serverless, name) for name in PYTHONS}
    if shutil.which("npm"):
        commands["node"] = ["node", str(npm_package() / "client.mjs")]
    for name, command in commands.items():
        deploy_handler(serverless, f"hold-{name}", ZOO / "steps.py", workers={"max": 0})
        backend = serverless.backend
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(serverless.home.root),  # no key of whoever runs the tests
            "KEY": backend.token,
            "BASE": f"{backend.url}/v2",
            "RUNPOD_ENDPOINT_BASE_URL": f"{backend.url}/v2",
            "STEPS": "next" if name.startswith("next") else "steps",
            "COUNT": "count",
            "HOLD": f"hold-{name}",
        }
        started[name] = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def python(process: BackendProcess, name: str) -> list[str]:
    """The interpreter of the environment that the handlers with this package have."""
    version, script = name.split("-")
    folder = ZOO / "next" if version == "next" else ZOO
    return [
        str(Environment.beside(process.home, folder / "x.py").python),
        str(CLIENTS / f"{script}.py"),
    ]


def npm_package() -> Path:
    """A folder with the package installed and the client beside it, since that is where node looks."""
    folder = Path(os.environ["NBGPU_ENGINES"]) / "tests" / f"runpod-sdk-{NPM}"
    if not (folder / "node_modules" / "runpod-sdk" / "package.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)]
        done = subprocess.run(
            [*install, f"runpod-sdk@{NPM}"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    (folder / "client.mjs").write_text((CLIENTS / "node.mjs").read_text())
    return folder


_told: dict[str, Seen] = {}


def told(running: dict[str, subprocess.Popen[str]], name: str) -> Seen:
    if name not in _told:
        out, errors = running[name].communicate(timeout=120)
        assert running[name].returncode == 0, errors[-3000:]
        _told[name] = json.loads(out.splitlines()[-1])
    return _told[name]


@pytest.fixture(params=PYTHONS)
def seen(request: pytest.FixtureRequest, running: dict[str, subprocess.Popen[str]]) -> Seen:
    """What one of the Python clients saw."""
    found = told(running, request.param)
    assert found["version"] == VERSIONS[request.param.split("-")[0]]
    found["sync"] = request.param.endswith("-sync")
    return found


@pytest.fixture
def node(running: dict[str, subprocess.Popen[str]]) -> Seen:
    if "node" not in running:
        pytest.skip("no npm: the JavaScript client is not tested")
    return told(running, "node")


def test_a_job_runs_and_its_result_is_read(seen: Seen) -> None:
    given = {"do": "echo", "text": "héllo"}
    assert seen["run"] == given and seen["run again"] == ["COMPLETED", given]
    if seen["sync"]:
        assert seen["run without input"] == {"text": "bare"}
        assert seen["run_sync"] == {"do": "echo", "n": [1, None, 2.5]}
    else:
        assert seen["together"] == [{"n": n} for n in range(4)]


def test_the_handler_gets_the_job_as_it_was_submitted(seen: Seen) -> None:
    if not seen["sync"]:
        pytest.skip("this client sends an input and nothing else")
    job = seen["policy"]
    assert job["policy"] == {"executionTimeout": 60_000} and job["mine"] == "kept"
    assert job["id"].startswith("sync-")


def test_a_handler_that_raises_fails_its_job(seen: Seen) -> None:
    assert seen["raised"] == [None, "FAILED"]


def test_a_stream_gives_each_chunk_once_and_ends(seen: Seen) -> None:
    assert seen["stream"] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert seen["streamed"] == "COMPLETED"


def test_a_running_job_is_cancelled(seen: Seen) -> None:
    assert seen["cancel"]["status"] == "CANCELLED"
    assert seen["cancelled"] == ["CANCELLED", None]


def test_the_stream_of_a_cancelled_job_ends(seen: Seen) -> None:
    """The package itself knows no such end and would ask for ever: it is told FAILED there."""
    assert seen["cancelled stream"] == "ended"


def test_health_counts_jobs_and_workers(seen: Seen) -> None:
    jobs, workers = seen["health"]["jobs"], seen["health"]["workers"]
    assert jobs.keys() == {"completed", "failed", "inProgress", "inQueue", "retried"}
    assert jobs["completed"] >= 2 and jobs["failed"] >= 1
    assert workers["idle"] + workers["running"] >= 1  # one that was ended for a cancel may still go


def test_a_purge_takes_what_waits(seen: Seen) -> None:
    assert seen["queued"] == ["IN_QUEUE", 3]
    assert seen["purge"] == {"removed": 3, "status": "completed"}
    assert seen["purged"] == ["CANCELLED"] * 3


def test_a_wrong_key_or_endpoint_is_told_apart(seen: Seen) -> None:
    if not seen["sync"]:
        pytest.skip("this client looks at no status code")
    assert "401" in seen["wrong key"] and seen["unknown endpoint"] == 404


def test_the_javascript_client_runs_jobs(node: Seen) -> None:
    assert node["accepted"] == "IN_QUEUE"
    for answer in (node["statusSync"], node["status"]):
        assert answer["output"] == {"do": "echo", "text": "héllo"} and answer["succeeded"]
    assert node["runSync"]["output"] == {"do": "echo", "n": [1, None, 2.5]}
    assert node["slowRunSync"]["succeeded"], "its wait of 4 s ran out, so it asked /status-sync"
    assert node["raised"]["status"] == "FAILED" and not node["raised"]["succeeded"]
    assert "there is no such colour" in node["raised"]["error"]


def test_the_javascript_client_streams_cancels_and_purges(node: Seen) -> None:
    assert node["stream"] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert node["cancel"]["status"] == node["cancelled"]["status"] == "CANCELLED"
    assert node["cancelledStream"] == "ended"
    assert node["health"]["jobs"]["completed"] >= 2
    assert node["queued"] == ["IN_QUEUE", 3]
    assert node["purge"] == {"removed": 3, "status": "completed"}
    assert node["purged"] == ["CANCELLED"] * 3


def test_the_javascript_client_reads_results_that_pythons_json_spoils(
    node: Seen, serverless: BackendProcess
) -> None:
    assert node["divided"]["output"] == {"loss": None, "norms": [1.5, None]}
    assert node["dividedStream"] == [{"n": 0, "loss": None}, {"n": 1, "loss": None}]
    for job, said in ((node["divided"]["id"], "2 in its output"), (node["dividedId"], "streams")):
        told = [m["text"] for m in serverless.get(f"/nbgpu/v1/jobs/{job}")["timeline"]]
        assert [text for text in told if "NaN" in text and said in text]
        assert len([text for text in told if "NaN" in text]) == 1, "once, however many chunks"


def test_counters_are_at_zero_when_all_clients_are_done(
    running: dict[str, subprocess.Popen[str]], endpoints: dict[str, Jobs]
) -> None:
    for name in running:
        told(running, name)
    for jobs in endpoints.values():
        jobs.quiet()
