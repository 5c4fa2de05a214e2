"""A tiny OpenAI-compatible server whose faults a request can choose.

    python tests/support/upstream.py --port P [--model NAME] [--startup-s S] [--ready-file PATH]

/health is 503 until --startup-s has passed and --ready-file exists. With NBGPU_WORKER_KEY set,
all but /health wants it as bearer key. GET /nbgpu_test/stats counts what happened.

A request body may hold `nbgpu_test`, an object; without it nothing of this happens:

    chunks                 content chunks (default 4, or max_tokens)
    delay_ms               between chunks
    stall_s                silence before the first chunk (headers are not sent yet either)
    stall_after_chunks     silence (stall_s) after so many chunks instead
    status                 answer this status in OpenAI's error shape
    die_before_first_byte  the process ends by SIGKILL before it answers
    die_after_chunks       … after so many chunks
    exit_code              … by this exit code instead of SIGKILL

The content of every chunk is the time.time_ns() of its making and a space.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

from aiohttp import web

LONGEST_PROMPT = 2000  # characters
Json = dict[str, Any]
TRACES = ("traceparent", "tracestate")


class Refusal(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Upstream:
    def __init__(
        self, model: str, startup_s: float, ready_file: Path | None, sleep_mode: bool
    ) -> None:
        self.model = model
        self.sleep_mode, self.asleep = sleep_mode, False
        self.ready_at = time.monotonic() + startup_s
        self.ready_file = ready_file
        self.key = os.environ.get("NBGPU_WORKER_KEY", "")
        self.stats = {"requests": 0, "active": 0, "most_active": 0, "completed": 0, "aborted": 0}
        self.last: Json = {}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=64 << 20)
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_get("/nbgpu_test/stats", self.statistics)
        if self.sleep_mode:
            app.router.add_post("/sleep", self.sleep)
            app.router.add_post("/wake_up", self.wake_up)
            app.router.add_get("/is_sleeping", self.is_sleeping)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            given = request.headers.get("Authorization", "")
            if self.key and request.path != "/health":
                wanted = f"Bearer {self.key}"
                if not hmac.compare_digest(given.encode(), wanted.encode()):
                    raise Refusal(401, "Unauthorized", "authentication_error")
            answer: web.StreamResponse = await handler(request)
            return answer
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.status)

    async def health(self, request: web.Request) -> web.Response:
        ready = time.monotonic() >= self.ready_at
        if self.ready_file is not None:
            ready = ready and self.ready_file.exists()
        return web.Response(status=200 if ready else 503)

    async def sleep(self, request: web.Request) -> web.Response:
        """vLLM's sleep mode. What is asked while it sleeps fails, as there."""
        assert request.query["level"] == "1" and not self.stats["active"]
        self.asleep = True
        return web.Response()

    async def wake_up(self, request: web.Request) -> web.Response:
        self.asleep = False
        return web.Response()

    async def is_sleeping(self, request: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": self.asleep})

    async def models(self, request: web.Request) -> web.Response:
        card = {"id": self.model, "object": "model", "created": 0, "owned_by": "nbgpu-test"}
        return web.json_response({"object": "list", "data": [card]})

    async def statistics(self, request: web.Request) -> web.Response:
        return web.json_response({**self.stats, "pid": os.getpid(), "last": self.last})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        if self.asleep:
            raise Refusal(500, "The engine sleeps.", "InternalServerError")
        self.stats["requests"] += 1
        self.stats["active"] += 1
        self.stats["most_active"] = max(self.stats["most_active"], self.stats["active"])
        try:
            body = await _read(request)
            traces = [(n.lower(), v) for n, v in request.headers.items() if n.lower() in TRACES]
            self.last = {"body": body, "headers": dict(request.headers), "traces": traces}
            prompt = _prompt(body, chat=chat)
            if body.get("model") != self.model:
                what = f"The model `{body.get('model')}` does not exist."
                raise Refusal(404, what, "NotFoundError", "model")
            if len(prompt) > LONGEST_PROMPT:
                what = (
                    f"This model's maximum context length is {LONGEST_PROMPT} characters, "
                    f"but the prompt has {len(prompt)}."
                )
                raise Refusal(400, what, "BadRequestError", "input_tokens")
            reply = Reply(self.model, prompt, body, chat=chat)
            stream = bool(body.get("stream"))
            answer = await (reply.streamed(request) if stream else reply.whole())
            self.stats["completed"] += 1
            return answer
        except (asyncio.CancelledError, ConnectionError):
            self.stats["aborted"] += 1
            raise
        finally:
            self.stats["active"] -= 1


class Reply:
    """One answer, with the faults that its request asked for."""

    def __init__(self, model: str, prompt: str, body: Json, *, chat: bool) -> None:
        self.chat = chat
        self.test: Json = body.get("nbgpu_test") or {}
        chunks: Any = self.test.get("chunks") or body.get("max_tokens") or 4
        self.chunks = int(chunks)
        self.delay_s = float(self.test.get("delay_ms", 0)) / 1000
        self.usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
        kind = "chat.completion" if chat else "text_completion"
        self.head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{time.time_ns():x}", "object": kind,
                     "created": int(time.time()), "model": model}  # fmt: skip
        words = len(prompt.split())
        self.usage = {"prompt_tokens": words, "completion_tokens": self.chunks,
                      "total_tokens": words + self.chunks}  # fmt: skip

    async def whole(self) -> web.Response:
        await self._begin()
        text = "".join([piece async for piece in self._pieces()])
        message = {"role": "assistant", "content": text}
        choice: Json = {"index": 0, "finish_reason": "stop", "logprobs": None}
        choice |= {"message": message} if self.chat else {"text": text}
        return web.json_response({**self.head, "choices": [choice], "usage": self.usage})

    async def streamed(self, request: web.Request) -> web.StreamResponse:
        await self._begin()
        head = dict(self.head)
        if self.chat:
            head["object"] = "chat.completion.chunk"
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)

        async def send(choices: list[Json], **more: object) -> None:
            event = json.dumps({**head, "choices": choices, **more})
            await response.write(f"data: {event}\n\n".encode())

        if self.chat:
            await send([self._choice({"role": "assistant", "content": ""}, None)])
        async for piece in self._pieces():
            await send([self._choice({"content": piece} if self.chat else piece, None)])
        await send([self._choice({} if self.chat else "", "stop")])
        if self.usage_wanted:
            await send([], usage=self.usage)
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _begin(self) -> None:
        if "stall_after_chunks" not in self.test:
            await asyncio.sleep(float(self.test.get("stall_s", 0)))
        if self.test.get("die_before_first_byte"):
            self._die()
        if status := self.test.get("status"):
            raise Refusal(int(status), f"Asked for {status}.", "TestError")

    async def _pieces(self) -> Any:
        for number in range(self.chunks):
            if number and self.delay_s:
                await asyncio.sleep(self.delay_s)
            yield f"{time.time_ns()} "
            if self.test.get("die_after_chunks") == number + 1:
                await asyncio.sleep(0.05)  # so that what was written leaves the socket
                self._die()
            if self.test.get("stall_after_chunks") == number + 1:
                await asyncio.sleep(float(self.test.get("stall_s", 60)))

    def _choice(self, delta: Any, finish: str | None) -> Json:
        content = {"delta": delta} if self.chat else {"text": delta}
        return {"index": 0, **content, "logprobs": None, "finish_reason": finish}

    def _die(self) -> NoReturn:
        if "exit_code" not in self.test:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(int(self.test.get("exit_code", 1)))


async def _read(request: web.Request) -> Json:
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise Refusal(400, f"The body is no JSON: {error}", "BadRequestError") from None
    if not isinstance(body, dict):
        raise Refusal(400, "The body is no JSON object.", "BadRequestError")
    return body


def _prompt(body: Json, *, chat: bool) -> str:
    if not chat:
        return str(body.get("prompt", ""))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages must be a list of messages.", "BadRequestError", "messages")
    return " ".join(str(message.get("content", "")) for message in messages)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--model", default="test")
    parser.add_argument("--startup-s", type=float, default=0.0)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--sleep-mode", action="store_true", help="vLLM's /sleep and /wake_up")
    given = parser.parse_args()
    upstream = Upstream(given.model, given.startup_s, given.ready_file, given.sleep_mode)
    web.run_app(
        upstream.app(),
        host=given.host,
        port=given.port,
        print=None,
        access_log=None,
        shutdown_timeout=30,
        handler_cancellation=True,
    )


if __name__ == "__main__":
    main()
