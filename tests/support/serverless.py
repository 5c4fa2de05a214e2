"""An endpoint as those see it who send jobs to it, and what is left of its workers in the machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.support.backend import BackendProcess
from tests.support.waiting import until

WAIT_S = 60.0
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


class Jobs:
    """The job API of one endpoint. Answers are the parsed JSON; a refusal fails the test."""

    def __init__(self, process: BackendProcess, name: str) -> None:
        self.process, self.name = process, name

    def ask(
        self, verb: str, body: Any = None, *, method: str = "POST", **more: Any
    ) -> httpx.Response:
        return self.process.http.request(method, f"/v2/{self.name}/{verb}", json=body, **more)

    def good(
        self, verb: str, body: Any = None, *, method: str = "POST", **more: Any
    ) -> dict[str, Any]:
        answer = self.ask(verb, body, method=method, **more)
        assert answer.status_code == 200, f"{verb}: {answer.status_code} {answer.text[:1000]}"
        found: dict[str, Any] = answer.json()
        return found

    def run(self, given: Any, **more: Any) -> str:
        answer = self.good("run", {"input": given, **more})
        assert answer["status"] == "IN_QUEUE"
        return str(answer["id"])

    def status(self, job: str) -> dict[str, Any]:
        return self.good(f"status/{job}", method="GET")

    def wait(self, job: str, within: float = WAIT_S) -> dict[str, Any]:
        """The job object at its end."""
        query = {"wait": round(within * 1000)}
        found = self.good(f"status-sync/{job}", method="GET", params=query, timeout=within + 10)
        assert found["status"] in FINAL, f"no end within {within} s: {found}"
        assert {"workerId", "delayTime", "executionTime"} <= found.keys()
        return found

    def result(self, given: Any, within: float = WAIT_S, **more: Any) -> dict[str, Any]:
        return self.wait(self.run(given, **more), within)

    def until(self, job: str, state: str, within: float = WAIT_S) -> dict[str, Any]:
        return until(lambda: (s := self.status(job))["status"] == state and s, within=within) or {}

    def stream(self, job: str, within: float = WAIT_S) -> tuple[list[Any], dict[str, Any]]:
        """All that is streamed until the end, and the answer that told the end."""
        seen: list[Any] = []
        while True:
            answer = self.good(f"stream/{job}", method="GET", timeout=within)
            seen += [chunk["output"] for chunk in answer["stream"]]
            if answer["status"] in FINAL and not answer["stream"]:
                return seen, answer

    def cancel(self, job: str) -> dict[str, Any]:
        return self.good(f"cancel/{job}")

    def health(self) -> dict[str, Any]:
        return self.good("health", method="GET")

    def quiet(self, within: float = 20.0) -> dict[str, int]:
        """The counters, once nothing waits or is held. Fails the test when that does not come."""

        def look() -> dict[str, int] | None:
            jobs: dict[str, int] = self.health()["jobs"]
            held = self.process.row(self.name)["held"]
            return jobs if jobs["inQueue"] == jobs["inProgress"] == held == 0 else None

        return until(look, within=within)

    def detail(self, job: str) -> dict[str, Any]:
        """As a person looks at it: with its timeline and its part of the log."""
        return self.process.get(f"/nbgpu/v1/jobs/{job}")

    # --- its workers ------------------------------------------------------------------------------

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.process.row(self.name)["workers"]
        return found

    def pids(self) -> list[int]:
        return [w["pid"] for w in self.workers() if w["pid"]]

    def delete(self) -> None:
        answer = self.process.http.delete(f"/v2/serverless/{self.name}", timeout=60)
        assert answer.status_code in (204, 404), answer.text


def processes_of(home: Path) -> dict[int, str]:
    """pid -> command line of whatever was started for this NBGPU_HOME, except the backend itself.

    A handler's HOME is below it, and its children inherit that.
    """
    mark = f"HOME={home}/instances/".encode()
    found = {}
    for pid, folder in _processes():
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes():
                found[pid] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def session_of(pid: int) -> list[int]:
    """Living processes of the session that `pid` leads; a zombie counts as dead."""
    found = []
    for other, folder in _processes():
        with contextlib.suppress(OSError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == pid and state not in "ZX":
                found.append(other)
    return found


def _processes() -> Iterator[tuple[int, Path]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name), Path("/proc") / name
