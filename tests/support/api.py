"""A small stand-in for the backend's HTTP side, for tests of the SDK and its faces.

It keeps endpoints in memory, in a thread of the test's process, and writes a backend.json, so that
clients find it as they find the real one. Models and handlers named `slow/…` are fetched for ever, `short/…` for a
moment, `broken/…` fail; an endpoint answers with what it was asked, word by word.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from nbgpu_backend import runtime
from nbgpu_backend.schema.common import Reason
from nbgpu_backend.schema.endpoints import (
    Change,
    CreateEndpoint,
    Endpoint,
    EndpointStatus,
    Fetch,
    ModelInfo,
    Phase,
    RequestUrls,
    UpdateEndpoint,
    Warm,
    Warmth,
    Worker,
    WorkerExtras,
)
from nbgpu_backend.schema.events import Event, EventList
from nbgpu_backend.schema.metrics import Columns, CostSeries
from nbgpu_backend.schema.summary import (
    EndpointRow,
    Health,
    LogLines,
    Settings,
    Summary,
    Why,
    WorkerRow,
)

from tests.support.jobs import Jobs
from tests.support.pod_backend import Pods

TOKEN = "a-test-token"
CHANGE = ("worker_id", "endpoint", "at_us", "state", "reason")
PHASES = {"import": 900.0, "engine": 600.0, "weights": 300.0}


def now_us() -> int:
    return time.time_ns() // 1000


class Api:
    """`with Api(home) as api:`; `api.seen` are (method, path) of the requests, `api.bodies` their JSON."""

    def __init__(self, home: runtime.Home) -> None:
        self.home = home
        self.endpoints: dict[str, Endpoint] = {}
        self.rates = {"local": "0"}
        self.seen: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.cancelled = threading.Event()
        self.asked = threading.Event()
        self.polls = 0
        self.words_pause_s = 0.0
        self.stop_pause_s = 0.0
        self.waits = 0  # progress comments before an answer
        self.drop_next: bool | str = (
            False  # break the connection at the next control request (of a method)
        )
        self.port = 0
        self.token = TOKEN
        self.version = "0.0.test"
        self.away = False  # every connection breaks
        self.changes: list[dict[str, Any]] = []  # of workers' states
        self.events: list[Event] = []  # newest first
        self.warm_polls: int | None = 2  # until a warmed worker is ready; None: it never is
        self.jobs = Jobs(self)
        self.pods = Pods(self)
        self.loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None

    # life

    def __enter__(self) -> Api:
        self.home.prepare()
        ready = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(self._serve())
            ready.set()
            self.loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.home.backend_json.unlink(missing_ok=True)
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        assert self._thread is not None
        self._thread.join(10)
        self.loop.close()

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._gate], client_max_size=1 << 30)
        add = app.router.add_route
        add("GET", "/nbgpu/v1/health", self.health)
        add("GET", "/nbgpu/v1/summary", self.summary)
        add("POST", "/v2/serverless", self.create)
        add("GET", "/v2/serverless/{e}", self.show)
        add("PATCH", "/v2/serverless/{e}", self.patch)
        add("DELETE", "/v2/serverless/{e}", self.delete)
        add("POST", "/v2/serverless/{e}/action", self.action)
        add("GET", "/nbgpu/v1/logs/{e}", self.logs)
        add("GET", "/nbgpu/v1/why/{e:(?!w-|req-).*}", self.why)
        add("GET", "/nbgpu/v1/why/{subject}", self.why_of_a_part)
        add("POST", "/nbgpu/v1/warm/{e}", self.warm)
        add("GET", "/nbgpu/v1/history", self.history)
        add("GET", "/nbgpu/v1/metrics/{table}", self.metrics)
        add("GET", "/nbgpu/v1/settings", self.settings)
        add("PATCH", "/nbgpu/v1/settings", self.settings)
        add("POST", "/v2/{e}/openai/v1/{route:.*}", self.ask)
        self.jobs.routes(add)
        self.pods.routes(add)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self.announce()

    async def _end(self) -> None:
        assert self._runner is not None
        await self.pods.end()
        await self._runner.cleanup()

    def announce(self) -> None:
        pid = os.getpid()
        start = runtime.start_time(pid)
        assert start is not None
        found = runtime.Backend(
            f"http://127.0.0.1:{self.port}", self.token, pid, start, runtime.boot_id(), self.version,
            runtime.API_VERSION,
        )  # fmt: skip
        self.home.backend_json.write_text(json.dumps(found.dump()))

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.seen.append((request.method, request.path))
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return problem(401, "unauthorized", "The token is wrong.")
        if self.away:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if self.drop_next in (True, request.method) and "health" not in request.path:
            self.drop_next = False
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if request.can_read_body and request.content_type == "application/json":
            self.bodies.append(await request.json())
        pod = request.match_info.get("p")
        if pod is not None and self.pods.find(pod) is None:
            return problem(
                404, "not_found", f"There is no pod {pod}.", "See them with: %gpu ls pods"
            )
        name = request.match_info.get("e")
        for found in self.endpoints.values():
            if name == found.id:
                name = request.match_info["e"] = found.name
        if name is not None and name not in self.endpoints and name not in self.pods.pods:
            if "openai" in request.path:
                message = f"There is no endpoint {name}."
                return web.json_response(
                    {"error": {"message": message, "code": "not_found"}}, status=404
                )
            return problem(
                404, "not_found", f"There is no endpoint {name}.", "See them with: %gpu ls"
            )
        response: web.StreamResponse = await handler(request)
        return response

    # control

    async def health(self, _: web.Request) -> web.Response:
        return answer(Health(status="ok", pid=os.getpid(), version="0.0.test", api_version=1,
                             installation="test", started_us=now_us(), loop_lag_ms=0.1))  # fmt: skip

    async def summary(self, _: web.Request) -> web.Response:
        rows = [
            EndpointRow(
                id=e.id, name=e.name, model=e.nbgpu.model.ref, state=e.nbgpu.state,
                reason=e.nbgpu.reason.text, on="local", workers_max=e.workers.max, queued=0, held=0,
                workers=[WorkerRow(id=w.id, pid=w.nbgpu.pid, port=w.nbgpu.port, state=w.nbgpu.state,
                                   tier=w.nbgpu.tier) for w in e.nbgpu.workers],
                requests_total=3, rate_per_hour="0.10", cost_so_far="0.41", idle_but_billing=True,
                reason_since_us=e.nbgpu.reason.since_us, 
                workers_by_state=Counter(w.nbgpu.state for w in e.nbgpu.workers),
                warm_until_us=e.nbgpu.warm.until_us if e.nbgpu.warm else None,
                requests_per_s=0.0, p50_ms=None, p95_ms=None, spark=[0] * 60, origin=None,
                base_url=e.nbgpu.base_url, idle_timeout_s=60, created_us=e.nbgpu.created_us,
            )
            for e in self.endpoints.values()
        ]  # fmt: skip
        return answer(Summary(at_us=now_us(), per_hour="0.10", spent_today="0.41",
                              idle_but_billing=[r.name for r in rows], endpoints=rows,
                              pods=self.pods.rows()))  # fmt: skip

    async def create(self, request: web.Request) -> web.Response:
        asked = CreateEndpoint.model_validate(await request.json())
        found = self.endpoints.get(asked.name)
        if found is None:
            made = endpoint(asked)
            self.endpoints[asked.name] = made
            made = made.model_copy(deep=True)
            made.nbgpu.outcome = "created"
            return answer(made, 201)
        theirs = found.nbgpu.origin.notebook
        if theirs not in (None, asked.nbgpu.origin.notebook) and not asked.nbgpu.take:
            return problem(409, "not_yours", f"{asked.name} was made by {theirs}.", "Add --take.")
        copy = found.model_copy(deep=True)
        copy.nbgpu.outcome = "attached"
        if found.workers != asked.workers:
            copy.nbgpu.outcome = "changed"
            copy.nbgpu.changes = [
                Change(field="workers.max", old=found.workers.max, new=asked.workers.max)
            ]
            found.workers = copy.workers = asked.workers
        return answer(copy)

    async def show(self, request: web.Request) -> web.Response:
        found = self.endpoints[request.match_info["e"]]
        fetch = found.nbgpu.model.fetch
        self.polls += 1
        for w in found.nbgpu.workers:
            if w.nbgpu.state == "starting" and self.warm_polls is not None:
                self.warm_polls -= 1
                w.nbgpu.state = "idle" if self.warm_polls <= 0 else "starting"
        if fetch.state == "running" and not found.nbgpu.model.ref.startswith("slow/"):
            fetch.bytes_done += 1_000_000
            if fetch.bytes_done >= fetch.bytes_total:
                broken = found.nbgpu.model.ref.startswith("broken/")
                fetch.state = "failed" if broken else "done"
                fetch.error = "There is no model broken/model on the hub." if broken else None
                found.nbgpu.state = "failed" if broken else "asleep"
        return answer(found)

    async def patch(self, request: web.Request) -> web.Response:
        found = self.endpoints[request.match_info["e"]]
        asked = UpdateEndpoint.model_validate(await request.json())
        before = {**found.workers.wire(), "scaling": found.scaling.wire()}
        if asked.workers is not None:
            named = asked.workers.model_dump(exclude_unset=True)
            found.workers = found.workers.model_copy(update=named)
        found.scaling = asked.scaling or found.scaling
        after = {**found.workers.wire(), "scaling": found.scaling.wire()}
        copy = found.model_copy(deep=True)
        copy.nbgpu.changes = [
            Change(field=key if key == "scaling" else f"workers.{key}", old=before[key], new=value)
            for key, value in after.items()
            if before[key] != value
        ]
        return answer(copy)

    async def warm(self, request: web.Request) -> web.Response:
        found = self.endpoints[request.match_info["e"]]
        asked = Warm.model_validate(await request.json())
        until = now_us() + asked.seconds * 1_000_000
        found.nbgpu.warm = Warmth(until_us=until, workers=asked.workers) if asked.seconds else None
        while asked.seconds and len(found.nbgpu.workers) < asked.workers:
            new = worker(f"w{len(found.nbgpu.workers) + 1}")
            new.nbgpu.state = "starting"
            found.nbgpu.workers.append(new)
        return answer(found)

    async def history(self, request: web.Request) -> web.Response:
        name = request.query.get("endpoint")
        found = [event for event in self.events if name in (None, event.endpoint)]
        return answer(EventList(events=found[: int(request.query["limit"])]))

    async def why_of_a_part(self, request: web.Request) -> web.Response:
        name = request.match_info["subject"]
        kind = "worker" if name.startswith("w-") else "request"
        state = "idle" if kind == "worker" else "answered"
        reason = Reason(code="x", text="ready <b>", since_us=now_us())
        return answer(
            Why(subject=kind, name=name, endpoint="chat", state=state, reason=reason, seconds=3.2,
                cost_so_far="0.002", typical=None, next_step="nbgpu show chat", history=[],
                facts=["tier: plain start", "  not on H100: <taken>"])
        )  # fmt: skip

    async def delete(self, request: web.Request) -> web.Response:
        del self.endpoints[request.match_info["e"]]
        return web.Response(status=204)

    async def action(self, request: web.Request) -> web.Response:
        found = self.endpoints[request.match_info["e"]]
        stop = (await request.json())["action"] == "stop"
        found.nbgpu.state = "stopped" if stop else "asleep"
        if stop:
            await asyncio.sleep(self.stop_pause_s)
            found.nbgpu.workers = []
        return answer(found)

    async def logs(self, request: web.Request) -> web.Response:
        tail = int(request.query["tail"])
        return answer(LogLines(worker="w1", lines=[f"line <{n}>" for n in range(200)][-tail:]))

    async def why(self, request: web.Request) -> web.Response:
        name = request.match_info["e"]
        found = self.endpoints.get(name) or self.pods.pods[name].data
        return answer(
            Why(name=found.name, state=found.nbgpu.state, reason=found.nbgpu.reason, seconds=12.5,
                cost_so_far="0.0012", typical="a cold start takes 21 s", next_step="Ask it something.",
                history=["w1 ended: idle for 60 s"], phases=[Phase(name="import", seconds=9.8)],
                tail=["<last line>"])
        )  # fmt: skip

    async def settings(self, request: web.Request) -> web.Response:
        if request.method == "PATCH":
            self.rates |= (await request.json())["rates"]
        return answer(
            Settings(rates=self.rates, rate_sources=dict.fromkeys(self.rates, "set by hand"))
        )

    async def metrics(self, request: web.Request) -> web.Response:
        table = request.match_info["table"]
        if table == "cost":
            at = now_us()
            return answer(
                CostSeries(since_us=at - 3_600_000_000, until_us=at, at_us=[at - 3_600_000_000, at],
                           start=[0, 0.01], busy=[0, 0.02], idle=[0, 0.07],
                           total="0.10" if self.rates["local"] != "0" else "0", rate_source="$0.10/h (set by hand)")
            )  # fmt: skip
        rows = {"requests": self.requests, "workers": self.changes}.get(table, [])
        empty = {"requests": list(request_row(0)), "workers": list(CHANGE)}
        names = list(rows[0]) if rows else empty.get(table, ["endpoint"])
        return answer(Columns(rows=len(rows), columns={n: [r[n] for r in rows] for n in names}))

    # OpenAI

    async def ask(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        raw = request.match_info["route"] == "completions"
        text = body["prompt"] if raw else body["messages"][-1]["content"]
        assert request.headers["X-Nbgpu-Progress"] == "1"
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for n in range(self.waits):
                told = {"state": "starting", "text": "a worker is starting", "phase": "weights",
                        "elapsed_s": n / 2, "typical_s": 21.0, "cost": "0.0001"}  # fmt: skip
                await response.write(f": nbgpu {json.dumps(told)}\n\n".encode())
                self.asked.set()
                await asyncio.sleep(0.01 if self.waits < 100 else 0.1)
            for word in text.split(" "):
                if word == "boom":
                    error = {"message": "The worker died.", "code": "worker_died"}
                    await response.write(f"data: {json.dumps({'error': error})}\n\n".encode())
                    return response
                delta = {"text": word + " "} if raw else {"delta": {"content": word + " "}}
                await _data(response, {"model": "m", "choices": [delta]})
                self.asked.set()
                await asyncio.sleep(self.words_pause_s)
            last: dict[str, Any] = {"text": ""} if raw else {"delta": {}}
            await _data(response, {"model": "m", "choices": [{**last, "finish_reason": "stop"}]})
            await _data(response, {"choices": [], "usage": {"completion_tokens": 35}})
            await response.write(b"data: [DONE]\n\n")
            cold = bool(self.waits)
            done = {"id": "r1", "queue_ms": 20900.0 if cold else 1.0, "cold": cold,
                    "start_ms": 20900.0 if cold else 0.0, "phases": PHASES if cold else {},
                    "first_byte_ms": 21300.0 if cold else 210.0,
                    "total_ms": 22000.0 if cold else 910.0, "tokens_in": 9, "tokens_out": 35,
                    "cost": "0.0003", "worker": "w1"}  # fmt: skip
            await response.write(f": nbgpu-done {json.dumps(done)}\n\n".encode())
        except (ConnectionResetError, asyncio.CancelledError):
            self.cancelled.set()
            raise
        return response


async def _data(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


def answer(model: Any, status: int = 200) -> web.Response:
    return web.json_response(model.wire(), status=status)


def problem(status: int, code: str, what: str, next_step: str = "") -> web.Response:
    body = {"title": code, "status": status, "detail": f"{what} {next_step}".strip(),
            "nbgpu": {"code": code, "what": what, "next": next_step, "values": {}}}  # fmt: skip
    return web.json_response(body, status=status, content_type="application/problem+json")


def endpoint(asked: CreateEndpoint) -> Endpoint:
    ref = asked.nbgpu.model or ""
    fetching = ref.split("/")[0] in ("slow", "short", "broken")
    program = ref.endswith(".py")
    reason = Reason(code="asleep", text="No request has come for a while.", since_us=now_us())
    id_ = "ep" + asked.name.replace("-", "")
    return Endpoint(
        id=id_, name=asked.name, type="QUEUE", image=None, args=None, disk=None, env=asked.env,
        registry=None, gpu=None, workers=asked.workers, scaling=asked.scaling, data_center_ids=[],
        network_volumes=[], timeout=asked.timeout, flashboot="OFF", created_at="2026-01-01T00:00:00Z",
        request_urls=RequestUrls(run="", run_sync="", status="", stream="", cancel="", retry="",
                                 purge_queue="", health=""),
        nbgpu=EndpointStatus(
            model=ModelInfo(ref=ref, source="handler" if program else "hub", bytes=4_000_000_000, fetch=Fetch(
                what="environment" if program else "weights", text="unpacking x (1 of 2)" if program else "",
                state="running" if fetching else "done", bytes_total=4_000_000 if fetching else 0,
                seconds_left=3.0 if fetching else None)),
            engine=asked.nbgpu.engine, engine_version="0.32.0", place=asked.nbgpu.place,
            policy=asked.nbgpu.policy, state="fetching" if fetching else "asleep", reason=reason,
            version=1, base_url=f"http://127.0.0.1/v2/{asked.name}/openai/v1", queued=0, held=0,
            workers=[worker()], last_failure=None, rate_per_hour="0.10", cost_so_far="0.41",
            rate_source="set by hand", requests_total=3, typical_cold_start_s=21.0,
            origin=asked.nbgpu.origin, tags={}, created_us=now_us(),
        ),
    )  # fmt: skip


def worker(id_: str = "w1") -> Worker:
    reason = Reason(code="ready", text="It answers.", since_us=now_us())
    return Worker(
        id=id_, status="IDLE", is_stale=False, version=1, gpu_count=0, image=None, uptime_seconds=9,
        gpu_type_id=None, data_center_id=None, started_at=None,
        nbgpu=WorkerExtras(state="idle", pid=4711, port=8001, tier="cold", generation=1, place="local",
                           reason=reason, held=0, phases=[Phase(name="import", seconds=9.8)],
                           ready_seconds=20.9, rate_per_hour="0.10", cost_so_far="0.41"),
    )  # fmt: skip


def request_row(n: int, *, cold: bool = False, status: int = 200) -> dict[str, Any]:
    start = sum(PHASES.values()) if cold else 0.0
    return {
        "id": f"r{n}", "endpoint": "chat", "worker_id": "w1", "arrived_us": now_us() + n * 1_000_000,
        "queue_ms": start + 5, "cold": cold, "start_ms": start, "tier": "plain" if cold else None,
        "phases": PHASES if cold else {}, "first_byte_ms": start + 205, "total_ms": start + 905, "tokens_in": 9, "tokens_out": 35,
        "gap_p50_ms": 15.0, "gap_p99_ms": 30.0, "status": status, "error": None, "route": "chat",
        "streamed": True, "retries": 0, "cost": "0.0003",
    }  # fmt: skip


def change_row(worker_id: str, at_us: int, state: str, reason: str = "") -> dict[str, Any]:
    return dict(zip(CHANGE, (worker_id, "chat", at_us, state, reason), strict=True))


def until(condition: Callable[[], bool], within_s: float = 20.0) -> bool:
    """Poll where there is no event to wait for; False if it did not come true in time."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def started(folder: Path) -> Api:
    """For `with`: a stand-in with a home of its own."""
    return Api(runtime.Home(folder))
