"""The pods of the stand-in backend: its HTTP as clients know it, over a real ipykernel for each pod.

Pods named `slow…` are prepared for ever, `broken…` fail. Files lie in the pod's folder; terminals echo.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from nbgpu_backend.schema import parcel
from nbgpu_backend.schema.common import Reason
from nbgpu_backend.schema.endpoints import Change, Place
from nbgpu_backend.schema.pods import (
    CreatePod,
    FileInfo,
    FileList,
    KeptThere,
    Kernel,
    KernelConnection,
    Mounts,
    Output,
    Pod,
    PodCpu,
    PodRow,
    PodState,
    PodUse,
    Port,
    Preparation,
    Run,
    RunList,
    Sent,
    Volume,
    VolumeExtras,
    VolumeList,
)
from nbgpu_backend.schema.secrets import Secret, SecretList

if TYPE_CHECKING:
    from tests.support.api import Api

KINDS = ("stream", "display_data", "update_display_data", "execute_result", "error", "clear_output",
         "execute_input")  # fmt: skip
PORTS = ("shell", "iopub", "stdin", "control", "hb")
NEVER = 1 << 62


def now_us() -> int:
    return time.time_ns() // 1000


@dataclass(eq=False)
class StandIn:
    """One pod, its kernel and what that has put out."""

    data: Pod
    folder: Path
    asked: CreatePod
    generation: int = 0
    starts: int = 0
    manager: Any = None
    client: Any = None
    outputs: list[Output] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    queue: asyncio.Queue[tuple[Run, str]] = field(default_factory=asyncio.Queue)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    prompt: bool = False
    key: bytes = b"a-key-that-stays"

    @property
    def n(self) -> PodState:
        return self.data.nbgpu

    async def kernel(self, *, fresh: bool = False) -> None:
        """One that answers; a new one with `fresh`, on the same sockets."""
        async with self.lock:
            if self.manager is not None and not fresh and await self.manager.is_alive():
                return
            if self.manager is None:
                run = self.folder / "run"
                run.mkdir(parents=True, exist_ok=True)
                self.manager = AsyncKernelManager(
                    kernel_name="python3", transport="ipc", ip=str(run / "k"),
                    connection_file=str(self.folder / "k.json"),
                )  # fmt: skip
                self.manager.session.key = self.key
                for number, name in enumerate(PORTS, 1):
                    setattr(self.manager, f"{name}_port", number)
                await self.manager.start_kernel(cwd=self.n.workspace)
            else:
                await self.manager.restart_kernel(now=True)
            self.generation += 1
            if self.client is not None:
                self.client.stop_channels()
            self.client = AsyncKernelClient()
            self.client.load_connection_info(self.manager.get_connection_info())
            self.client.start_channels()
            while True:
                try:
                    await self.client.wait_for_ready(timeout=60)
                    break
                except (
                    RuntimeError
                ):  # a heartbeat that is late, on a busy machine, is taken for its death
                    if not await self.manager.is_alive():
                        raise
        if not self.tasks:
            self.tasks.append(asyncio.create_task(self.work()))

    def put(self, run: str, kind: str, content: dict[str, Any] | None = None, **more: Any) -> None:
        n = len(self.outputs) + 1
        self.outputs.append(
            Output(n=n, run=run, at_us=now_us(), type=kind, content=content or {}, **more)
        )
        self.changed.set()
        self.changed = asyncio.Event()

    async def work(self) -> None:
        """Runs what is queued, one after the other, as the pod's inside does."""
        while True:
            run, code = await self.queue.get()
            run.state, run.began_us, began = "running", now_us(), time.monotonic()
            self.put(run.id, "run_started")
            client = self.client
            wanted = client.execute(code, allow_stdin=True)
            asking = asyncio.create_task(self.stdin(run.id))
            status = "ok"
            while True:
                message = await client.get_iopub_msg()
                if message["parent_header"].get("msg_id") != wanted:
                    continue
                kind, content = message["msg_type"], message["content"]
                if kind == "error":
                    stopped = content["ename"] == "KeyboardInterrupt"
                    status = "interrupted" if stopped else "error"
                if kind in KINDS:
                    self.put(run.id, kind, content, metadata=message["metadata"])
                if kind == "status" and content["execution_state"] == "idle":
                    break
            asking.cancel()
            run.state, run.ended_us = status, now_us()  # type: ignore[assignment]
            took = time.monotonic() - began
            self.put(run.id, "run_ended", {"status": status, "seconds": took})

    async def stdin(self, run: str) -> None:
        while True:
            message = await self.client.get_stdin_msg()
            self.prompt = True
            self.put(run, "input_request", message["content"])

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks = []
        if self.client is not None:
            self.client.stop_channels()
            self.client = None
        if self.manager is not None and self.manager.has_kernel:
            await self.manager.shutdown_kernel(now=True)
        self.manager = None

    async def state(self) -> Kernel:
        alive = self.manager is not None and await self.manager.is_alive()
        found = Kernel(state="idle" if alive else "dead" if self.generation else "none",
                       generation=self.generation, instance=f"p-{self.starts}")  # fmt: skip
        if alive:
            info = self.manager.get_connection_info()
            found.connection = KernelConnection(
                ip=info["ip"], key=info["key"].decode(),
                **{f"{name}_port": info[f"{name}_port"] for name in PORTS},
            )  # fmt: skip
        return found


