"""`/nbgpu/v1/events` and `/changes`: hear that something changed, then fetch what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from nbgpu_backend.control.core import Core
from nbgpu_backend.control.summary import summary_of
from nbgpu_backend.schema.changes import Changes
from nbgpu_backend.schema.events import Beat, Event

GATHER_S = (
    0.05  # between what is sent to one client: a lone event goes at once, a burst goes together
)
PING_S = 15.0  # a comment on a quiet stream, so that a dead client is noticed
BACKLOG = 1000
CHANGES = 500  # events of one answer
SNAPSHOT = 200  # events of an answer to somebody who knows none


def routes(core: Core) -> APIRouter:
    router = APIRouter(prefix="/nbgpu/v1", tags=["nbgpu"])
    state, endpoints = core.services.state, core.endpoints

    @router.get("/events")
    async def events(
        since: int | None = None,
        endpoint: str | None = None,
        last_event_id: str | None = Header(None),
    ) -> StreamingResponse:
        """Server-sent events: first those after `since` (or Last-Event-ID), then new ones as they come.

        Beats come between them, at most five a second, without an id.
        """
        wanted = endpoints.get(endpoint).id if endpoint else None
        return StreamingResponse(
            _follow(core, _seq(last_event_id, since), wanted), media_type="text/event-stream"
        )

    @router.get("/changes")
    async def changes(since: int | None = None) -> Changes:
        """Without `since`, or with one that this backend never gave: a snapshot."""
        newest = await state.last_events(None, 1) if since is not None else []
        known = since is not None and since <= (newest[0].seq if newest else 0)
        after = since if known and since is not None else 0
        limit = CHANGES if known else SNAPSHOT
        found = await state.last_events(None, limit + 1, since=after)
        stored = found[:limit][::-1]
        return Changes(
            seq=stored[-1].seq if stored else after,
            gap=not known or len(found) > limit,
            events=stored,
            summary=await summary_of(core),
        )

    return router


def _seq(last_event_id: str | None, since: int | None) -> int | None:
    if last_event_id is not None and last_event_id.isdigit():
        return int(last_event_id)
    return since


async def _follow(core: Core, since: int | None, endpoint_id: str | None) -> AsyncIterator[str]:
    """None: from now on. A client that reads too slowly is cut off; its Last-Event-ID brings it back."""
    services = core.services
    queue: asyncio.Queue[Event | Beat | None] = asyncio.Queue(BACKLOG)

    def listener(event: Event | Beat) -> None:
        if queue.full():
            return
        queue.put_nowait(event if queue.qsize() < BACKLOG - 1 else None)

    def end() -> None:
        if not queue.full():
            queue.put_nowait(None)

    stop_events, stop_beats = services.state.listen(listener), services.pulse.listen(listener)
    core.streams.add(end)
    try:
        yield ": connected\n\n"
        seen = since or 0
        while since is not None:
            stored = await services.state.events_since(seen, endpoint_id=endpoint_id)
            for event in stored:
                seen = event.seq
                yield _sse(event)
            if len(stored) < BACKLOG:
                break
        sent = 0.0
        while True:
            try:
                heard = [await asyncio.wait_for(queue.get(), PING_S)]
            except TimeoutError:
                yield ": ping\n\n"
                continue
            if (early := sent + GATHER_S - services.clock.elapsed()) > 0:
                await asyncio.sleep(early)
            while not queue.empty():
                heard.append(queue.get_nowait())
            texts = []
            for one in heard:
                if isinstance(one, Beat):
                    if endpoint_id is None or endpoint_id in one.endpoint_ids:
                        texts.append(f"event: {one.kind}\ndata: {json.dumps(one.wire())}\n\n")
                elif one is not None and one.seq > seen and endpoint_id in (None, one.endpoint_id):
                    seen = one.seq
                    texts.append(_sse(one))
            if texts:
                yield "".join(texts)
                sent = services.clock.elapsed()
            if None in heard:
                return
    finally:
        core.streams.discard(end)
        stop_events()
        stop_beats()


def _sse(event: Event) -> str:
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {json.dumps(event.wire())}\n\n"
