"""A stand-in for an OpenAI-compatible server that costs next to nothing: what is measured is what stands before it.

    python tests/support/fast_upstream.py --port P [--model NAME]

Its answers are made once and written as they are; nothing of a request is parsed but its length and what it
asks for. /health is 200 at once, and no key is wanted. A chat request gets

    no "stream"            one JSON object
    "stream": true         WORDS chunks with no pause between them, in one write, and [DONE]
    … and PACED in it      the same, PAUSE_S apart

with the usage event before [DONE] where include_usage was asked for. The content is always TEXT, a word
a chunk, so that whoever reads it can tell that it is whole and in order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from typing import Any, cast

import uvloop

WORDS = 64
PAUSE_S = 0.02
PIECES = [f"w{number:02d} " for number in range(WORDS)]
TEXT = "".join(PIECES)
PACED = b"in your own time"  # in a prompt, as it passes every gateway untouched

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
STREAM = re.compile(rb'"stream": *true')
USAGE = re.compile(rb'"include_usage": *true')
USED = {"prompt_tokens": 8, "completion_tokens": WORDS, "total_tokens": 8 + WORDS}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"
BACKLOG = 2048


class Answers:
    """Whole answers, and those of a stream event by event; by whether usage was asked for."""

    def __init__(self, model: str) -> None:
        self.whole = _json(_completion(model))
        self.models = _json({"object": "list", "data": [{"id": model, "object": "model"}]})
        self.health = _json({"status": "ok"})
        self.events = {usage: _events(model, usage) for usage in (False, True)}
        self.streams = {
            usage: STREAM_HEAD + b"".join(events) + LAST for usage, events in self.events.items()
        }


class Connection(asyncio.Protocol):
    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) > 0:
            length = LENGTH.search(self._rest, 0, end)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._rest) < size:
                return
            request, self._rest = self._rest[:size], self._rest[size:]
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        assert self._transport is not None
        answers = self._answers
        if request.startswith(b"POST "):
            if not STREAM.search(request):
                self._transport.write(answers.whole)
                return
            usage = USAGE.search(request) is not None
            if PACED in request:
                self._transport.write(STREAM_HEAD)
                self._pace(answers.events[usage], 0, self._loop.time())
            else:
                self._transport.write(answers.streams[usage])
        elif request.startswith(b"GET /v1/models"):
            self._transport.write(answers.models)
        else:
            self._transport.write(answers.health)

    def _pace(self, events: list[bytes], number: int, at: float) -> None:
        """Each on its own instant, so that lateness does not add up; what follows the words goes with the last."""
        if self._transport is None:
            return
        if number + 1 < WORDS:
            self._transport.write(events[number])
            self._loop.call_at(at + PAUSE_S, self._pace, events, number + 1, at + PAUSE_S)
        else:
            self._transport.write(b"".join(events[number:]) + LAST)


def _completion(model: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion",
        "created": 1_700_000_000, "model": model,
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": TEXT}, "logprobs": None,
            "finish_reason": "stop",
        }],
        "usage": USED,
    }  # fmt: skip


def _events(model: str, usage: bool) -> list[bytes]:
    """Each as a chunk of HTTP's."""
    head = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion.chunk",
        "created": 1_700_000_000, "model": model,
    }  # fmt: skip
    bodies: list[dict[str, Any]] = []
    for number, piece in enumerate(PIECES):
        delta = {"content": piece} if number else {"role": "assistant", "content": piece}
        finish = "stop" if number + 1 == WORDS else None
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        bodies.append({**head, "choices": [choice]})
    if usage:
        bodies.append({**head, "choices": [], "usage": USED})
    events = [b"data: " + json.dumps(body, separators=(",", ":")).encode() for body in bodies]
    return [b"%x\r\n%s\n\n\r\n" % (len(event) + 2, event) for event in [*events, b"data: [DONE]"]]


def _json(body: dict[str, Any]) -> bytes:
    text = json.dumps(body, separators=(",", ":")).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(text) + text


async def serve(port: int, model: str) -> None:
    answers = Answers(model)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(answers), "127.0.0.1", port, backlog=BACKLOG
    )
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="bench")
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.model))


if __name__ == "__main__":
    main()
