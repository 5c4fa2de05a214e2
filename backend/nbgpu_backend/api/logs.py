"""A log as server-sent events: its last lines, then what is added."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi.responses import StreamingResponse

POLL_S = 0.5
MOST = 5000


def follow(
    tail: int, *, live: Callable[[], bool], now: Callable[[int], Awaitable[list[str]]]
) -> StreamingResponse:
    """Until it is no longer `live`. `now` gives the last lines as they are."""

    async def lines() -> AsyncIterator[str]:
        shown: list[str] = []
        while True:
            going = live()
            current = await now(max(1, min(tail, MOST)))
            for line in added(shown, current):
                yield f"data: {json.dumps({'line': line})}\n\n"
            shown = current
            if not going:
                return
            await asyncio.sleep(POLL_S)

    return StreamingResponse(lines(), media_type="text/event-stream")


def added(before: list[str], now: list[str]) -> list[str]:
    """Lines of `now` that come after those of `before` (both are tails of one file)."""
    for start in range(len(before) + 1):
        rest = before[start:]
        if now[: len(rest)] == rest:
            return now[len(rest) :]
    return now
