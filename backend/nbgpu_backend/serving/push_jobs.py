"""Jobs on workers that are pushed to: what a queue worker in front of the engine would do with them.

What it yields is what RunPod's worker-vllm yields: for a stream the pieces of the event stream as they
come, as strings; else one JSON object. The output is the list of all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import aiohttp

from nbgpu_backend.domain.jobs import COMPLETED, FAILED, Verdict, json_text
from nbgpu_backend.domain.vllm_input import BadInput, EngineCall, read_input
from nbgpu_backend.errors import WorkerDied
from nbgpu_backend.serving.target import Target
from nbgpu_backend.serving.upstream import BROKEN
from nbgpu_backend.serving.worker import PushWorker

Emit = Callable[[str], Awaitable[None]]


class JobRunner:
    """Implements serving.assignments.PushRunner."""

    def __init__(self, target: Target, session: aiohttp.ClientSession) -> None:
        self._target = target
        self._session = session

    async def run(self, worker: PushWorker, body: bytes, emit: Emit) -> Verdict:
        """Raises WorkerDied once no process of the worker is left."""
        try:
            call = read_input(json.loads(body)["input"], self._target.name)
        except BadInput as error:
            return Verdict(FAILED, error=str(error))
        try:
            return await self._call(worker, call, emit)
        except BROKEN as error:
            await self._target.fence(worker.id)
            raise WorkerDied("the worker died while it worked on it") from error

    async def _call(self, worker: PushWorker, call: EngineCall, emit: Emit) -> Verdict:
        headers = {"Accept-Encoding": "identity"}
        if worker.key:
            headers["Authorization"] = "Bearer " + worker.key
        async with self._session.request(
            call.method, worker.url + call.route, json=call.body, headers=headers
        ) as response:
            if call.streamed and response.status == 200:
                pieces = []
                async for chunk in response.content.iter_any():
                    pieces.append(json.dumps(chunk.decode("utf-8", "replace")))
                    await emit(pieces[-1])
                return Verdict(COMPLETED, "[" + ", ".join(pieces) + "]")
            text = await response.text()
            if response.status == 503 and await self._target.suspect(worker.id):
                raise WorkerDied("the worker was found sick")
        try:
            parsed = await asyncio.to_thread(json.loads, text)
        except ValueError:
            parsed = text
        if response.status != 200:
            error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
            message = error.get("message") if isinstance(error, dict) else None
            return Verdict(FAILED, error=message or json.dumps(error))
        piece, nulls = json_text(parsed)
        await emit(piece)
        return Verdict(COMPLETED, f"[{piece}]", nulls=nulls)
