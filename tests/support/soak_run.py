"""Requests at random while workers, shims, the pre-imported parent and once the backend are killed; then
what became of every request, and what is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
from nbgpu_backend.providers.local import procfs, records

from tests.support.backend import BackendProcess, command_engine
from tests.support.victims import end, left
from tests.support.waiting import until

CALM_S = 90.0  # for what is held when the last request has come
ANSWERED, REFUSED, CUT, BACKEND, SILENT = "answered", "failed with a reason", "cut by a death", "cut by the backend's death", "without an end"  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """`rate` requests a second on average, a kill every `pause_s`; the backend dies once, halfway.

    `model`: a folder for real vLLM workers beside the tiny servers; None: without.
    """

    seconds: float
    rate: float
    pause_s: float
    seed: int
    model: Path | None = None


@dataclass
class Outcome:
    """`ends` counts requests by how they ended; `wrong` holds a sentence for what must not be."""

    ends: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    tiers: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def run(folder: Path, plan: Plan, tell: Callable[[str], None]) -> Outcome:
    backend = BackendProcess(folder / "home")
    backend.start()
    soak = Soak(backend, plan, tell)
    began = time.monotonic()
    try:
        soak.deploy()
        asyncio.run(soak.go())
        soak.settle()
    finally:
        backend.shutdown(everything=True)
    soak.outcome.seconds = time.monotonic() - began
    for process in left(backend.home.root, soak.sessions):
        soak.outcome.wrong.append(f"a process is left: {process}")
    return soak.outcome


class Soak:
    def __init__(self, backend: BackendProcess, plan: Plan, tell: Callable[[str], None]) -> None:
        self.backend, self.plan, self.tell = backend, plan, tell
        self.random = Random(plan.seed)
        self.outcome = Outcome()
        self.sessions: set[int] = set()
        self.backend_died: list[float] = []  # begin and end of its absence
        self.names: list[str] = []

    def deploy(self) -> None:
        tiny = command_engine("--startup-s", "0.3")
        tiny["options"] = ["--concurrency", "2", *tiny["options"]]
        quick = {"type": "QUEUE_DELAY", "queueDelay": 0.5}
        self.backend.deploy(
            "wide", workers={"max": 4, "idleTimeout": 2}, scaling=quick, nbgpu={"engine": tiny}
        )
        self.backend.deploy(
            "kept", workers={"max": 2, "idleTimeout": 1}, scaling={"type": "REQUEST_COUNT", "requestCount": 2},
            nbgpu={"engine": tiny, "policy": {"parkS": 20}},
        )  # fmt: skip
        self.names = ["wide", "wide", "kept"]
        if self.plan.model is not None:
            self.backend.deploy(
                "real", workers={"max": 2, "idleTimeout": 3}, scaling=quick,
                nbgpu={"engine": {"name": "vllm"}, "model": str(self.plan.model), "policy": {"parkS": 15}},
            )  # fmt: skip
            self.names.append("real")

    async def go(self) -> None:
        backend = self.backend.backend
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=backend.url, headers={"Authorization": f"Bearer {backend.token}"},
            timeout=CALM_S, limits=limits, trust_env=False, verify=False,
        ) as http:  # fmt: skip
            kills = asyncio.create_task(self._kill())
            requests: set[asyncio.Task[None]] = set()
            end_at = time.monotonic() + self.plan.seconds
            while time.monotonic() < end_at:
                requests.add(asyncio.create_task(self._request(http)))
                pause = self.random.expovariate(self.plan.rate)
                if self.random.random() < 0.02:
                    pause += 4.0  # long enough for workers to go to sleep
                await asyncio.sleep(pause)
            kills.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await kills
            await asyncio.gather(*requests)

    def settle(self) -> None:
        """Everything at zero, and nothing runs that nobody needs."""
        for name in dict.fromkeys(self.names):
            until(lambda n=name: self._at_rest(n), within=CALM_S)  # type: ignore[misc]
        for name in dict.fromkeys(self.names):
            row = self.backend.row(name)
            # one whose starts were killed again and again is given up, and says so
            if row["state"] != "asleep" and "killed by signal" not in row["reason"]:
                self.outcome.wrong.append(f"{name} ended up {row['state']}: {row['reason']}")
            table = self.backend.get(f"/nbgpu/v1/metrics/ledger?endpoint={name}")["columns"]
            bills = [
                i for i, e in zip(table["instance"], table["ended_us"], strict=True) if e is None
            ]
            live = {w["id"] for w in self.backend.row(name)["workers"]}
            self.outcome.launches += len(set(table["instance"]))
            if set(bills) - live:
                self.outcome.wrong.append(f"{name}: bills without an end: {set(bills) - live}")
            records_ = self.backend.get(f"/nbgpu/v1/metrics/requests?endpoint={name}")["columns"]
            self.outcome.tiers.update(t for t in records_["tier"] if t)
        memory = self.backend.get("/nbgpu/v1/memory")["holdings"]
        if busy := [h["holder"] for h in memory if h["kind"] == "worker"]:
            self.outcome.wrong.append(f"memory is reserved for {busy}")

    def _at_rest(self, name: str) -> bool:
        row = self.backend.row(name)
        jobs = self.backend.get(f"/v2/{name}/health")["jobs"]
        parked = all(w["state"] == "parked" for w in row["workers"])
        return parked and not (
            row["queued"] or row["held"] or jobs["inProgress"] or jobs["inQueue"]
        )

    async def _request(self, http: httpx.AsyncClient) -> None:
        name, stream = self.random.choice(self.names), self.random.random() < 0.6
        body: dict[str, Any] = {
            "model": name, "stream": stream, "max_tokens": 8,
            "messages": [{"role": "user", "content": "hi"}],
        }  # fmt: skip
        if name != "real":
            body["nbgpu_test"] = {
                "chunks": self.random.randint(1, 12),
                "delay_ms": self.random.randint(0, 80),
            }
        began = time.monotonic()
        try:
            answer = await http.post(f"/v2/{name}/openai/v1/chat/completions", json=body)
            ended, why = judge(answer, stream)
        except httpx.HTTPError as error:
            ended, why = self._blame(began), type(error).__name__
        self.outcome.ends[ended] += 1
        if ended != ANSWERED:
            self.outcome.reasons[why] += 1
        if ended == SILENT:
            self.outcome.wrong.append(f"a request to {name} ended without a reason: {why}")

    def _blame(self, began: float) -> str:
        """A connection that broke is the backend's death's, or nobody's."""
        dead = self.backend_died
        return BACKEND if dead and began <= dead[1] and time.monotonic() >= dead[0] else SILENT

    async def _kill(self) -> None:
        began, done = time.monotonic(), False
        while True:
            await asyncio.sleep(self.random.expovariate(1 / self.plan.pause_s))
            self._look()
            if not done and time.monotonic() - began > self.plan.seconds / 2:
                done = True
                self.backend_died = [time.monotonic(), float("inf")]
                await asyncio.to_thread(self._kill_backend)
                self.backend_died[1] = time.monotonic()
                self.outcome.killed["backend"] += 1
            elif self.random.random() < 0.15:
                self._kill_parent()
            else:
                self._kill_worker()

    def _kill_backend(self) -> None:
        self.tell("the backend is killed")
        self.backend.kill()
        self.backend.start()

    def _kill_parent(self) -> None:
        for folder in sorted((self.backend.home.root / "parents").glob("*")):
            with contextlib.suppress(OSError, ValueError, KeyError):
                state = json.loads((folder / "state.json").read_text())
                row = procfs.stat(state["pid"])
                if row is not None and row.start == state["start"] and end(row):
                    self.outcome.killed["parent"] += 1

    def _kill_worker(self) -> None:
        folders = self._folders()
        self.random.shuffle(folders)
        for folder in folders:
            state = records.read_state(folder)
            row = procfs.stat(state.pid) if state else None
            if state is None or row is None or row.start != state.start or not row.alive:
                continue
            if self.random.random() < 0.3:
                shim = procfs.stat(state.shim)
                if shim is not None and row.ppid == shim.pid and end(shim):
                    self.outcome.killed["shim"] += 1
                    return
            elif end(row):
                self.outcome.killed["parked" if row.state == "T" else "worker"] += 1
                return

    def _look(self) -> None:
        for folder in self._folders():
            if (state := records.read_state(folder)) is not None:
                self.sessions.add(state.pid)

    def _folders(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(
                p for p in self.backend.home.instances.iterdir() if p.name.startswith("nbgpu-")
            )
        return []


def judge(answer: httpx.Response, stream: bool) -> tuple[str, str]:
    """How a request ended, and the reason that was given."""
    text = answer.text
    if answer.status_code != 200:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return REFUSED, f"{answer.status_code} {answer.json()['error']['code']}"
        return SILENT, f"{answer.status_code} {text[:200]}"
    if not stream:
        return (ANSWERED, "") if answer.json().get("choices") else (SILENT, text[:200])
    if text.rstrip().endswith("data: [DONE]") and '"error"' not in text:
        return ANSWERED, ""
    errors = [
        line for line in text.splitlines() if line.startswith("data: {") and '"error"' in line
    ]
    if errors:
        return CUT, str(json.loads(errors[-1][6:])["error"]["code"])
    return SILENT, text[-200:]
