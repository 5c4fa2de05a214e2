"""Tells a job's webhook of its end: the job object, as /status shows it, in a POST that wants a 200.

Two more tries follow, 10 s apart, as RunPod does it. What was not told when a backend ended is told by
the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import aiohttp

from nbgpu_backend.errors import DiskError, NotFound
from nbgpu_backend.serving.board import JobBoard
from nbgpu_backend.store.jobs import JobStore

log = logging.getLogger(__name__)

TRIES, PAUSE_S = 3, 10.0  # RunPod's, which those who listen are made for: no setting
TIMEOUT_S = 30.0
AT_ONCE = 50


class Webhooks:
    def __init__(self, store: JobStore, session: aiohttp.ClientSession) -> None:
        self._store = store
        self._session = session
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def due(self, board: JobBoard, job_id: str) -> None:
        task = asyncio.create_task(self._tell(board, job_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, board: JobBoard, job_id: str) -> None:
        try:
            row = await self._store.get(job_id)
            if row is None or not row["webhook"]:
                return
            body = (await board.view(job_id)).body()
        except NotFound:
            return
        told = "failed"
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE_S)
            async with self._room:
                if await self._post(row["webhook"], body):
                    told = "sent"
                    break
        else:
            log.warning("the webhook of %s was told in vain: %s", job_id, row["webhook"])
        with contextlib.suppress(DiskError):
            await self._store.put("told", key=job_id, webhook_to=told)

    async def _post(self, url: str, body: bytes) -> bool:
        headers = {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._session.post(
                url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
            return False

    def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
