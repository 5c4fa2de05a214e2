"""What changed, from the backend to the browser: one subscription there, Jupyter's event bus here.

Browsers hear only `{seq, kinds, backend}`, at most once in PAUSE_S, and fetch what they need. Nothing is
started for it: a backend is followed once its files say that it runs, or a request has started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import aiohttp

from nbgpu_lab.backend import Backend, Link

log = logging.getLogger(__name__)

PAUSE_S = 0.05
LOOK_S = (0.1, 0.2, 0.5, 1.0, 2.0)  # between looks for a backend: soon after an end, seldom later
SILENCE_S = 45.0  # the backend says something every 15 s

SCHEMA_ID = "https://nbgpu.dev/events/changes/v1"
SCHEMA: dict[str, Any] = {
    "$id": SCHEMA_ID,
    "version": "1",
    "title": "nbgpu changes",
    "description": "Something changed in the nbgpu backend; its texts are fetched from there.",
    "personal-data": False,
    "type": "object",
    "required": ["seq", "kinds", "backend"],
    "additionalProperties": False,
    "properties": {
        "seq": {"type": "integer", "description": "of the last stored event; 0 if none was heard"},
        "kinds": {"type": "array", "items": {"type": "string"}},
        "backend": {"enum": ["up", "down"]},
    },
}

Emit = Callable[[dict[str, Any]], None]


class Push:
    def __init__(self, link: Link, emit: Emit) -> None:
        self._link = link
        self._emit = emit
        self._seq = 0
        self._up = False
        self._kinds: dict[str, None] = {}  # in the order in which they came
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Until cancelled."""
        looks = 0
        while True:
            backend = self._link.running()
            if backend is not None:
                if await self._follow(backend):
                    looks = 0
                self._tell(up=False)
            self._link.up.clear()
            pause = LOOK_S[min(looks, len(LOOK_S) - 1)]
            looks += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._link.up.wait(), pause)

    async def _follow(self, backend: Backend) -> bool:
        """Pass on what it says until it ends; False if it said nothing at all."""
        heard = False
        headers = {"Accept": "text/event-stream"}
        try:
            answer = await self._link.open(
                backend, "GET", "/nbgpu/v1/events", headers=headers, silence_s=SILENCE_S
            )
            async with answer:
                answer.raise_for_status()
                async for line in answer.content:
                    if not heard:
                        heard = True
                        self._tell(up=True)
                    self._read(line)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.debug("the backend's events broke off: %s", error)
        return heard

    def _read(self, line: bytes) -> None:
        name, _, value = line.rstrip().partition(b": ")
        if name == b"id":
            self._seq = int(value)
        elif name == b"event":
            self._tell(kind=value.decode())

    def _tell(self, *, up: bool | None = None, kind: str = "backend") -> None:
        if up is not None:
            if up == self._up:
                return
            self._up = up
        self._kinds[kind] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._not_before), self._send)

    def _send(self) -> None:
        self._timer = None
        self._not_before = asyncio.get_running_loop().time() + PAUSE_S
        kinds, self._kinds = list(self._kinds), {}
        self._emit({"seq": self._seq, "kinds": kinds, "backend": "up" if self._up else "down"})
