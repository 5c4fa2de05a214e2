"""`/nbgpu/v1/pods/{pod}/…`: what is inside a pod, by way of its agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, StreamingResponse

from nbgpu_backend.control.core import Core
from nbgpu_backend.control.pod_agent import Talk
from nbgpu_backend.control.pod_views import pod_view, with_sockets
from nbgpu_backend.errors import BadRequest, NbgpuError
from nbgpu_backend.schema.pods import (
    CreateRun,
    Extend,
    FileInfo,
    FileList,
    Input,
    KeptThere,
    Kernel,
    KernelAction,
    OpenPort,
    Pod,
    Port,
    Run,
    RunList,
    Sent,
    Wanted,
)

KERNEL_S = 75.0  # the agent itself gives a kernel 60 s
TRANSFER_S = 600.0  # between the last byte and the answer: a large file is hashed
OCTETS, LINES = "application/octet-stream", "application/x-ndjson"


def routes(core: Core) -> APIRouter:
    router = APIRouter(prefix="/nbgpu/v1/pods/{pod}", tags=["pods"])
    services, pods = core.services, core.pods

    @router.get("/kernel")
    async def get_kernel(pod: str) -> Kernel:
        control = pods.get(pod)
        return with_sockets(await control.require().ask("status"), control)

    @router.post("/kernel")
    async def act_on_kernel(pod: str, wanted: KernelAction) -> Kernel:
        control = pods.get(pod)
        said = await control.require().ask(
            "kernel", action=wanted.action, signum=wanted.signum, timeout_s=KERNEL_S
        )
        return with_sockets(said, control)

    @router.post("/runs")
    async def run(pod: str, wanted: CreateRun) -> Run:
        """The same id twice is one run."""
        said = (
            await pods.get(pod)
            .require()
            .ask(
                "run",
                id=wanted.id or "run-" + secrets.token_hex(8),
                code=wanted.code,
                label=wanted.label,
                store_history=wanted.store_history,
                by="run",
                timeout_s=KERNEL_S,
            )
        )
        return Run(**said["run"])

    @router.get("/runs")
    async def list_runs(pod: str) -> RunList:
        return RunList(**await pods.get(pod).require().ask("runs"))

    @router.get("/output")
    async def output(
        pod: str, since: int = 0, run: str | None = None, follow: bool = True
    ) -> StreamingResponse:
        """Lines of JSON, each with its number; empty ones while nothing comes."""
        agent = pods.get(pod).require()
        talk = await agent.stream("output", since=since, run=run, follow=follow)
        return StreamingResponse(_passed(talk), media_type=LINES)

    @router.post("/input", status_code=204)
    async def give_input(pod: str, given: Input) -> None:
        await pods.get(pod).require().ask("input", run=given.run, value=given.value)

    @router.get("/files")
    async def list_files(pod: str, path: str = ".", recursive: bool = False) -> FileList:
        said = (
            await pods.get(pod)
            .require()
            .ask("list", path=path, recursive=recursive, timeout_s=TRANSFER_S)
        )
        return FileList(**said)

    @router.get("/stat")
    async def stat(pod: str, path: str, hash: bool = False) -> FileInfo:
        said = await pods.get(pod).require().ask("stat", path=path, hash=hash, timeout_s=TRANSFER_S)
        return FileInfo(**said)

    @router.post("/folder")
    async def make_folder(pod: str, path: str) -> FileInfo:
        return FileInfo(**await pods.get(pod).require().ask("mkdir", path=path))

    @router.get("/file")
    async def get_file(pod: str, path: str, offset: int = Query(0, ge=0)) -> StreamingResponse:
        talk = await pods.get(pod).require().open("get", path=path, offset=offset)
        head, size = talk.head, int(talk.head["size"])
        return StreamingResponse(
            _passed(talk, size - offset),
            media_type=OCTETS,
            headers={
                "X-Nbgpu-Size": str(size),
                "X-Nbgpu-Mode": str(head["mode"]),
                "X-Nbgpu-Mtime-Us": str(head["mtime_us"]),
                "Content-Length": str(max(0, size - offset)),
            },
        )

    @router.put("/file")
    async def put_file(
        pod: str,
        request: Request,
        path: str,
        size: int = Query(ge=0),
        offset: int = Query(0, ge=0),
        mode: int = 0o644,
        sha256: str | None = None,
    ) -> FileInfo:
        talk = await pods.get(pod).require().upload(
            "put", _exactly(request, size - offset), path=path, size=size, offset=offset, mode=mode,
            sha256=sha256, timeout_s=TRANSFER_S,
        )  # fmt: skip
        talk.close()
        return FileInfo(**talk.head)

    @router.post("/send")
    async def send(pod: str, request: Request, names: str) -> Sent:
        size = int(request.headers.get("content-length") or -1)
        if size < 0:
            raise BadRequest("A parcel needs its length.", "Send it with Content-Length.")
        listed = [name for name in names.split(",") if name]
        talk = (
            await pods.get(pod)
            .require()
            .upload("send", _exactly(request, size), names=listed, size=size, timeout_s=TRANSFER_S)
        )
        talk.close()
        return Sent(**talk.head)

    @router.post("/get", response_model=None)
    async def get_value(pod: str, wanted: Wanted) -> Response:
        """A parcel; or, where it stays in the pod, JSON that says why."""
        talk = (
            await pods.get(pod)
            .require()
            .open("fetch", name=wanted.name, limit=wanted.limit, timeout_s=TRANSFER_S)
        )
        head = talk.head
        if head["kept"]:
            talk.close()
            kept = KeptThere(**{k: head.get(k) for k in ("name", "type", "size", "text")})
            return JSONResponse(kept.wire())
        return StreamingResponse(
            _passed(talk, int(head["size"])),
            media_type=OCTETS,
            headers={"X-Nbgpu-Size": str(head["size"]), "X-Nbgpu-Type": _ascii(head["type"])},
        )

    @router.post("/ports")
    async def open_port(pod: str, wanted: OpenPort) -> Port:
        """The same port twice has one way in."""
        control = pods.get(pod)
        control.require()
        return await control.ports.open(wanted.port)

    @router.get("/ports")
    async def list_ports(pod: str) -> dict[str, list[Any]]:
        return {"ports": [port.wire() for port in pods.get(pod).ports.all()]}

    @router.post("/extend")
    async def extend(pod: str, wanted: Extend) -> Pod:
        control = pods.get(pod)
        await pods.extend(control, wanted.seconds)
        return pod_view(control, pods, services)

    @router.websocket("/terminal")
    async def terminal(socket: WebSocket, pod: str, rows: int = 24, cols: int = 80) -> None:
        """Text messages of the client are lines of the agent's `terminal`; binary ones come back."""
        await socket.accept()
        try:
            talk = await pods.get(pod).require().open("terminal", rows=rows, cols=cols)
        except NbgpuError as error:
            await socket.send_text(json.dumps({"error": str(error)}))
            await socket.close(1011)
            return
        await _terminal(socket, talk)

    return router


