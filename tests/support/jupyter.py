"""A real Jupyter server of its own for a test, with the panel's server extension."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from nbgpu_backend.home import Home
from yarl import URL

from tests.support.backend import BackendProcess, command_engine
from tests.support.ports import free_port
from tests.support.waiting import until

TOKEN = "jupyter-token"
PREFIX = "/user/ada%40example/"  # as JupyterHub gives them


class JupyterProcess:
    """`backend` is what its extension starts on demand; `http` asks with Jupyter's token."""

    def __init__(self, folder: Path, *, home: Path | None = None, **settings: str) -> None:
        self.folder = folder
        self.settings = settings  # of ServerApp
        self.backend = BackendProcess(home or folder / "home")
        self.url = ""
        self.http = httpx.Client()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Home:
        return self.backend.home

    def start(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}{PREFIX}"
        root = self.folder / "root"
        root.mkdir(parents=True)
        settings = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": port,
            "ServerApp.port_retries": 0,
            "ServerApp.base_url": PREFIX,
            "ServerApp.root_dir": root,
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
            "ServerApp.log_level": "DEBUG",  # so that what must not be logged would be
            "ServerApp.jpserver_extensions": "{'nbgpu_lab': True}",
            "IdentityProvider.token": TOKEN,
            **{f"ServerApp.{name}": value for name, value in self.settings.items()},
        }
        own = {"HOME": str(self.folder)}  # Jupyter writes its root with ~ then
        own |= {f"JUPYTER_{kind}_DIR": str(self.folder / kind) for kind in ("CONFIG", "RUNTIME", "DATA")}  # fmt: skip
        with open(self.folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_server", *(f"--{k}={v}" for k, v in settings.items())],
                env={**self.backend.environment, **own},
                stdout=log,
                stderr=log,
            )  # fmt: skip
        self.http = self.client({"Authorization": f"token {TOKEN}"})
        until(self._answers, within=30)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self.log()
        try:
            return self.http.get("api").status_code == 200
        except httpx.TransportError:
            return False

    def client(self, headers: dict[str, str] | None = None) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    def api(self, path: str) -> Any:
        """The JSON of the backend's `path`, by way of the extension."""
        answer = self.http.get("nbgpu/api/" + path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def deploy(self, name: str, *arguments: str) -> httpx.Response:
        """The tiny upstream with its `arguments`, by way of the extension."""
        body = {"name": name, "nbgpu": {"engine": command_engine(*arguments)}}
        return self.http.post("nbgpu/api/v2/serverless", json=body)

    @asynccontextmanager
    async def bus(self, token: str = TOKEN) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Jupyter's event bus, as a browser holds it."""
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"token {token}"}) as session,
            session.ws_connect(URL(self.url + "api/events/subscribe", encoded=True)) as socket,
        ):
            yield socket

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        self.http.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
        if os.access(self.home.backend_json, os.R_OK):
            self.backend.shutdown(everything=True)
