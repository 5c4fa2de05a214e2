"""Load-balancing endpoints: any HTTP server behind the gateway, as plain ASGI.

`/lb/{endpoint}/…`, or any path where the Host is `{endpoint}.localhost`. The path, the query, the method,
the headers (serving.forwarding says which) and both bodies pass as they come, in pieces; nothing is kept
of them. The service's token or a key of the endpoint is asked for in `X-Nbgpu-Key`, else as `Authorization:
Bearer`; given in the former, an Authorization of the app's own passes on.

Each request has a connection of its own to its worker. It costs a tenth of a millisecond on one machine,
and there is then no idle connection that the app closes at the wrong moment, and none on which one request's
answer could be taken for another's.
"""

from __future__ import annotations

import asyncio

import aiohttp
from yarl import URL

from nbgpu_backend.clock import Clock
from nbgpu_backend.domain.names import did_you_mean
from nbgpu_backend.errors import HoldTimeout, NbgpuError, NotFound, UpstreamError
from nbgpu_backend.serving import affinity
from nbgpu_backend.serving.auth import Access, check_endpoint
from nbgpu_backend.serving.exchange import Exchange, Receive, Scope, Send
from nbgpu_backend.serving.forwarding import SERVICE_KEY, for_client, has_body, value_of
from nbgpu_backend.serving.intake import Intake
from nbgpu_backend.serving.passage import ROUTE, Call, Passage
from nbgpu_backend.serving.problems import PROBLEM_HEADERS, problem_body
from nbgpu_backend.serving.sockets import SocketPassage, refuse
from nbgpu_backend.serving.target import Directory, Sink
from nbgpu_backend.serving.worker import PushWorker

PREFIX = b"/lb/"
SUFFIX = b".localhost"
HEADER_LIMIT = 64 << 10  # of one header line of an app
PIECE = 256 << 10  # of an answer, read at once
AUTO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class Balancer:
    def __init__(
        self,
        directory: Directory,
        sink: Sink,
        clock: Clock,
        session: aiohttp.ClientSession,
        access: Access,
    ) -> None:
        """`session` makes a connection a request."""
        self._directory = directory
        self._sink = sink
        self._clock = clock
        self._session = session
        self._access = access

    @staticmethod
    def owns(scope: Scope) -> bool:
        return scope["path"].startswith("/lb/") or _named_by_host(scope) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = scope["type"] == "websocket"
        exchange = Exchange(scope, receive, send)
        try:
            call = self._call(scope, exchange)
            if call is None:
                await _add_slash(scope, exchange)
                return
            known = (call, self._sink, self._clock, self._session)
            passage = (
                SocketPassage(*known, receive, send)
                if socket
                else HttpPassage(*known, exchange, receive)
            )
            if call.key is None:
                await passage.run()
                return
            self._access.enter(call.key, exchange, ROUTE)
            try:
                await passage.run()
            finally:
                call.key.allowance.leave()
        except NbgpuError as error:
            if socket:
                await refuse(send, error)
            elif not exchange.committed:  # else the connection is cut: that says it as well
                await _fail(exchange, error)

    def _call(self, scope: Scope, exchange: Exchange) -> Call | None:
        """None: the path lacks the slash that links of a page count from."""
        headers = exchange.headers
        given = headers.get(SERVICE_KEY)
        key = self._access.of(headers if given is None else {b"authorization": given})
        raw_path: bytes = scope["raw_path"]
        name, prefix = _named_by_host(scope), ""
        if name is None:
            name, slash, rest = raw_path.removeprefix(PREFIX).partition(b"/")
            if not slash and scope.get("method") in ("GET", "HEAD"):
                return None
            raw_path, prefix = b"/" + rest, (PREFIX + name).decode("latin-1")
        called = name.decode("latin-1")
        target = self._directory.find(called)
        if key is not None:
            check_endpoint(key, target, called)
        if target is None:
            raise NotFound(
                f"There is no endpoint '{called}'.",
                did_you_mean(called, self._directory.names()) or "See nbgpu ls.",
                code="endpoint_not_found",
            )
        if not target.balances:
            raise NotFound(
                f"'{called}' is no load balancer.",
                f"Its address is shown by: nbgpu show {called}",
                code="not_a_load_balancer",
            )
        return Call(
            scope,
            target,
            raw_path,
            prefix,
            affinity.read(value_of(scope["headers"], affinity.HEADER)),
            any(
                name == b"authorization" and self._access.opens({name: value})
                for name, value in scope["headers"]
            ),
            key,
            key.id if key is not None else exchange.client,
            exchange.origin(),
        )


