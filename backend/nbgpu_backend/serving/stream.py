"""A stream of server-sent events on its way through: counted, timed, and the usage event taken out where
the client did not ask for it. Bytes stay as they came otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nbgpu_backend.domain.histogram import Histogram

END = b"\n\n"
# What makes a look at each event necessary: usage, the end, a comment or field among the data.
RARE = (b'"usage":{', b'"usage": {', b"[DONE]", b"\n\n:", b"\n\ne", b"\n\ni", b"\n\nr")


class StreamMeter:
    def __init__(self, now: Callable[[], float], gaps: Histogram, *, strip_usage: bool) -> None:
        self._now = now
        self._gaps = gaps
        self._strip = strip_usage
        self._rest = b""
        self._last: float | None = None
        self.events = 0
        self.usage: dict[str, Any] | None = None
        self.finished = False  # `[DONE]` was seen

    def feed(self, chunk: bytes) -> bytes:
        """What of it goes on to the client: whole events; the beginning of one is kept until its end."""
        data = self._rest + chunk if self._rest else chunk
        cut = data.rfind(END)
        if cut < 0:
            self._rest = data
            return b""
        self._rest = data[cut + 2 :]
        if not any(mark in data for mark in RARE) and data.startswith(b"data:"):
            self._count(data.count(END, 0, cut + 2))
            return data if cut + 2 == len(data) else data[: cut + 2]
        events = data[:cut].split(END)
        kept = [event for event in events if self._keep(event)]
        if len(kept) == len(events):
            return data[: cut + 2]
        return b"".join(event + END for event in kept)

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._rest

    def _keep(self, event: bytes) -> bool:
        if not event.startswith(b"data:"):
            return True
        if event[5:].strip() == b"[DONE]":
            self.finished = True
            return True
        if b'"usage"' in event and (usage := _usage(event)) is not None:
            self.usage = usage[0]
            if usage[1]:  # an event of usage alone
                return not self._strip
        self._count(1)
        return True

    def _count(self, events: int) -> None:
        """So many came together: between them lies no time."""
        now = self._now()
        if self._last is not None:
            self._gaps.add((now - self._last) * 1000)
        if events > 1:
            self._gaps.add(0.0, events - 1)
        self._last = now
        self.events += events


def _usage(event: bytes) -> tuple[dict[str, Any], bool] | None:
    """(usage, whether the event holds nothing else), or None."""
    try:
        body = json.loads(event[5:])
    except ValueError:
        return None
    usage = body.get("usage") if isinstance(body, dict) else None
    return (usage, not body.get("choices")) if isinstance(usage, dict) else None


def ask_for_usage(body: bytes, parsed: dict[str, Any]) -> tuple[bytes, bool]:
    """The body with `stream_options.include_usage` set, and whether the usage event must be stripped.

    Where the client gave no stream_options the member is spliced in, so that its bytes stay as they were.
    """
    options = parsed.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        return body, False
    if options is None and "stream_options" not in parsed:
        head = body.rstrip()
        return head[:-1] + b',"stream_options":{"include_usage":true}}', True
    parsed = {**parsed, "stream_options": {**(options or {}), "include_usage": True}}
    return json.dumps(parsed).encode(), True


def event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + END


def comment(text: str) -> bytes:
    return b": " + text.encode() + END
