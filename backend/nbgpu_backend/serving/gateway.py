"""The OpenAI-compatible data path, as plain ASGI.

`/v2/{endpoint}/openai/v1/…` and, by model name, `/openai/v1/…`. A request is held until a worker is
ready; while a stream is held, comment lines keep it open. Before the first byte a worker's death costs the
client nothing (the request goes back to its place in the queue, at most RETRIES times); after it, the
stream ends with an error event.
"""

from __future__ import annotations

import asyncio
import json
import re
from decimal import Decimal
from typing import Any, TypeVar

from nbgpu_backend.clock import Clock
from nbgpu_backend.domain.dispatch import Ticket
from nbgpu_backend.domain.names import did_you_mean
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.domain.trace import trace_id
from nbgpu_backend.errors import (
    BadRequest,
    HoldTimeout,
    NbgpuError,
    NotFound,
    UpstreamError,
    WorkerDied,
)
from nbgpu_backend.serving.auth import Access, check_endpoint
from nbgpu_backend.serving.exchange import (
    STREAM_HEADERS,
    ClientGone,
    Exchange,
    Receive,
    Scope,
    Send,
)
from nbgpu_backend.serving.keys import Key
from nbgpu_backend.serving.stream import StreamMeter, ask_for_usage, comment
from nbgpu_backend.serving.target import Directory, Record, Sink, Target, request_id
from nbgpu_backend.serving.upstream import BROKEN
from nbgpu_backend.serving.wire import Answer, Wire
from nbgpu_backend.serving.worker import PushWorker

T = TypeVar("T")

PATH = re.compile(r"(?:/v2/(?P<endpoint>[^/]+))?/openai(?P<route>/v1/[A-Za-z0-9_/.-]+)")
RETRIES = 2
PROGRESS_S = 0.5  # between the comments of a client that asked for them
SICK = frozenset({500, 503})  # a worker that answers these is asked for its health


