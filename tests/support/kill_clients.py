"""Clients that go on submitting jobs while a backend is killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
from nbgpu_backend import runtime

from tests.support.backend import BackendProcess

ANSWER_S = 8.0  # a client that waits longer has got no answer
AGAIN_S = 0.1
LONE, TOGETHER = "lone", "together"  # endpoints: one job at a time, several
LONE_SHARE = 0.07  # the real package takes about one job a second
CANCELLED_SHARE = 0.05
FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})


@dataclass
class Clients:
    """`acked`: job id -> (its endpoint, the number that its result must carry)."""

    process: BackendProcess
    random: Random
    acked: dict[str, tuple[str, int]] = field(default_factory=dict)
    cancelling: set[str] = field(default_factory=set)
    cancelled: dict[str, str] = field(default_factory=dict)  # job id -> what /cancel answered
    unanswered: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    _number: int = 0
    _session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Clients:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any] | None:
        """(code, JSON), or None when there was no answer."""
        found = runtime.read(self.process.home)
        assert found is not None and self._session is not None
        headers = {"Authorization": f"Bearer {found.token}"}
        data = None if body is None else json.dumps(body)
        try:
            async with self._session.request(
                method, found.url + path, data=data, headers=headers
            ) as answer:
                return answer.status, await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    async def surely(self, method: str, path: str) -> tuple[int, Any]:
        """Until there is an answer."""
        while (answer := await self.ask(method, path)) is None:
            await asyncio.sleep(AGAIN_S)
        return answer

    async def submit(self, jobs: int, seconds: float, at_once: int = 4) -> None:
        """So many acknowledged jobs, spread over so many seconds."""
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), seconds / jobs

        async def client() -> None:
            while len(self.acked) < jobs:
                due = began + self._number * pause
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._submit_one()

        await asyncio.gather(*(client() for _ in range(at_once)))

    async def _submit_one(self) -> None:
        self._number += 1
        number, random = self._number, self.random
        endpoint = LONE if random.random() < LONE_SHARE else TOGETHER
        given = {"n": number, "s": round(max(0.0, random.uniform(-0.7, 2.0)), 3)}
        cancel = random.random() < CANCELLED_SHARE
        after = random.uniform(0.0, 1.5)
        answer = await self.ask("POST", f"/v2/{endpoint}/run", {"input": given})
        if answer is None:  # it may exist or not: nobody was promised anything
            self.unanswered += 1
            await asyncio.sleep(AGAIN_S)
            return
        self.codes[answer[0]] += 1
        if answer[0] != 200:
            await asyncio.sleep(AGAIN_S)
            return
        job = answer[1]["id"]
        self.acked[job] = endpoint, number
        if cancel:
            await asyncio.sleep(after)
            self.cancelling.add(job)
            told = await self.ask("POST", f"/v2/{endpoint}/cancel/{job}", {})
            if told is not None and told[0] == 200:
                self.cancelled[job] = told[1]["status"]

    async def all_final(self, within: float) -> None:
        """Return when no job waits or runs, or when the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                for endpoint in (LONE, TOGETHER):
                    while (now := await self.counters(endpoint))["inQueue"] or now["inProgress"]:
                        await asyncio.sleep(0.2)

    async def counters(self, endpoint: str) -> dict[str, int]:
        _, health = await self.surely("GET", f"/v2/{endpoint}/health")
        found: dict[str, int] = health["jobs"]
        return found

    async def statuses(self) -> dict[str, dict[str, Any]]:
        """What /status says of each acknowledged job."""
        room = asyncio.Semaphore(8)

        async def one(job: str, endpoint: str) -> tuple[str, dict[str, Any]]:
            async with room:
                return job, (await self.surely("GET", f"/v2/{endpoint}/status/{job}"))[1]

        pairs = await asyncio.gather(*(one(j, e) for j, (e, _) in self.acked.items()))
        return dict(pairs)
