"""Websockets through a load balancer: message by message, both ways, with the backpressure of either side.

The handshake with the worker comes first, so that its subprotocol, its cookies or its refusal are what the
client gets. Pings and pongs are each hop's own (the ASGI interface knows none): the client's are answered
here and the worker's too, and a client that answers none for a while is let go. Compression ends here;
a worker is a loopback away. While it is open, a websocket holds its slot and has no time limit.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from yarl import URL

from nbgpu_backend.clock import Clock
from nbgpu_backend.errors import HoldTimeout, NbgpuError, UpstreamError
from nbgpu_backend.serving.exchange import ClientGone, Receive, Send
from nbgpu_backend.serving.forwarding import for_client
from nbgpu_backend.serving.passage import Call, Passage
from nbgpu_backend.serving.problems import PROBLEM_HEADERS, problem_body
from nbgpu_backend.serving.target import Sink
from nbgpu_backend.serving.worker import PushWorker

MESSAGE_LIMIT = 16 << 20  # bytes of one message, either way
CLOSE_S = 10.0  # for the answer to a close
NORMAL, NO_CODE, WORKER_LOST = 1000, 1005, 1011
SWITCHED = 101


class SocketPassage(Passage):
    def __init__(
        self,
        call: Call,
        sink: Sink,
        clock: Clock,
        session: aiohttp.ClientSession,
        receive: Receive,
        send: Send,
    ) -> None:
        super().__init__(call, sink, clock, session)
        self._receive = receive
        self._send = send
        self._gone = self._committed = False
        self._client_closed = False
        self._watcher: asyncio.Task[None] | None = None
        self._record.streamed = True

    def watch(self) -> None:
        """Until it is accepted, nothing comes from the client but its going away."""
        task = asyncio.current_task()
        assert task is not None

        async def until_gone(task: asyncio.Task[Any]) -> None:
            while (await self._receive())["type"] != "websocket.disconnect":
                pass
            self._gone = True
            task.cancel()

        self._watcher = asyncio.create_task(until_gone(task))

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    @property
    def gone(self) -> bool:
        return self._gone

    @property
    def committed(self) -> bool:
        return self._committed

    @property
    def begun(self) -> bool:
        return False

    async def forward(self, worker: PushWorker) -> None:
        try:
            async with asyncio.timeout(self._limits.total_s):
                upstream = await self._open(worker)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ClientError):
                raise
            raise HoldTimeout(
                f"'{self._target.name}' did not accept the websocket within {self._limits.total_s:g} s.",
                f"See nbgpu logs {self._target.name}",
                code="execution_timeout",
            ) from None
        except aiohttp.WSServerHandshakeError as refusal:
            await self._refuse(worker, refusal)
            return
        try:
            await self._accept(worker, upstream)
            await self._pump(upstream)
        finally:
            await _let_go(upstream)

    async def _open(self, worker: PushWorker) -> aiohttp.ClientWebSocketResponse:
        return await self._session.ws_connect(
            URL(self._call.url(worker), encoded=True),
            headers=self._call.headers_for(worker, socket=True),
            protocols=self._call.scope["subprotocols"],
            max_msg_size=MESSAGE_LIMIT,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
        )

    async def _accept(self, worker: PushWorker, upstream: aiohttp.ClientWebSocketResponse) -> None:
        self.unwatch()
        self._committed = True
        self._answered(SWITCHED)
        raw = upstream._response.raw_headers
        headers = for_client(SWITCHED, raw, worker.id, socket=True) + self._facts()
        await self._tell(
            {"type": "websocket.accept", "subprotocol": upstream.protocol, "headers": headers}
        )

    async def _refuse(self, worker: PushWorker, refusal: aiohttp.WSServerHandshakeError) -> None:
        """The worker's own no, without the body (its client library does not keep it)."""
        if not 300 <= refusal.status < 600:
            raise UpstreamError(
                f"The worker of '{self._target.name}' failed the websocket's handshake: "
                f"{refusal.message}.",
                f"See nbgpu logs {self._target.name}",
            ) from refusal
        self.unwatch()
        self._committed = True
        self._answered(refusal.status)
        raw = [(k.encode(), v.encode()) for k, v in (refusal.headers or {}).items()]
        dropped = (b"content-length", b"content-type", b"content-encoding")
        headers = [h for h in for_client(refusal.status, raw, worker.id) if h[0] not in dropped]
        await self._tell(
            {
                "type": "websocket.http.response.start",
                "status": refusal.status,
                "headers": headers + self._facts(),
            }
        )
        await self._tell({"type": "websocket.http.response.body", "body": b""})

    async def _pump(self, upstream: aiohttp.ClientWebSocketResponse) -> None:
        """Until one side ends it; the other is told so."""
        ways = {asyncio.create_task(self._up(upstream)), asyncio.create_task(self._down(upstream))}
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
        for way in done:
            way.result()

    async def _up(self, upstream: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._client_closed = True
                reason = (message.get("reason") or "").encode()
                await upstream.close(code=_sendable(message.get("code")), message=reason)
                return
            try:
                if (text := message.get("text")) is not None:
                    await upstream.send_str(text)
                else:
                    await upstream.send_bytes(message["bytes"])
            except (ConnectionError, aiohttp.ClientError):
                await asyncio.Event().wait()  # the other way reads how it ended

    async def _down(self, upstream: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            message = await upstream.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                await self._tell({"type": "websocket.send", "text": message.data})
            elif message.type is aiohttp.WSMsgType.BINARY:
                await self._tell({"type": "websocket.send", "bytes": message.data})
            elif message.type is aiohttp.WSMsgType.CLOSE:
                await self._close(_sendable(message.data), message.extra or "")
                return
            elif message.type is aiohttp.WSMsgType.CLOSING or self._client_closed:
                return  # by the other way
            elif message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                self._record.error = f"the worker of '{self._target.name}' broke the connection"
                self._record.status = 502
                await self._close(WORKER_LOST, "the worker broke the connection")
                return

    async def _close(self, code: int, reason: str) -> None:
        await self._tell({"type": "websocket.close", "code": code, "reason": reason})

    async def _tell(self, message: dict[str, Any]) -> None:
        """Raises ClientGone."""
        try:
            await self._send(message)
        except OSError:
            raise ClientGone from None


async def refuse(send: Send, error: NbgpuError) -> None:
    """Say no to the handshake; after it, nothing is left to say (the connection is closed)."""
    start = {
        "type": "websocket.http.response.start",
        "status": error.status,
        "headers": PROBLEM_HEADERS,
    }
    try:
        await send(start)
        await send({"type": "websocket.http.response.body", "body": problem_body(error)})
    except (OSError, RuntimeError):  # gone, or accepted already
        pass


async def _let_go(upstream: aiohttp.ClientWebSocketResponse) -> None:
    if not upstream.closed:
        await upstream.close(code=1001)


def _sendable(code: int | None) -> int:
    """1004 to 1006 and 1015 say what happened and are never sent (RFC 6455 7.4.1)."""
    if code is None or code == NO_CODE:
        return NORMAL
    fine = 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
    return code if fine else WORKER_LOST