class Gateway:
    def __init__(
        self,
        directory: Directory,
        sink: Sink,
        clock: Clock,
        wire: Wire,
        access: Access,
    ) -> None:
        self._directory = directory
        self._sink = sink
        self._clock = clock
        self._wire = wire
        self._access = access

    @staticmethod
    def owns(path: str) -> re.Match[str] | None:
        return PATH.fullmatch(path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        match = PATH.fullmatch(scope["path"])
        assert match is not None
        try:
            key = self._access.of(exchange.headers)
            name, route = match["endpoint"], match["route"]
            if scope["method"] == "GET":
                await self._get(exchange, key, name, route)
            elif scope["method"] == "POST":
                await self._post(exchange, key, name, route)
            else:
                raise BadRequest(
                    f"{scope['method']} is not served here.", "Use POST.", code="method"
                )
        except ClientGone:
            pass
        except NbgpuError as error:
            await exchange.fail(error)

    def _target(self, key: Key | None, name: str) -> Target:
        target = self._directory.find(name)
        if key is not None:
            check_endpoint(key, target, name)
        if target is None:
            hint = did_you_mean(name, self._directory.names())
            raise NotFound(
                f"There is no endpoint '{name}'.",
                hint or "See nbgpu ls, or make it with nbgpu deploy.",
                code="endpoint_not_found",
            )
        return target

    async def _get(self, exchange: Exchange, key: Key | None, name: str | None, route: str) -> None:
        """Models are answered here: asking what there is wakes nobody."""
        found_here = [self._target(key, name)] if name else self._directory.targets()
        targets = [
            target
            for target in found_here
            if not target.pulls
            and not target.balances
            and (key is None or target.id == key.endpoint_id)
        ]
        if route == "/v1/models":
            body: dict[str, Any] = {"object": "list", "data": [_model(t) for t in targets]}
        elif route.startswith("/v1/models/"):
            wanted = route.removeprefix("/v1/models/")
            found = [t for t in targets if t.name == wanted]
            if not found:
                raise NotFound(
                    f"There is no model '{wanted}' here.",
                    did_you_mean(wanted, [t.name for t in targets]),
                    code="model_not_found",
                )
            body = _model(found[0])
        else:
            raise NotFound(
                f"GET {route} is not served.", "Models are at /v1/models.", code="no_route"
            )
        await exchange.answer(200, json.dumps(body).encode())

    async def _post(
        self, exchange: Exchange, key: Key | None, name: str | None, route: str
    ) -> None:
        arrived, arrived_us = self._clock.elapsed(), self._clock.now()
        body = await exchange.body()
        parsed = _parse(body)
        model = parsed.get("model")
        if name is None and not isinstance(model, str):
            raise BadRequest("The request names no model.", "Set 'model' to an endpoint's name.")
        target = self._target(key, name if name is not None else str(model))
        if target.pulls:
            raise NotFound(
                f"'{target.name}' is a handler: it takes jobs, not chats.",
                f"Send them to /v2/{target.name}/run or /v2/{target.name}/runsync.",
                code="not_a_model",
            )
        if target.balances:
            raise NotFound(
                f"'{target.name}' is a load balancer: its own HTTP server answers, not this route.",
                f"Send it to /lb/{target.name}{route}.",
                code="not_a_model",
            )
        if isinstance(model, str) and model == target.id:
            parsed["model"] = target.name
            body = json.dumps(parsed).encode()
        elif isinstance(model, str) and model not in ("", target.name):
            raise NotFound(
                f"The endpoint '{target.name}' serves no model '{model}'.",
                f"Set 'model' to '{target.name}'.",
                code="model_not_found",
            )
        streamed = parsed.get("stream") is True
        strip = False
        if streamed:
            body, strip = ask_for_usage(body, parsed)
        record = Record(
            id=request_id(arrived_us),
            endpoint_id=target.id,
            endpoint=target.name,
            route=route,
            streamed=streamed,
            arrived_us=arrived_us,
            origin=exchange.origin(),
        )
        request = _Request(self, exchange, target, record, body, arrived, strip)
        if key is None:
            await request.run()
            return
        record.key = key.id
        self._access.enter(key, exchange, route)
        try:
            await request.run()
        finally:
            key.allowance.leave()


class _Request:
    """One request on its way through a target's queue, from admission to its record."""

    def __init__(
        self,
        gateway: Gateway,
        exchange: Exchange,
        target: Target,
        record: Record,
        body: bytes,
        arrived: float,
        strip: bool,
    ) -> None:
        self._gateway = gateway
        self._clock = gateway._clock
        self._wire = gateway._wire
        self._exchange = exchange
        self._target = target
        self._limits = target.limits
        self._record = record
        self._body = body
        self._arrived = arrived
        self._strip = strip
        self._talkative = record.streamed and exchange.headers.get(b"x-nbgpu-progress") == b"1"
        self._next_beat = arrived + (0.0 if self._talkative else self._limits.heartbeat_s)
        self._meter: StreamMeter | None = None
        self._trace = exchange.trace()
        parents = [value for name, value in self._trace if name == b"traceparent"]
        if len(parents) == 1:
            record.trace = trace_id(parents[0].decode())

    async def run(self) -> None:
        record, exchange = self._record, self._exchange
        try:
            await self._serve()
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
            record.status, record.error = 499, "the client went away"
        except NbgpuError as error:
            record.status, record.error = error.status, str(error)
            raise
        finally:
            exchange.unwatch()
            if self._meter is not None and record.tokens_out is None:
                self._count(self._meter.usage, self._meter.events)
            record.total_s = self._clock.elapsed() - self._arrived
            self._gateway._sink.request(record)

    async def _serve(self) -> None:
        target, limits = self._target, self._limits
        if (refusal := target.refusal()) is not None:
            raise refusal
        ticket = Ticket(
            self._record.id,
            client=self._record.key or self._exchange.client,
            arrived=self._arrived,
            deadline=self._arrived + limits.hold_s,
        )
        self._record.cold = not target.queue.has_offers()
        waiting = target.queue.submit(ticket)
        self._exchange.watch()
        try:
            while True:
                worker = await self._wait(
                    waiting, ticket.deadline, f"no worker was ready within {limits.hold_s:g} s"
                )
                if await self._on(worker, ticket):
                    return
                self._record.retries += 1
                if self._record.retries > RETRIES:
                    raise WorkerDied(
                        f"The worker of '{target.name}' died while it worked on this request, "
                        f"{self._record.retries} times.",
                        f"See why: nbgpu why {target.name}",
                    )
                if (refusal := target.refusal()) is not None:
                    raise refusal
                waiting = target.queue.retry(ticket)
        finally:
            target.queue.done(ticket)

    async def _on(self, worker: PushWorker, ticket: Ticket) -> bool:
        """Send the request to this worker; False if it died before the first byte."""
        record, now = self._record, self._clock.elapsed()
        record.given(worker, ticket)
        mark = worker.take(now)
        try:
            return await self._forward(worker, now, mark)
        except BROKEN as error:
            if record.first_byte_s is not None:
                raise WorkerDied(
                    f"The worker of '{self._target.name}' died while it answered.",
                    f"See why: nbgpu why {self._target.name}",
                ) from error
            await self._target.fence(worker.id)
            return False
        finally:
            record.share_s += worker.leave(self._clock.elapsed(), mark)

    async def _forward(self, worker: PushWorker, now: float, mark: float) -> bool:
        limits = self._limits
        end = now + limits.total_s
        first = min(end, now + limits.first_byte_s) if self._record.streamed else end
        slow = f"the worker sent no first byte within {first - now:g} s"
        head = worker.head(self._record.route)
        if self._trace:
            head += b"".join(b"%b: %b\r\n" % header for header in self._trace)
        answer = await self._wait(self._wire.post(worker.port, head, self._body), first, slow)
        try:
            if answer.status in SICK and await self._target.suspect(worker.id):
                return False
            content_type = answer.content_type
            if answer.status == 200 and content_type.startswith("text/event-stream"):
                await self._stream(answer, first, end, slow)
                await self._finish(worker, mark)
            else:
                body = await self._rest(
                    answer, end, f"the answer was not complete within {end - now:g} s"
                )
                await self._whole(answer.status, content_type, body)
            return True
        finally:
            answer.close()

    async def _rest(self, answer: Answer, end: float, late: str) -> bytes:
        """The whole body."""
        parts: list[bytes] = []
        while True:
            if (more := answer.more()) is not None:
                await self._wait(more, end, late)
            if not (part := answer.take()):
                return parts[0] if len(parts) == 1 else b"".join(parts)
            parts.append(part)

    async def _stream(self, answer: Answer, first: float, end: float, slow: str) -> None:
        record, exchange, now = self._record, self._exchange, self._clock.elapsed
        meter = self._meter = StreamMeter(now, record.gaps, strip_usage=self._strip)
        if (more := answer.more()) is not None:
            await self._wait(more, first, slow)
        chunk = answer.take()
        record.first_byte_s = now() - self._arrived
        record.status = 200
        if not exchange.committed:
            await exchange.start(200, STREAM_HEADERS + self._facts())
        try:
            async with asyncio.timeout(end - now()):
                while chunk:
                    if kept := meter.feed(chunk):
                        await exchange.send(kept)
                    if (more := answer.more()) is not None:
                        await more
                    chunk = answer.take()
        except TimeoutError:
            raise HoldTimeout(
                f"The answer was cut after {self._limits.total_s:g} s, the endpoint's time-out.",
                "Ask for fewer tokens, or deploy with a longer time-out.",
                code="execution_timeout",
            ) from None
        self._count(meter.usage, meter.events)
        if not meter.finished:
            raise WorkerDied(
                f"The worker of '{self._target.name}' ended its answer early.",
                f"See why: nbgpu why {self._target.name}",
            )

    async def _finish(self, worker: PushWorker, mark: float) -> None:
        """The end of a stream, with its figures for a client that asked for them."""
        assert self._meter is not None
        if self._talkative:
            now = self._clock.elapsed()
            self._record.total_s = now - self._arrived
            cost = self._record.cost_of(self._record.share_s + worker.share(now, mark))
            await self._exchange.send(comment("nbgpu-done " + json.dumps(self._done(cost))))
        await self._exchange.send(self._meter.rest(), more=False)

    async def _whole(self, status: int, content_type: str, body: bytes) -> None:
        record, exchange = self._record, self._exchange
        record.first_byte_s = self._clock.elapsed() - self._arrived
        record.status = status
        answer = _object(body)
        if status == 200:
            usage = answer.get("usage")
            self._count(usage if isinstance(usage, dict) else None, None)
        else:
            record.error = _message(answer) or body[:300].decode("utf-8", "replace")
        if exchange.committed:  # heartbeats went out: the status is told in an error event
            await exchange.fail(
                UpstreamError(record.error or f"The worker answered {status}.", code=_code(answer))
            )
            return
        headers = [(b"content-type", content_type.encode("latin-1")), *self._facts()]
        await exchange.answer(status, body, headers)

    async def _wait(self, future: asyncio.Future[T], deadline: float, late: str) -> T:
        """The result of a future, with heartbeats while it is not there. Raises HoldTimeout."""
        try:
            while not future.done():
                now = self._clock.elapsed()
                if now >= deadline:
                    raise HoldTimeout(
                        f"'{self._target.name}' did not answer: {late}.",
                        f"See why: nbgpu why {self._target.name}",
                    )
                if self._record.streamed and now >= self._next_beat:
                    await self._beat(now)
                until = min(deadline, self._next_beat) if self._record.streamed else deadline
                await _done_or(future, max(0.0, until - now))
            return future.result()
        finally:
            if not future.done():
                future.cancel()

    async def _beat(self, now: float) -> None:
        progress = self._target.progress()
        if self._talkative:
            self._next_beat = now + PROGRESS_S
            await self._exchange.beat("nbgpu " + json.dumps(progress))
        else:
            self._next_beat = now + self._limits.heartbeat_s
            await self._exchange.beat(f"waiting {now - self._arrived:.0f} s: {progress['text']}")

    def _count(self, usage: dict[str, Any] | None, events: int | None) -> None:
        usage = usage or {}
        self._record.tokens_in = _whole_number(usage.get("prompt_tokens"))
        tokens = _whole_number(usage.get("completion_tokens"))
        self._record.tokens_out = tokens if tokens is not None else events

    def _facts(self) -> list[tuple[bytes, bytes]]:
        record = self._record
        return [
            (b"x-nbgpu-request", record.id.encode()),
            (b"x-nbgpu-worker", (record.worker_id or "").encode()),
            (b"x-nbgpu-queue-ms", f"{record.queue_s * 1000:.1f}".encode()),
            (b"x-nbgpu-cold", b"1" if record.cold else b"0"),
        ]

    def _done(self, cost: Decimal) -> dict[str, Any]:
        record = self._record
        return {
            "id": record.id,
            "worker": record.worker_id,
            "queue_ms": round(record.queue_s * 1000, 3),
            "cold": record.cold,
            "tier": record.tier,
            "start_ms": round(record.start_s * 1000, 3),
            "phases": {k: round(v * 1000, 1) for k, v in record.phases.items()},
            "first_byte_ms": round((record.first_byte_s or 0) * 1000, 3),
            "total_ms": round(record.total_s * 1000, 3),
            "tokens_in": record.tokens_in,
            "tokens_out": record.tokens_out,
            "cost": plain(cost),
        }


async def _done_or(future: asyncio.Future[Any], seconds: float) -> None:
    """Return when it is done, or after so long; unlike asyncio.wait it makes no sets."""
    loop = asyncio.get_running_loop()
    either: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not either.done():
            either.set_result(None)

    timer = loop.call_later(seconds, wake)
    future.add_done_callback(wake)
    try:
        await either
    finally:
        timer.cancel()
        future.remove_done_callback(wake)


def _model(target: Target) -> dict[str, Any]:
    return {"id": target.name, "object": "model", "created": target.created_s, "owned_by": "nbgpu"}


def _parse(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise BadRequest(f"The body is no JSON: {error}.", code="bad_json") from None
    if not isinstance(parsed, dict):
        raise BadRequest("The body must be a JSON object.", code="bad_json")
    return parsed


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _message(answer: dict[str, Any]) -> str | None:
    error = answer.get("error")
    found = error.get("message") if isinstance(error, dict) else answer.get("message")
    return found if isinstance(found, str) else None


def _code(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    found = error.get("code") if isinstance(error, dict) else None
    return str(found) if found is not None else "upstream"


def _whole_number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
