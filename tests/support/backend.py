"""A real backend of its own for a test: own NBGPU_HOME, real process, real HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from nbgpu_backend import runtime
from nbgpu_backend.home import Home

from tests.support.waiting import until

UPSTREAM = Path(__file__).parent / "upstream.py"
CLONE = Path(__file__).resolve().parents[2]


def command_engine(*arguments: str) -> dict[str, Any]:
    """The tiny upstream as an engine."""
    argv = [sys.executable, str(UPSTREAM), "--port", "{port}", "--model", "{name}", *arguments]
    return {"name": "command", "options": argv}


class BackendProcess:
    """`NBGPU_ENGINES` of the caller stays in force, so that real engines are found."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home)
        self.environment = {**os.environ, "NBGPU_HOME": str(home)}
        self._client: httpx.Client | None = None

    def start(self) -> runtime.Backend:
        found = runtime.ensure_running(self.home)
        self._client = None
        return found

    @property
    def backend(self) -> runtime.Backend:
        found = runtime.read(self.home)
        assert found is not None
        return found

    @property
    def http(self) -> httpx.Client:
        """A client of the control and data routes; `raise_for_status` is the caller's."""
        backend = self.backend
        if self._client is None or str(self._client.base_url).rstrip("/") != backend.url:
            self._client = self.client()
        return self._client

    def client(self) -> httpx.Client:
        """One with connections of its own; the caller closes it."""
        backend = self.backend
        return httpx.Client(
            base_url=backend.url,
            headers={"Authorization": f"Bearer {backend.token}"},
            timeout=httpx.Timeout(60.0),
            trust_env=False,
            verify=False,  # plain HTTP: no certificates to load
        )

    def deploy(self, name: str, **body: Any) -> dict[str, Any]:
        """With the tiny upstream unless `nbgpu.engine` or `nbgpu.model` says otherwise."""
        extras = {"engine": command_engine(), **body.pop("nbgpu", {})}
        answer = self.http.post("/v2/serverless", json={"name": name, **body, "nbgpu": extras})
        assert answer.status_code in (200, 201), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def get(self, path: str) -> dict[str, Any]:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def row(self, name: str) -> dict[str, Any]:
        rows = self.get("/nbgpu/v1/summary")["endpoints"]
        found: dict[str, Any] = next(row for row in rows if row["name"] == name)
        return found

    def worker(self, name: str, state: str | None = None) -> dict[str, Any]:
        """The one worker of an endpoint, waited for."""

        def look() -> dict[str, Any] | None:
            workers = self.row(name)["workers"]
            fitting = [w for w in workers if state is None or w["state"] == state]
            return fitting[0] if fitting else None

        return until(look)

    def chat(self, name: str, prompt: str = "hi", **body: Any) -> httpx.Response:
        return self.http.post(
            f"/v2/{name}/openai/v1/chat/completions",
            json={"model": name, "messages": [{"role": "user", "content": prompt}], **body},
        )

    def wait_state(self, name: str, state: str, within: float = 20.0) -> None:
        until(lambda: self.row(name)["state"] == state, within=within)

    def records(self, name: str, count: int) -> list[dict[str, Any]]:
        """The endpoint's requests, once so many are recorded."""

        def look() -> list[dict[str, Any]] | None:
            table = self.get(f"/nbgpu/v1/metrics/requests?endpoint={name}")
            rows = [
                dict(zip(table["columns"], values, strict=True))
                for values in zip(*table["columns"].values(), strict=True)
            ]
            return rows if len(rows) >= count else None

        return until(look)

    def kill(self) -> None:
        """As the machine's out-of-memory killer would."""
        pid = self.backend.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: runtime.start_time(pid) is None)

    def shutdown(self, *, everything: bool) -> None:
        found = runtime.read(self.home)
        if found is None or not runtime.alive(found):
            if not everything:
                return
            found = self.start()  # to end what a killed one left running
        self.http.post("/nbgpu/v1/shutdown", json={"all": everything}).raise_for_status()
        until(lambda: runtime.start_time(found.pid) is None, within=40)

    def log(self) -> str:
        return self.home.backend_log.read_text()

    def cli(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nbgpu", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=options.pop("timeout", 60),
            **options,
        )

    def cli_json(self, *arguments: str) -> Any:
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def events_of(stream: str) -> list[str]:
    """The data of each server-sent event."""
    return [block[6:] for block in stream.split("\n\n") if block.startswith("data: ")]
