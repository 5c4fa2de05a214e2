"""A relay as a process, both of its neighbours, and the real `runpod` package as the handler."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import nbgpu_backend
import pytest
from nbgpu_backend.providers.base import Frame
from nbgpu_backend.providers.local.relay_client import RelayClient
from nbgpu_backend.providers.local.shim_client import NoAnswer

RELAY = Path(nbgpu_backend.__file__).with_name("relay.py")
# the interpreter of the relays that tests start by hand: any from 3.8 on
PYTHON = os.environ.get("NBGPU_TEST_RELAY_PYTHON", sys.executable)
PATH = "/usr/local/bin:/usr/bin:/bin"
# a handler that only tells what it was given
IDLE = ["sh", "-c", "env > env.tmp && mv env.tmp env && exec sleep 1000"]
RUNPOD = "1.12.0"


def argv(handler: list[str], cwd: Path, python: str = PYTHON, lease_s: float = 900.0) -> list[str]:
    start = [python, "-I", "-S", "-E", str(RELAY), "--endpoint", "ep", "--worker", "w1"]
    return [*start, "--cwd", str(cwd), "--lease", str(lease_s), "--", *handler]


async def connect(folder: Path) -> RelayClient:
    """The client, once the relay listens."""
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(NoAnswer):
                return await RelayClient.connect(folder)
            await asyncio.sleep(0.005)


class Backend:
    """The backend's end, frame by frame. It acknowledges nothing by itself."""

    def __init__(self, client: RelayClient) -> None:
        self.client = client
        self.frames = client.frames()

    async def next(self, *ops: str, within: float = 15.0) -> Frame:
        """The next frame; with `ops`, the next of these, what comes between being left out."""
        async with asyncio.timeout(within):
            async for frame in self.frames:
                if not ops or frame.op in ops:
                    return frame
        raise EOFError("the relay is gone")

    async def give(self, *jobs: tuple[str, bytes]) -> Frame:
        """Answer the next want and return what the relay says to it."""
        want = await self.next("want")
        self.client.jobs(want.header["poll"], jobs)
        return await self.next("took", "returned")

    async def ended(self) -> bool:
        try:
            while True:
                await self.next()
        except EOFError:
            return True


class Stand:
    """A relay that a test started by hand, and the handler's side of it in plain HTTP."""

    def __init__(self, folder: Path, handler: list[str], **env: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.log = (folder / "log").open("ab")
        self.process = subprocess.Popen(
            argv(handler, folder),
            cwd=folder,
            env={"PATH": PATH, **env},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self._backends: list[RelayClient] = []
        self._session: aiohttp.ClientSession | None = None

    async def backend(self) -> Backend:
        client = await connect(self.folder)
        self._backends.append(client)
        return Backend(client)

    async def env(self) -> dict[str, str]:
        """What IDLE was given."""
        path = self.folder / "env"
        async with asyncio.timeout(15):
            while not path.exists():
                await asyncio.sleep(0.005)
        rows = (line.split("=", 1) for line in path.read_text().splitlines())
        return {row[0]: row[1] for row in rows}

    async def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            key = (await self.env())["RUNPOD_AI_API_KEY"]
            self._session = aiohttp.ClientSession(
                headers={"Authorization": key}, connector=aiohttp.TCPConnector(limit=0)
            )
        return self._session

    async def url(self, route: str, job: str = "") -> str:
        """As the real package makes it from the environment."""
        env = await self.env()
        if route in ("job-done", "job-stream"):
            name = "OUTPUT" if route == "job-done" else "STREAM"
            template = env[f"RUNPOD_WEBHOOK_POST_{name}"].replace("$RUNPOD_POD_ID", "w1")
            return template.replace("$ID", job) + "&isStream=false"
        if route == "ping":
            return env["RUNPOD_WEBHOOK_PING"].replace("$RUNPOD_POD_ID", "w1")
        template = env["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", "w1")
        return template.replace("/job-take/", f"/{route}/")

    async def take(self, slots: int = 1, busy: bool = False) -> tuple[int, Any]:
        """(status, the JSON answered or None)"""
        url = await self.url("job-take-batch" if slots > 1 else "job-take")
        url += f"&batch_size={slots}" if slots > 1 else ""
        return await self.get(f"{url}&job_in_progress={int(busy)}")

    async def get(self, url: str) -> tuple[int, Any]:
        async with (await self.session()).get(url) as answer:
            return answer.status, await answer.json() if answer.status == 200 else None

    async def post(self, job: str, body: bytes, route: str = "job-done", **kw: Any) -> int:
        async with (await self.session()).post(
            await self.url(route, job), data=body, **kw
        ) as answer:
            return answer.status

    async def port(self) -> int:
        return int((await self.env())["RUNPOD_WEBHOOK_PING"].split(":")[2].split("/")[0])

    async def socket(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A plain connection to the HTTP side."""
        return await asyncio.open_connection("127.0.0.1", await self.port())

    async def backend_socket(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A plain connection to the backend's side."""
        await self.env()
        await (await self.backend()).next("hello")  # it listens
        fd = os.open(self.folder, os.O_PATH)
        try:
            return await asyncio.open_unix_connection(f"/proc/self/fd/{fd}/relay.sock")
        finally:
            os.close(fd)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    async def code(self, within: float = 15.0) -> int:
        """How the relay ended."""
        return await asyncio.to_thread(self.process.wait, within)

    async def close(self) -> None:
        for client in self._backends:
            client.close()
        if self._session is not None:
            await self._session.close()
        self.signal(signal.SIGKILL)
        await self.code()
        self.log.close()


@contextlib.asynccontextmanager
async def stand(folder: Path, handler: list[str] | None = None, **env: str) -> AsyncIterator[Stand]:
    made = Stand(folder, handler or IDLE, **env)
    try:
        yield made
    finally:
        await made.close()


def runpod_python() -> Path:
    """The interpreter of an environment with the real package, made once."""
    root = os.environ.get("NBGPU_ENGINES") or "~/.cache/nbgpu/engines"
    folder = Path(root).expanduser() / "tests" / f"runpod-{RUNPOD}"
    python = folder / "bin" / "python"
    if python.exists():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
        made = Path(scratch) / "env"
        steps = [
            [sys.executable, "-m", "venv", str(made)],
            [str(made / "bin" / "python"), "-m", "pip", "install", "-q", f"runpod=={RUNPOD}"],
        ]
        for step in steps:
            done = subprocess.run(step, capture_output=True, text=True, timeout=280, check=False)
            if done.returncode:
                pytest.skip(f"runpod {RUNPOD} cannot be installed: {done.stderr.strip()[-300:]}")
        # whole or not at all; only bin/python is used, and that may move
        with contextlib.suppress(OSError):  # another run was first
            made.rename(folder)
    return python


def rss(pid: int) -> int:
    """Bytes of memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{pid} has no memory")


async def soon(look: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The first true value of `look()`."""
    end = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < end, f"not within {seconds} s"
        await asyncio.sleep(0.01)
    return value