async def _passed(talk: Talk, size: int | None = None) -> AsyncIterator[bytes]:
    try:
        async for chunk in talk.chunks(size):
            yield chunk
    finally:
        talk.close()


async def _exactly(request: Request, size: int) -> AsyncIterator[bytes]:
    """The body, which must have so many bytes. Raises BadRequest once it has others."""
    left = size
    async for chunk in request.stream():
        left -= len(chunk)
        if left < 0:
            raise BadRequest(f"The body is longer than {size} bytes.", "Correct size and offset.")
        if chunk:
            yield chunk
    if left:
        raise BadRequest(f"The body is {left} bytes short.", "Send the rest with its offset.")


async def _terminal(socket: WebSocket, talk: Talk) -> None:
    async def up() -> None:
        with contextlib.suppress(WebSocketDisconnect, OSError):
            while True:
                text = await socket.receive_text()
                talk.writer.write(text.replace("\n", "\\n").encode() + b"\n")
                await talk.writer.drain()

    async def down() -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while chunk := await talk.reader.read(65_536):
                await socket.send_bytes(chunk)

    tasks = [asyncio.create_task(up()), asyncio.create_task(down())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        talk.close()
        with contextlib.suppress(RuntimeError):
            await socket.close()


def _ascii(text: str) -> str:
    return str(text).encode("ascii", "replace").decode()
