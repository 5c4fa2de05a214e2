"""A log as server-sent events: its last lines, then what is added."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from fastapi.responses import StreamingResponse

MOST = 5000
BEAT_S = 15.0  # of silence, then a comment says that it is still followed


def follow(log: AsyncGenerator[list[str], None]) -> StreamingResponse:
    """Until it ends, or nobody reads it any more."""

    async def events() -> AsyncIterator[str]:
        async with aclosing(log):
            while True:
                coming = asyncio.ensure_future(anext(log, None))
                try:
                    while not (await asyncio.wait((coming,), timeout=BEAT_S))[0]:
                        yield ":\n\n"
                finally:
                    if not coming.done():
                        coming.cancel()
                        await asyncio.wait((coming,))
                lines = coming.result()
                if lines is None:
                    return
                yield "".join(f"data: {json.dumps({'line': line})}\n\n" for line in lines)

    return StreamingResponse(events(), media_type="text/event-stream")


async def nothing() -> AsyncGenerator[list[str], None]:
    """A log of what has not been there yet."""
    return
    yield []


def bounded(tail: int) -> int:
    return max(1, min(tail, MOST))
