"""A small HTTP server for a load balancer, whose behaviour a request chooses by its path.

    python tests/support/balanced.py [--startup-s S] [--initialising-s S]

The port is PORT's, the health path HEALTH_CHECK_PATH's (default /ping), on PORT_HEALTH if that is another.
It answers 204 for --initialising-s after --startup-s. What is asked for in no other way:

    /echo/…           the request as JSON: method, raw path, query, headers (a list of pairs), body's length
    /upload           reads the body in pieces; its length and SHA-256
    /download?n=N     N bytes
    /events?n=N       N server-sent events, 50 ms apart; /chunks?n=N the same as plain chunks
    /sleep?s=S        answers after S seconds
    /die              ends by SIGKILL before it answers; /die-within after the first piece
    /refuse           401 without reading the body
    /redirect         303 to /elsewhere, with two cookies
    /health-is?code=C what the health path answers from now on; 0: as before
    /ws               a websocket: text and bytes come back; `close CODE REASON`, `burst N BYTES` and
                      `stall SECONDS` are obeyed, after `swallow` bytes are only counted for `swallowed`,
                      `die` kills; /ws-no refuses with 403
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import signal
import time

from aiohttp import WSMsgType, web

PIECE = bytes(range(256)) * 256


class App:
    def __init__(self, startup_s: float, initialising_s: float) -> None:
        self.began = time.monotonic() + startup_s
        self.initialised = self.began + initialising_s
        self.health_code = 0
        self.key = os.environ["NBGPU_WORKER_KEY"]

    def routes(self) -> list[web.RouteDef]:
        return [
            web.route("*", "/echo{rest:.*}", self.echo),
            web.route("*", "/upload", self.upload),
            web.get("/download", self.download),
            web.get("/events", self.events),
            web.get("/chunks", self.events),
            web.route("*", "/sleep", self.sleep),
            web.route("*", "/die", self.die),
            web.get("/die-within", self.die_within),
            web.route("*", "/refuse", self.refuse, expect_handler=self.no_continue),
            web.route("*", "/redirect", self.redirect),
            web.get("/not-modified", self.not_modified),
            web.get("/health-is", self.health_is),
            web.get("/ws", self.socket),
            web.get("/ws-no", self.no_socket),
        ]

    @web.middleware
    async def guard(self, request: web.Request, handler: object) -> web.StreamResponse:
        if request.headers.get("X-Nbgpu-Worker-Key") != self.key:
            return web.Response(status=403, text="not the gateway")
        answer: web.StreamResponse = await handler(request)  # type: ignore[operator]
        return answer

    async def ping(self, request: web.Request) -> web.Response:
        if self.health_code:
            return web.Response(status=self.health_code)
        now = time.monotonic()
        return web.Response(
            status=503 if now < self.began else 204 if now < self.initialised else 200
        )

    async def health_is(self, request: web.Request) -> web.Response:
        self.health_code = int(request.query["code"])
        return web.Response()

    async def echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        return web.json_response(
            {
                "pid": os.getpid(),
                "method": request.method,
                "path": request.raw_path,
                "headers": [
                    (k.decode("latin-1").lower(), v.decode("latin-1"))
                    for k, v in request.raw_headers
                ],
                "length": len(body),
                "variables": {
                    k: v for k, v in os.environ.items() if k.startswith(("PORT", "HEALTH"))
                },
            }
        )

    async def upload(self, request: web.Request) -> web.Response:
        digest, length = hashlib.sha256(), 0
        pause = float(request.query.get("pause", 0))
        async for piece in request.content.iter_any():
            digest.update(piece)
            length += len(piece)
            if pause:
                await asyncio.sleep(pause)
        return web.json_response({"length": length, "sha256": digest.hexdigest()})

    async def download(self, request: web.Request) -> web.StreamResponse:
        left = int(request.query["n"])
        response = web.StreamResponse(headers={"Content-Length": str(left)})
        await response.prepare(request)
        while left and request.method != "HEAD":
            piece = PIECE[:left]
            await response.write(piece)
            left -= len(piece)
        return response

    async def events(self, request: web.Request) -> web.StreamResponse:
        sse = request.path == "/events"
        kind = "text/event-stream" if sse else "text/plain"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for number in range(int(request.query["n"])):
            text = f"data: {number} {time.time()}\n\n" if sse else f"{number}\n"
            await response.write(text.encode())
            await asyncio.sleep(0.05)
        return response

    async def sleep(self, request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.query["s"]))
        return web.json_response({"pid": os.getpid()})

    async def die(self, request: web.Request) -> web.Response:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    async def die_within(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
        return response

    async def refuse(self, request: web.Request) -> web.Response:
        return web.Response(status=401, text="no", headers={"Connection": "close"})

    async def no_continue(self, request: web.Request) -> None:
        """The answer comes instead of 100."""

    async def redirect(self, request: web.Request) -> web.Response:
        response = web.Response(status=303, headers={"Location": "/elsewhere"})
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        response.headers["Connection"] = "keep-alive, X-Hop"
        response.headers["X-Hop"] = "1"
        return response

    async def not_modified(self, request: web.Request) -> web.Response:
        return web.Response(status=304, headers={"ETag": '"x"'})

    async def no_socket(self, request: web.Request) -> web.Response:
        return web.Response(status=403, headers={"X-Why": "no"})

    async def socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(
            protocols=("chat.v2", "chat.v1"), max_msg_size=0, compress=False
        )
        await socket.prepare(request)
        swallowed: int | None = None
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                if swallowed is None:
                    await socket.send_bytes(message.data)
                else:
                    swallowed += len(message.data)
                continue
            word, _, rest = str(message.data).partition(" ")
            if word == "close":
                code, _, reason = rest.partition(" ")
                await socket.close(code=int(code), message=reason.encode())
            elif word == "burst":
                count, size = map(int, rest.split())
                for _ in range(count):
                    await socket.send_bytes(bytes(size))
            elif word == "stall":
                await asyncio.sleep(float(rest))
            elif word == "swallow":
                swallowed = 0
            elif word == "swallowed":
                await socket.send_str(str(swallowed))
            elif word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "headers":
                await socket.send_json(dict(request.headers))
            else:
                await socket.send_str(str(message.data))
        print(f"websocket closed with {socket.close_code}", flush=True)
        return socket


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--startup-s", type=float, default=0.0)
    parser.add_argument("--initialising-s", type=float, default=0.0)
    given = parser.parse_args()
    app = App(given.startup_s, given.initialising_s)
    port, health_port = int(os.environ["PORT"]), int(os.environ["PORT_HEALTH"])
    ping = web.get(os.environ.get("HEALTH_CHECK_PATH", "/ping"), app.ping)
    served = {port: app.routes()}
    served.setdefault(health_port, []).append(ping)
    for number, routes in served.items():
        server = web.Application(client_max_size=1 << 31, middlewares=[app.guard])
        server.add_routes(routes)
        runner = web.AppRunner(server, handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", number).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
