"""Jobs through real handlers while backend, shims, relays and handlers are killed; then what came of them.

The handler writes each run to a file before it works. A worker's spool says what it held when it was
killed: a hard link keeps it. So it is known of every run whether it ought to have been the only one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from nbgpu_backend.errors import BackendError
from nbgpu_backend.providers.local import procfs

from tests.support.backend import BackendProcess
from tests.support.kill_clients import FINAL, LONE, TOGETHER, Clients
from tests.support.victims import PARTS, Victims, end, left

WORKERS = 2  # of each endpoint
AT_ONCE = 8  # jobs that a worker of the endpoint TOGETHER has at a time
TRIES = 3  # workers that may die with a job before it fails
SETTLE_S = 180.0
HANDLER = """
import asyncio, json, os
import runpod

def tell(row):
    fd = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (json.dumps(row) + "\\n").encode())
    os.fsync(fd)
    os.close(fd)

async def handler(job):
    run = {"job": job["id"], "n": job["input"]["n"], "worker": os.environ["RUNPOD_POD_ID"],
           "run": os.urandom(8).hex(), "pid": os.getpid()}
    tell(run)
    await asyncio.sleep(job["input"]["s"])
    return run

runpod.serverless.start(
    {"handler": handler, "concurrency_modifier": lambda _: int(os.environ["AT_ONCE"])}
)
"""


@dataclass(frozen=True)
class Plan:
    """`kills` at random instants, `pause_s` apart on average, while `jobs` come in."""

    jobs: int
    kills: int
    pause_s: float
    seed: int


@dataclass
class Outcome:
    """`wrong` holds a sentence for each thing that must not be."""

    jobs: int = 0
    unanswered: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    ran_again: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def check(self, right: bool, otherwise: str) -> None:
        if not right:
            self.wrong.append(otherwise)

    def line(self) -> str:
        return (
            f"{self.jobs} jobs acknowledged ({dict(self.states)}), {self.unanswered} got no answer, "
            f"{self.ran_again} ran again, killed: {dict(self.killed)}, {self.seconds:.0f} s"
        )


def run(folder: Path, plan: Plan, say: Callable[[str], None] = lambda text: None) -> Outcome:
    """Everything that was started has ended when it returns."""
    return asyncio.run(_Run(folder, plan, say).go())


class _Run:
    def __init__(self, folder: Path, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.say = say
        self.random = Random(plan.seed)
        self.process = BackendProcess(folder / "home")
        self.clients = Clients(self.process, Random(plan.seed + 1))
        self.handler, self.runs = folder / "handler" / "handler.py", folder / "runs"
        spools = folder / "spools"
        spools.mkdir(parents=True)
        self.handler.parent.mkdir()
        self.victims = Victims(self.process.home.instances, spools, Random(plan.seed + 2))
        self.found = Outcome()

    async def go(self) -> Outcome:
        began = time.monotonic()
        self.process.start()
        try:
            async with self.clients:
                self.deploy()
                await self.all_up()
                seconds = self.plan.kills * self.plan.pause_s
                await asyncio.gather(
                    self.clients.submit(self.plan.jobs, seconds), self.kill_on(seconds)
                )
                self.say("all is submitted and killed")
                await self.clients.all_final(SETTLE_S)
                await self.judge()
        finally:
            self.victims.look()
            self.process.shutdown(everything=True)
        self.judge_the_rest()
        self.found.seconds = time.monotonic() - began
        return self.found

    def deploy(self) -> None:
        self.handler.write_text(HANDLER)
        for name, at_once in ((LONE, 1), (TOGETHER, AT_ONCE)):
            self.process.deploy(
                name, workers={"min": WORKERS, "max": WORKERS},
                env={"RUNS": str(self.runs), "AT_ONCE": str(at_once)},
                nbgpu={"engine": {"name": "handler"}, "model": str(self.handler)},
            )  # fmt: skip

    async def all_up(self) -> None:
        async with asyncio.timeout(120):
            for name in (LONE, TOGETHER):
                while True:
                    _, health = await self.clients.surely("GET", f"/v2/{name}/health")
                    if health["workers"]["idle"] == WORKERS:
                        break
                    await asyncio.sleep(0.1)

    # --- killing ----------------------------------------------------------------------------------

    async def kill_on(self, seconds: float) -> None:
        instants = sorted(self.random.uniform(0, seconds) for _ in range(self.plan.kills))
        began = asyncio.get_running_loop().time()
        for number, at in enumerate(instants):
            await asyncio.sleep(max(0.0, began + at - asyncio.get_running_loop().time()))
            kind = self.random.choice(("backend", "backend", *PARTS, *PARTS, "both"))
            self.say(f"{number + 1} of {len(instants)}: {kind}")
            await self.kill(kind)
            self.victims.look()

    async def kill(self, kind: str) -> None:
        part = self.random.choice(PARTS) if kind == "both" else kind
        if part != "backend" and await asyncio.to_thread(self.victims.kill, part) is not None:
            self.found.killed[part] += 1
        if kind in ("backend", "both"):
            self.process.kill()
            self.found.killed["backend"] += 1
            await self.start_again()

    async def start_again(self) -> None:
        """One time in three it is killed once more, while it starts or soon after."""
        starting = asyncio.create_task(asyncio.to_thread(self.process.start))
        if self.random.random() < 1 / 3:
            await asyncio.sleep(self.random.uniform(0.1, 1.0))
            if self.kill_a_young_backend():
                self.found.killed["backend"] += 1
                with contextlib.suppress(BackendError):
                    await starting
                starting = asyncio.create_task(asyncio.to_thread(self.process.start))
        await starting

    def kill_a_young_backend(self) -> bool:
        """By its parent, which we are: it may not have said yet who it is."""
        for row in procfs.processes():
            if row.ppid == os.getpid() and row.alive:
                command = Path(f"/proc/{row.pid}/cmdline").read_bytes().split(b"\0")
                if command[1:3] == [b"-m", b"nbgpu_backend"]:
                    return end(row)
        return False

    # --- judging ----------------------------------------------------------------------------------

    async def judge(self) -> None:
        """With the backend there: ends, results, runs, counters; the same after one more kill."""
        found, clients = self.found, self.clients
        found.jobs, found.unanswered = len(clients.acked), clients.unanswered
        found.check(not set(clients.codes) - {200}, f"/run answered {dict(clients.codes)}")
        statuses = await clients.statuses()
        held = self.held()
        runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in self.runs.read_text().splitlines():
            row = json.loads(line)
            runs[row["job"]].append(row)
        for job, status in statuses.items():
            self.judge_job(job, status, runs[job], held[job])
        for job, rows in runs.items():
            self.judge_runs(job, rows, held[job], (statuses.get(job) or {}).get("output"))
        found.states = Counter(status["status"] for status in statuses.values())
        found.ran_again = sum(len(rows) > 1 for rows in runs.values())
        counters = {name: await clients.counters(name) for name in (LONE, TOGETHER)}
        for name, now in counters.items():
            found.check(now["inQueue"] == now["inProgress"] == 0, f"{name} ends with {now}")
        self.process.kill()
        await asyncio.to_thread(self.process.start)
        later = await clients.statuses()
        changed = [job for job in later if _end(later[job]) != _end(statuses[job])]
        found.check(not changed, f"other ends after one more kill: {changed}")
        for name, was in counters.items():
            now = await clients.counters(name)
            found.check(now == was, f"{name} had {was} before one more kill, and {now} after it")

    def held(self) -> dict[str, list[str]]:
        """Of each job, the workers that were killed while they held it."""
        found: dict[str, list[str]] = defaultdict(list)
        for instance in self.victims.dead.values():
            for job in instance.held():
                found[job].append(instance.worker)
        return found

    def judge_job(
        self, job: str, status: dict[str, Any], rows: list[dict[str, Any]], held: list[str]
    ) -> None:
        check, state, output = self.found.check, status["status"], status.get("output")
        endpoint, number = self.clients.acked[job]
        check(state in FINAL, f"{job} of {endpoint} is {state} at the end, held by {held}")
        told = self.clients.cancelled.get(job)
        check(told in (None, state), f"/cancel said {told} of {job}, which is {state}")
        if state == "COMPLETED":
            own = isinstance(output, dict) and (output["job"], output["n"]) == (job, number)
            check(own, f"{job} (number {number}) has the result {output}")
            check(output in rows, f"{job} has a result of no run that was seen: {output}")
        elif state == "CANCELLED":
            check(told is not None or self.unheard_cancel(job), f"nobody cancelled {job}")
        elif state == "FAILED":
            check(
                len(held) >= TRIES and f"{TRIES} workers died" in status["error"],
                f"{job} failed, held by {held}: {status['error']}",
            )
        else:
            check(state not in FINAL, f"{job} is {state}: {status.get('error')}")

    def unheard_cancel(self, job: str) -> bool:
        """A /cancel whose answer was lost may have worked."""
        return job in self.clients.cancelling

    def judge_runs(
        self, job: str, rows: list[dict[str, Any]], held: list[str], output: Any
    ) -> None:
        """Only the last run may be without the death of a worker that held the job."""
        for row in rows[:-1]:
            self.found.check(
                row["worker"] in held,
                f"{job} ran {len(rows)} times, though {row['worker']} did not die holding it: "
                f"{[r['worker'] for r in rows]}, held by {held}",
            )
        if isinstance(output, dict) and output.get("worker") in held:
            self.found.check(False, f"{job} has its result of a worker that died holding it")

    def judge_the_rest(self) -> None:
        """Without the backend: its tables, and what runs."""
        found, home = self.found, self.process.home
        with sqlite3.connect(home.state_db) as connection:
            ask: Callable[[str], list[Any]] = lambda sql: connection.execute(sql).fetchall()  # noqa: E731
            open_jobs = ask("SELECT id, state FROM jobs WHERE finished_us IS NULL")
            counted = ask("SELECT sum(completed), sum(failed), sum(retried) FROM job_counts")[0]
            rows = ask(
                "SELECT sum(state = 'COMPLETED'), sum(state = 'FAILED'), sum(retried) FROM jobs"
            )[0]
            unended = ask("SELECT name FROM instances WHERE ended_us IS NULL")
            unbilled = ask("SELECT instance_id FROM ledger WHERE ended_us IS NULL")
        found.check(not open_jobs, f"jobs without an end: {open_jobs}")
        found.check(
            counted == rows, f"counted (completed, failed, retried) {counted}, but there are {rows}"
        )
        found.check(not unended, f"workers without an end: {unended}")
        found.check(not unbilled, f"bills without an end: {unbilled}")
        folders = [path.name for path in home.instances.iterdir()]
        found.check(not folders, f"folders of workers are left: {folders}")
        processes = left(home.root, self.victims.seen)
        found.check(not processes, f"processes are left: {processes}")


def _end(status: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(status.get(name) for name in ("status", "output", "error", "retries"))
