"""A pod's agent as a process with a real kernel, in a folder of its own, and a client of its socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbgpu_backend

POD = Path(nbgpu_backend.__file__).parent / "pod"
PARCEL = Path(nbgpu_backend.__file__).parent / "schema" / "parcel.py"

# the pod's interpreter: any from 3.8 on that has ipykernel
PYTHON = os.environ.get("NBGPU_TEST_POD_PYTHON", sys.executable)

Json = dict[str, Any]


class Refused(Exception):
    def __init__(self, answer: Json) -> None:
        super().__init__(answer["error"])
        self.answer, self.kind = answer, answer["kind"]


def copy_agent(folder: Path) -> Path:
    """The agent's files as a pod gets them: flat, with the parcel beside them."""
    folder.mkdir(parents=True)
    for file in (*POD.glob("*.py"), PARCEL):
        shutil.copy(file, folder / file.name)
    return folder


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, value: Json) -> None:
        self.writer.write(json.dumps(value).encode() + b"\n")

    async def line(self, within: float = 60.0) -> Json:
        """The next line that is not empty, {} at the end. Raises Refused."""
        async with asyncio.timeout(within):
            while (line := await self.reader.readline()) == b"\n":
                pass
        value: Json = json.loads(line) if line else {}
        value.pop("now_us", None)  # the clock of an answer; what it is for is tested on hosts
        if "error" in value and "kind" in value:
            raise Refused(value)
        return value

    async def items(self, within: float = 60.0) -> AsyncIterator[Json]:
        while item := await self.line(within):
            yield item

    def close(self) -> None:
        self.writer.close()


class Pod:
    """One agent at a time on the folders of a pod."""

    def __init__(self, folder: Path, prefix: list[str] | None = None, **settings: Any) -> None:
        self.folder, self.prefix = folder, prefix or []
        self.run_dir, self.workspace, self.home = (
            folder / name for name in ("run", "workspace", "home")
        )
        for made in (self.run_dir, self.workspace, self.home):
            made.mkdir(parents=True, exist_ok=True)
        code = folder / "code"
        self.code = code if code.exists() else copy_agent(code)
        self.settings: Json = {
            "pod": "train",
            "id": "pod1",
            "run": str(self.run_dir),
            "workspace": str(self.workspace),
            "before_stop": None,
            "grace_s": 10,
            **settings,
        }
        self.env = {
            "PATH": f"{Path(PYTHON).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "NBGPU_AGENT": json.dumps(self.settings),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, PYTHON, str(self.code / "agent.py")],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def start(self) -> Pod:
        self.launch()
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    (await self.connect()).close()
                    return self
                assert self.process is not None and self.process.poll() is None, self.log()
                await asyncio.sleep(0.01)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    async def connect(self) -> Connection:
        fd = os.open(self.run_dir, os.O_PATH)
        try:
            path = f"/proc/self/fd/{fd}/agent"
            return Connection(*await asyncio.open_unix_connection(path, limit=64 << 20))
        finally:
            os.close(fd)

    async def open(self, op: str, body: bytes = b"", **request: Any) -> Connection:
        connection = await self.connect()
        connection.send({"op": op, **request})
        connection.writer.write(body)
        return connection

    async def ask(self, op: str, body: bytes = b"", **request: Any) -> Json:
        """The one answer. Raises Refused."""
        connection = await self.open(op, body, **request)
        try:
            return await connection.line(90)
        finally:
            connection.close()

    async def get(self, op: str, **request: Any) -> tuple[Json, bytes]:
        """An answer and the raw bytes after it."""
        connection = await self.open(op, **request)
        try:
            return await connection.line(), await connection.reader.read()
        finally:
            connection.close()

    async def kernel(self, action: str, **more: Any) -> Json:
        answer: Json = (await self.ask("kernel", action=action, **more))["kernel"]
        return answer

    async def run(self, name: str, code: str, **more: Any) -> Json:
        answer: Json = (await self.ask("run", id=name, code=code, **more))["run"]
        return answer

    async def output(
        self, since: int = 0, run: str | None = None, follow: bool = True
    ) -> list[Json]:
        """All items until the agent closes."""
        connection = await self.open("output", since=since, run=run, follow=follow)
        try:
            return [item async for item in connection.items()]
        finally:
            connection.close()

    async def done(self, name: str, code: str, **more: Any) -> list[Json]:
        """Run something to its end. -> its items"""
        await self.run(name, code, **more)
        return await self.output(run=name)

    async def runs(self) -> dict[str, Json]:
        return {run["id"]: run for run in (await self.ask("runs"))["runs"]}

    async def until(self, what: str, look: Any, within: float = 20.0) -> Any:
        """The first true value of `await look()`."""
        end = time.monotonic() + within
        while not (value := await look()):
            assert time.monotonic() < end, f"not within {within} s: {what}\n{self.log()}"
            await asyncio.sleep(0.02)
        return value

    async def code_of_exit(self, within: float = 20.0) -> int:
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, within)

    async def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            await self.code_of_exit()


def text_of(items: list[Json], name: str = "stdout") -> str:
    """What a run printed."""
    return "".join(
        item["content"]["text"]
        for item in items
        if item["type"] == "stream" and item["content"]["name"] == name
    )


def status_of(items: list[Json]) -> str:
    """How a run ended, by its last item."""
    assert items[-1]["type"] == "run_ended", items[-1]
    status: str = items[-1]["content"]["status"]
    return status


@contextlib.asynccontextmanager
async def pod(folder: Path, **settings: Any) -> AsyncIterator[Pod]:
    made = Pod(folder, **settings)
    try:
        yield await made.start()
    finally:
        await made.close()