class Pods:
    """`pods` are by name. `cut_after` breaks the next output stream after so many pieces; `break_file` the
    next transfer after so many bytes."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.pods: dict[str, StandIn] = {}
        self.volumes: dict[str, Volume] = {}
        self.secrets: dict[str, str] = {}
        self.cut_after: list[int] = []
        self.break_file: list[int] = []
        self.typed: list[Any] = []
        self.listeners: list[web.Request] = []
        self.deleted: list[tuple[str, dict[str, str]]] = []

    def routes(self, add: Any) -> None:
        ours = "/nbgpu/v1/pods/{p}"
        add("POST", "/v2/pods", self.create)
        add("GET", "/v2/pods/{p}", self.show)
        add("DELETE", "/v2/pods/{p}", self.delete)
        add("POST", "/v2/pods/{p}/action", self.action)
        add("GET", ours + "/kernel", self.kernel)
        add("POST", ours + "/kernel", self.kernel_action)
        add("POST", ours + "/runs", self.run)
        add("GET", ours + "/runs", self.list_runs)
        add("GET", ours + "/output", self.output)
        add("POST", ours + "/input", self.input)
        add("GET", ours + "/stat", self.stat)
        add("GET", ours + "/files", self.files)
        add("GET", ours + "/file", self.read)
        add("PUT", ours + "/file", self.write)
        add("POST", ours + "/send", self.send)
        add("POST", ours + "/get", self.fetch)
        add("POST", ours + "/ports", self.port)
        add("POST", ours + "/extend", self.extend)
        add("GET", ours + "/terminal", self.terminal)
        add("POST", "/nbgpu/v1/stop-all", self.stop_all)
        add("GET", "/v2/network-volumes", self.list_volumes)
        add("POST", "/v2/network-volumes", self.add_volume)
        add("DELETE", "/v2/network-volumes/{v}", self.remove_volume)
        add("GET", "/nbgpu/v1/secrets", self.list_secrets)
        add("PUT", "/nbgpu/v1/secrets/{s}", self.set_secret)
        add("DELETE", "/nbgpu/v1/secrets/{s}", self.remove_secret)

    async def end(self) -> None:
        for pod in self.pods.values():
            await pod.end()

    def find(self, name: str) -> StandIn | None:
        return next((p for p in self.pods.values() if name in (p.data.name, p.data.id)), None)

    def of(self, request: web.Request) -> StandIn:
        found = self.find(request.match_info["p"])
        assert found is not None
        return found

    # life

    async def create(self, request: web.Request) -> web.Response:
        asked = CreatePod.model_validate(await request.json())
        had = self.pods.get(asked.name)
        if had is None:
            made = self.pods[asked.name] = self.made(asked)
            shown = made.data.model_copy(deep=True)
            shown.nbgpu.outcome = "created"
            return web.json_response(shown.wire(), status=201)
        shown = had.data.model_copy(deep=True)
        shown.nbgpu.outcome = "attached"
        before, after = had.n.limits.wire(), asked.nbgpu.limits.wire()
        if before != after:
            shown.nbgpu.outcome = "changed"
            shown.nbgpu.changes = [Change(field=f"limits.{key}", old=before[key], new=after[key])
                                   for key in after if before[key] != after[key]]  # fmt: skip
            had.n.limits = shown.nbgpu.limits = asked.nbgpu.limits
        return web.json_response(shown.wire())

    def made(self, asked: CreatePod) -> StandIn:
        folder = self.api.home.root / "pods" / f"pod-{asked.name}"
        (folder / "work").mkdir(parents=True)
        reason = Reason(code="preparing", text="Its environment is made.", since_us=now_us())
        cpu = PodCpu(id="cpu", vcpu_count=asked.cpu.vcpu_count if asked.cpu else 1, memory=8)
        data = Pod(
            id=f"pod-{asked.name}", name=asked.name, status="PROVISIONING", actions=["stop"],
            image=None, args=None, disk=None, env=asked.env, ports=asked.ports, mounts=Mounts(),
            cpu=cpu, data_center_id=None, cost=0.36, runtime=None, created_at="", started_at=None,
            nbgpu=PodState(
                state="preparing", reason=reason, place=Place(), isolation="bubblewrap",
                isolation_text="bubblewrap: a home of its own <and> processes of its own",
                network=asked.nbgpu.network, limits=asked.nbgpu.limits,
                requirements=asked.nbgpu.requirements, secrets=asked.nbgpu.secrets,
                before_stop=asked.nbgpu.before_stop, volume_id="vol-1",
                volume_name=asked.nbgpu.volume, workspace=str(folder / "work"),
                preparation=Preparation(state="running", text="installing packages (1 of 3)"),
                kernel=None, kernelspec=f"nbgpu-{asked.name}", run=None, active_us=now_us(),
                stops_at_us=None, use=PodUse(memory_bytes=50_000_000, processes=3),
                rate_per_hour="0.36", rate_source="set by hand", cost_so_far="0.41",
                origin=asked.nbgpu.origin, tags={}, version=1, created_us=now_us(),
                started_us=now_us(),
            ),
        )  # fmt: skip
        return StandIn(data, folder, asked)

    def up(self, pod: StandIn) -> None:
        pod.starts += 1
        pod.data.status = "RUNNING"
        pod.n.state, pod.n.preparation.state = "idle", "done"
        pod.n.reason = Reason(code="idle", text="Nothing runs in it.", since_us=now_us())
        if pod.n.limits.idle_stop_s is not None:
            pod.n.stops_at_us = now_us() + pod.n.limits.idle_stop_s * 1_000_000
            pod.n.stops_why = "idle stop"

    async def show(self, request: web.Request) -> web.Response:
        pod = self.of(request)
        self.api.polls += 1
        if pod.n.state == "preparing":
            if pod.data.name.startswith("broken"):
                pod.n.state, pod.n.preparation.state = "failed", "failed"
                pod.n.preparation.error = "pip could not install nonsense."
                pod.n.tail = ["ERROR: No matching distribution"]
            elif not pod.data.name.startswith("slow"):
                self.up(pod)
        return web.json_response(pod.data.wire())

    async def delete(self, request: web.Request) -> web.Response:
        pod = self.of(request)
        await pod.end()
        del self.pods[pod.data.name]
        self.deleted.append((pod.data.name, dict(request.query)))
        return web.Response(status=204)

    async def action(self, request: web.Request) -> web.Response:
        pod, action = self.of(request), (await request.json())["action"]
        if action == "start":
            self.up(pod)
        else:
            await self.stop(pod)
        return web.json_response(pod.data.wire())

    async def stop(self, pod: StandIn, text: str = "You stopped it.") -> None:
        await pod.end()
        pod.data.status, pod.n.state = "EXITED", "stopped"
        pod.n.reason = Reason(code="stopped", text=text, since_us=now_us())

    async def cut_off(self, pod: StandIn) -> None:
        """It ends without a word to whoever listens, as where its memory was too little."""
        await self.stop(pod, "It used too much memory.")
        for request in self.listeners:
            if request.transport is not None:
                request.transport.abort()

    async def stop_all(self, _: web.Request) -> web.Response:
        names = [*self.pods, *self.api.endpoints]
        for pod in self.pods.values():
            await self.stop(pod)
        return web.json_response({"stopped": names})

    async def extend(self, request: web.Request) -> web.Response:
        pod = self.of(request)
        pod.n.stops_at_us = now_us() + (await request.json())["seconds"] * 1_000_000
        return web.json_response(pod.data.wire())

    def rows(self) -> list[PodRow]:
        return [
            PodRow(
                id=p.data.id, name=p.data.name, state=p.n.state, status=p.data.status,
                reason=p.n.reason.text, reason_since_us=p.n.reason.since_us, on="local", gpu=None,
                cpu=1, isolation=p.n.isolation, kernel="none", kernelspec=p.n.kernelspec, use=p.n.use,
                rate_per_hour="0.36", cost_so_far="0.41", idle_but_billing=False,
                active_us=p.n.active_us, stops_at_us=p.n.stops_at_us, stops_why=p.n.stops_why,
                volume_name=p.n.volume_name, origin=p.n.origin.notebook, created_us=p.n.created_us,
                started_us=p.n.started_us,
            )
            for p in self.pods.values()
        ]  # fmt: skip

    # kernel

    def refused(self, pod: StandIn) -> web.Response | None:
        from tests.support.api import problem

        if pod.n.state in ("idle", "busy"):
            return None
        return problem(
            503, "pod_stopped", f"{pod.data.name} does not run: {pod.n.reason.text}",
            f"Start it with: %gpu start {pod.data.name}",
        )  # fmt: skip

    async def kernel(self, request: web.Request) -> web.Response:
        pod = self.of(request)
        return self.refused(pod) or web.json_response((await pod.state()).wire())

    async def kernel_action(self, request: web.Request) -> web.Response:
        pod, body = self.of(request), await request.json()
        if (refused := self.refused(pod)) is not None:
            return refused
        match body["action"]:
            case "start":
                await pod.kernel()
            case "restart":
                await pod.kernel(fresh=True)
            case "interrupt":
                await pod.manager.interrupt_kernel()
            case "signal":
                await pod.manager.signal_kernel(body["signum"])
            case "stop":
                await pod.end()
        return web.json_response((await pod.state()).wire())

    # runs

    async def run(self, request: web.Request) -> web.Response:
        pod, body = self.of(request), await request.json()
        if (refused := self.refused(pod)) is not None:
            return refused
        await pod.kernel()
        run = Run(id=body["id"], n=len(pod.outputs) + 1, label=body.get("label", ""), state="queued",
                  asked_us=now_us(), began_us=None, ended_us=None, by="run")  # fmt: skip
        pod.runs.append(run)
        pod.queue.put_nowait((run, body["code"]))
        return web.json_response(run.wire())

    async def list_runs(self, request: web.Request) -> web.Response:
        return web.json_response(RunList(runs=self.of(request).runs).wire())

    async def output(self, request: web.Request) -> web.StreamResponse:
        pod = self.of(request)
        since, run = int(request.query.get("since", 0)), request.query.get("run")
        follow = request.query.get("follow") == "true"
        if (refused := self.refused(pod)) is not None:
            return refused
        self.listeners.append(request)
        cut = self.cut_after.pop(0) if self.cut_after and follow else NEVER
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async for item in self.items(pod, since, run, follow):
            if cut == 0:
                assert request.transport is not None
                request.transport.abort()
                return response
            cut -= 1
            await response.write(json.dumps(item.wire()).encode() + b"\n")
        return response

    async def items(
        self, pod: StandIn, since: int, run: str | None, follow: bool
    ) -> AsyncIterator[Output]:
        position = 0
        while True:
            changed = pod.changed
            while position < len(pod.outputs):
                item = pod.outputs[position]
                position += 1
                if item.n > since and run in (None, item.run):
                    yield item
                    if run is not None and item.type == "run_ended":
                        return
            if not follow:
                return
            await changed.wait()

    async def input(self, request: web.Request) -> web.Response:
        from tests.support.api import problem

        pod = self.of(request)
        if not pod.prompt:
            return problem(409, "conflict", "Nothing is asked for.")
        pod.prompt = False
        pod.client.input((await request.json())["value"])
        return web.json_response({})

    # values

    async def send(self, request: web.Request) -> web.Response:
        pod = self.of(request)
        await pod.kernel()
        file = pod.folder / "parcel"
        file.write_bytes(await request.read())
        names = request.query["names"].split(",")
        await self.quietly(
            pod,
            "from nbgpu_backend.schema import parcel as _p\n"
            f"globals().update(_p.unpack(open({str(file)!r}, 'rb').read()))",
        )
        return web.json_response(Sent(names=names, size=file.stat().st_size).wire())

    async def fetch(self, request: web.Request) -> web.Response:
        pod, body = self.of(request), await request.json()
        await pod.kernel()
        file = pod.folder / "parcel"
        await self.quietly(
            pod,
            "from nbgpu_backend.schema import parcel as _p\n"
            f"open({str(file)!r}, 'wb').write(b''.join(_p.pack({{{body['name']!r}: {body['name']}}})))",
        )
        data = file.read_bytes()
        if len(data) > body["limit"]:
            kept = KeptThere(name=body["name"], type="bytes", size=len(data),
                             text=f"{body['name']} is {len(data)} B, still on the pod as {body['name']}")  # fmt: skip
            return web.json_response(kept.wire())
        assert parcel.unpack(data)
        head = {"X-Nbgpu-Type": "x", "X-Nbgpu-Size": str(len(data))}
        return web.Response(body=data, content_type="application/octet-stream", headers=head)

    async def quietly(self, pod: StandIn, code: str) -> None:
        client = AsyncKernelClient()
        client.load_connection_info(pod.manager.get_connection_info())
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=60)
            reply = await client.execute(code, silent=True, reply=True, timeout=60)
            assert reply["content"]["status"] == "ok", reply["content"]
        finally:
            client.stop_channels()

    # files

    def info(self, pod: StandIn, path: str, *, digest: bool = False) -> FileInfo:
        here = Path(pod.n.workspace) / path
        half = here.with_name(f".{here.name}.part")
        part = half.stat().st_size if half.exists() else 0
        if not here.exists():
            return FileInfo(path=path, exists=False, part=part)
        sha = hashlib.sha256(here.read_bytes()).hexdigest() if digest and here.is_file() else None
        status = here.stat()
        return FileInfo(path=path, exists=True, folder=here.is_dir(), size=status.st_size,
                        mode=status.st_mode & 0o777, mtime_us=1, sha256=sha, part=part)  # fmt: skip

    async def stat(self, request: web.Request) -> web.Response:
        digest = request.query.get("hash") == "true"
        return web.json_response(
            self.info(self.of(request), request.query["path"], digest=digest).wire()
        )

    async def files(self, request: web.Request) -> web.Response:
        pod = self.of(request)
        root = Path(pod.n.workspace)
        found = sorted((root / request.query["path"]).rglob("*"))
        infos = [self.info(pod, p.relative_to(root).as_posix()) for p in found]
        return web.json_response(FileList(files=infos).wire())

    async def read(self, request: web.Request) -> web.StreamResponse:
        here = Path(self.of(request).n.workspace) / request.query["path"]
        data = here.read_bytes()[int(request.query["offset"]) :]
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        if self.break_file:
            await response.write(data[: self.break_file.pop(0)])
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(data)
        return response

    async def write(self, request: web.Request) -> web.Response:
        from tests.support.api import problem

        pod, query = self.of(request), request.query
        here = Path(pod.n.workspace) / query["path"]
        here.parent.mkdir(parents=True, exist_ok=True)
        half = here.with_name(f".{here.name}.part")
        offset = int(query["offset"])
        if offset != (half.stat().st_size if half.exists() else 0):
            return problem(409, "conflict", "The part is of another size.")
        left = self.break_file.pop(0) if self.break_file else NEVER
        with half.open("ab") as file:
            async for piece in request.content.iter_any():
                file.write(piece[:left])
                left -= len(piece)
                if left <= 0:
                    file.flush()
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
        if hashlib.sha256(half.read_bytes()).hexdigest() != query["sha256"]:
            half.unlink()
            return problem(400, "bad_request", "The hash is another one.")
        half.chmod(int(query["mode"]))
        half.replace(here)
        return web.json_response(self.info(pod, query["path"]).wire())

    # ports, terminals, volumes, secrets

    async def port(self, request: web.Request) -> web.Response:
        number = (await request.json())["port"]
        return web.json_response(
            Port(port=number, local_port=41000, url="http://127.0.0.1:41000/").wire()
        )

    async def terminal(self, request: web.Request) -> web.WebSocketResponse:
        """Echoes what is typed, and ends at `exit`."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.typed.append(dict(request.query))
        async for message in socket:
            told = json.loads(message.data)
            self.typed.append(told)
            await socket.send_bytes(f"<{told.get('in', '')}>".encode())
            if "exit" in told.get("in", ""):
                break
        await socket.close()
        return socket

    async def list_volumes(self, _: web.Request) -> web.Response:
        return web.json_response(VolumeList(network_volumes=list(self.volumes.values())).wire())

    async def add_volume(self, request: web.Request) -> web.Response:
        body = await request.json()
        extras = VolumeExtras(path="/v", pods=[], created_us=now_us(), bytes_used=1200)
        made = Volume(id=f"vol-{body['name']}", name=body["name"], size=body.get("size", 20),
                      data_center="local", type="STANDARD", nbgpu=extras)  # fmt: skip
        self.volumes[made.id] = made
        return web.json_response(made.wire(), status=201)

    async def remove_volume(self, request: web.Request) -> web.Response:
        del self.volumes[request.match_info["v"]]
        return web.Response(status=204)

    async def list_secrets(self, _: web.Request) -> web.Response:
        found = [Secret(name=name, changed_us=now_us()) for name in self.secrets]
        return web.json_response(SecretList(secrets=found).wire())

    async def set_secret(self, request: web.Request) -> web.Response:
        name = request.match_info["s"]
        self.secrets[name] = (await request.json())["value"]
        return web.json_response(Secret(name=name, changed_us=now_us()).wire())

    async def remove_secret(self, request: web.Request) -> web.Response:
        del self.secrets[request.match_info["s"]]
        return web.Response(status=204)
