"""Deploying a handler: what is refused at once, and its environment until it is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from nbgpu_backend import runtime
from nbgpu_backend.engines.handler.environment import Environment
from nbgpu_backend.providers.local import procfs

from tests.support.backend import BackendProcess
from tests.support.handlers import HANDLER, handler_folder, tiny_world
from tests.support.waiting import until
from tests.support.wheels import endless, wheel

BUILD_S = 60.0


@pytest.fixture(autouse=True)
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Before the backend, which inherits where pip looks and environments go."""
    return tiny_world(tmp_path, monkeypatch)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return handler_folder(tmp_path / "code").parent


def deploy(
    backend: BackendProcess, code: Path, file: str = "handler.py", **more: Any
) -> httpx.Response:
    extras = {"engine": {"name": "handler"}, "model": file, "cwd": str(code), "converge": True}
    return backend.http.post("/v2/serverless", json={"name": "jobs", "nbgpu": extras, **more})


def seen(backend: BackendProcess) -> dict[str, Any]:
    found: dict[str, Any] = backend.get("/v2/serverless/jobs")["nbgpu"]
    return found


def fetch(backend: BackendProcess) -> dict[str, Any]:
    found: dict[str, Any] = seen(backend)["model"]["fetch"]
    return found


def wait_installed(backend: BackendProcess) -> None:
    until(lambda: fetch(backend)["state"] == "done", within=BUILD_S)


def history(backend: BackendProcess) -> list[str]:
    found: list[str] = backend.get("/nbgpu/v1/why/jobs")["history"]
    return found


def test_deploy_answers_at_once_and_the_environment_is_installed(
    backend: BackendProcess, code: Path
) -> None:
    answer = deploy(backend, code)
    assert answer.status_code == 201, answer.text
    made = answer.json()["nbgpu"]
    assert made["state"] == "fetching" and made["engine"]["name"] == "handler"
    model = made["model"]
    assert model["source"] == "handler" and model["path"] == str(code / "handler.py")
    assert model["bytes"] == len(HANDLER) and len(model["revision"]) == 12
    assert (model["fetch"]["what"], model["fetch"]["state"]) == ("environment", "running")
    told = until(lambda: fetch(backend)["text"], within=BUILD_S)
    assert isinstance(told, str)
    reason = backend.get("/nbgpu/v1/why/jobs")["reason"]["text"]
    assert reason.startswith("installing the environment")
    wait_installed(backend)
    assert backend.row("jobs")["state"] == "asleep"
    assert Environment.beside(backend.home, code / "handler.py").complete
    again = deploy(backend, code).json()["nbgpu"]
    assert again["outcome"] == "attached" and again["changes"] == []


def test_an_edit_rolls_and_the_same_again_does_not(backend: BackendProcess, code: Path) -> None:
    deploy(backend, code)
    wait_installed(backend)
    (code / "util.py").write_text("a = 1")
    changed = deploy(backend, code).json()["nbgpu"]
    assert [c["field"] for c in changed["changes"]] == ["revision"] and changed["version"] == 2
    assert changed["model"]["fetch"]["state"] == "done"  # the same environment
    again = deploy(backend, code).json()["nbgpu"]
    assert again["outcome"] == "attached" and again["version"] == 2

    # PATCH changes what it names: neither file nor folder
    patch = {"nbgpu": {"tags": {"a": "b"}}}
    backend.http.patch("/v2/serverless/jobs", json=patch).raise_for_status()
    assert seen(backend)["version"] == 2
    assert deploy(backend, code).json()["nbgpu"]["version"] == 2