class HttpPassage(Passage):
    def __init__(
        self,
        call: Call,
        sink: Sink,
        clock: Clock,
        session: aiohttp.ClientSession,
        exchange: Exchange,
        receive: Receive,
    ) -> None:
        super().__init__(call, sink, clock, session)
        self._exchange = exchange
        expects = (value_of(call.headers, b"expect") or b"").lower() == b"100-continue"
        self._has_body = has_body(call.headers)
        self._intake = Intake(receive, patient=expects and self._has_body)

    def watch(self) -> None:
        self._intake.watch()

    def unwatch(self) -> None:
        self._intake.unwatch()

    @property
    def gone(self) -> bool:
        return self._intake.gone

    @property
    def committed(self) -> bool:
        return self._exchange.committed

    @property
    def begun(self) -> bool:
        return self._intake.begun

    async def forward(self, worker: PushWorker) -> None:
        try:
            async with asyncio.timeout(self._limits.total_s):
                await self._forward(worker)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ClientError):
                raise
            raise HoldTimeout(
                f"The request to '{self._target.name}' was cut after {self._limits.total_s:g} s, the "
                "endpoint's time-out.",
                "Deploy it with a longer time-out.",
                code="execution_timeout",
            ) from None

    async def _forward(self, worker: PushWorker) -> None:
        call, exchange = self._call, self._exchange
        try:
            response = await self._session.request(
                call.scope["method"],
                URL(call.url(worker), encoded=True),
                headers=call.headers_for(worker),
                data=self._intake.parts() if self._has_body else None,
                skip_auto_headers=AUTO_HEADERS,
                allow_redirects=False,
                max_line_size=HEADER_LIMIT,
                max_field_size=HEADER_LIMIT,
                read_bufsize=PIECE,
            )
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL, ValueError) as error:
            raise self._not_http(error) from error
        try:
            if not 200 <= response.status < 600:
                raise self._not_http(f"status {response.status}")
            kind = response.headers.get("Content-Type", "")
            self._record.streamed = kind.startswith("text/event-stream")
            headers = for_client(response.status, response.raw_headers, worker.id)
            self._answered(response.status)
            await exchange.start(response.status, headers + self._facts())
            while chunk := await response.content.readany():
                await exchange.send(chunk)
            self.unwatch()  # what comes now is the end of the exchange, not the client's going away
            await exchange.send(b"", more=False)
        finally:
            response.close()

    def _not_http(self, what: object) -> UpstreamError:
        return UpstreamError(
            f"The worker of '{self._target.name}' gave an answer that is no HTTP: {what}.",
            f"See nbgpu logs {self._target.name}",
        )


def _named_by_host(scope: Scope) -> bytes | None:
    host = value_of(scope["headers"], b"host") or b""
    label, dot, _ = host.partition(b":")[0].lower().rpartition(SUFFIX)
    return label if dot and label and b"." not in label else None


async def _add_slash(scope: Scope, exchange: Exchange) -> None:
    query = scope["query_string"]
    place = scope["raw_path"] + b"/" + (b"?" + query if query else b"")
    await exchange.answer(307, b"", [(b"location", place)])


async def _fail(exchange: Exchange, error: NbgpuError) -> None:
    headers = list(PROBLEM_HEADERS)
    if (after := getattr(error, "retry_after_s", None)) is not None:
        headers.append((b"retry-after", str(after).encode()))
    await exchange.answer(error.status, problem_body(error), headers)