@pytest.mark.parametrize(
    ("file", "files", "status", "says"),
    [
        ("handlr.py", {}, 404, "There is no file handlr.py in "),
        ("handler.py", {"queue.py": ""}, 400, "queue.py beside the handler hides Python's own module"),
        ("handler.py", {"handler.py": "def f(:"}, 400, "handler.py, line 1: invalid syntax"),
        ("handler.py", {"handler.py": "import os"}, 400, "nowhere calls runpod.serverless.start"),
        ("handler.py", {"requirements.txt": "-e ."}, 400, "names a folder to be edited"),
        ("", {}, 400, "No file is named."),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_and_stores_nothing(
    shared_backend: BackendProcess,
    tmp_path: Path,
    file: str,
    files: dict[str, str],
    status: int,
    says: str,
) -> None:
    code = handler_folder(tmp_path / "code").parent
    for name, text in files.items():
        (code / name).write_text(text)
    answer = deploy(shared_backend, code, file)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
    assert shared_backend.get("/v2/serverless")["endpoints"] == []


def test_a_failed_build_is_told_and_deploying_again_tries_again(
    backend: BackendProcess, code: Path, wheels: Path
) -> None:
    (code / "requirements.txt").write_text("mine==3")
    deploy(backend, code)
    until(lambda: fetch(backend)["state"] == "failed", within=BUILD_S)
    why = backend.get("/nbgpu/v1/why/jobs")
    assert why["state"] == "failed" and "no package fits mine==3" in why["reason"]["text"]
    assert "once requirements.txt is corrected" in why["nextStep"]
    assert seen(backend)["workers"] == []

    wheel(wheels, "mine", "3", {"mine.py": ""})  # the index has it now: nothing here has changed
    again = deploy(backend, code).json()["nbgpu"]
    assert again["outcome"] == "attached" and again["state"] == "fetching"
    wait_installed(backend)
    assert backend.row("jobs")["state"] == "asleep"


def test_the_next_backend_builds_what_a_killed_one_had_begun(
    backend: BackendProcess, code: Path, wheels: Path
) -> None:
    begun = endless(wheels, "slow")
    (code / "requirements.txt").write_text("slow")
    deploy(backend, code)
    until(begun.exists, within=BUILD_S)
    (child,) = [row.pid for row in procfs.processes() if row.ppid == backend.backend.pid]
    running = [row.pid for row in procfs.processes() if row.session == child]
    backend.kill()
    until(lambda: all(runtime.start_time(pid) is None for pid in running))
    wheel(wheels, "slow", "1.0", {"slow.py": ""})
    backend.start()
    wait_installed(backend)


def test_deleting_ends_the_build(backend: BackendProcess, code: Path, wheels: Path) -> None:
    begun = endless(wheels, "slow")
    (code / "requirements.txt").write_text("slow")
    deploy(backend, code)
    until(begun.exists, within=BUILD_S)
    (child,) = [row.pid for row in procfs.processes() if row.ppid == backend.backend.pid]
    assert backend.http.delete("/v2/serverless/jobs").status_code == 204
    assert runtime.start_time(child) is None


@pytest.mark.parametrize("noticed", ["restart", "start", "deploy"])
def test_an_environment_that_was_deleted_is_built_again(
    backend: BackendProcess, code: Path, noticed: str
) -> None:
    deploy(backend, code)
    wait_installed(backend)
    place = Environment.beside(backend.home, code / "handler.py")
    if noticed == "restart":
        backend.shutdown(everything=False)
    shutil.rmtree(place.folder)
    if noticed == "restart":
        backend.start()
    elif noticed == "start":
        action = {"action": "start"}
        backend.http.post("/v2/serverless/jobs/action", json=action).raise_for_status()
    else:
        deploy(backend, code)
    until(lambda: place.complete, within=BUILD_S)
    wait_installed(backend)


def test_other_requirements_are_built_before_the_next_worker(
    backend: BackendProcess, code: Path, wheels: Path
) -> None:
    wheel(wheels, "mine", "1", {"mine.py": ""})
    deploy(backend, code)
    wait_installed(backend)
    (code / "requirements.txt").write_text("mine")
    place = Environment.beside(backend.home, code / "handler.py")
    assert not place.complete
    backend.http.patch(
        "/v2/serverless/jobs", json={"workers": {"min": 1, "max": 1}}
    ).raise_for_status()
    until(lambda: place.complete, within=BUILD_S)
