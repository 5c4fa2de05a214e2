"""Jobs: how many are accepted a second (each on the disk before its answer), and how many go all the way.

The workers are this bench's own and speak the worker protocol directly. `--syncs` counts what the backend
asks of the disk (strace); `--growth A,B` compares the backend's memory after A and after B jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from tests.bench import report, stand
from tests.bench.idle import status
from tests.bench.report import Report
from tests.support.backend import BackendProcess
from tests.support.wire import Wire

CONNECTIONS, ACCEPTED, THROUGH = 16, 20_000, 5_000
WORKERS, BATCH = 4, 16
ACCEPTED_GOAL, THROUGH_GOAL = 3_000.0, 500.0
HANDLER = "import runpod\n\nrunpod.serverless.start({'handler': lambda job: job['input']})\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="clients at a time")
    parser.add_argument(
        "--accepted", type=int, default=ACCEPTED, help="jobs that are only accepted"
    )
    parser.add_argument("--through", type=int, default=THROUGH, help="jobs that go all the way")
    parser.add_argument(
        "--syncs", action="store_true", help="count fsync and fdatasync with strace"
    )
    parser.add_argument("--growth", default="", help="two numbers of jobs, such as 100000,1000000")


def run(given: argparse.Namespace) -> Report:
    found = Report("jobs: accepted durably, and all the way to a result that is read")
    with stand.backend() as process, tempfile.TemporaryDirectory() as folder:
        deploy(process, Path(folder))
        accepted, lost = uvloop.run(accept(process, given.connections, given.accepted))
        found.check(lost == 0, f"{lost} jobs are not in the queue though they were acknowledged")
        found.key("accepted_per_s", accepted, ACCEPTED_GOAL)
        process.http.post("/v2/bench/purge-queue", timeout=600).raise_for_status()
        if given.syncs:
            for connections, jobs in ((1, 500), (given.connections, 5_000)):
                with strace(process.backend.pid) as syncs:
                    uvloop.run(accept(process, connections, jobs))
                found.add(f"syncs a job, {connections} connections", syncs[0] / jobs, "syncs")
                process.http.post("/v2/bench/purge-queue", timeout=600).raise_for_status()
        through, wrong = uvloop.run(go_through(process, given.connections, given.through))
        found.check(wrong == 0, f"{wrong} jobs came back with another's result, or none")
        found.key("end_to_end_per_s", through, THROUGH_GOAL)
        if given.growth:
            growth(process, given, found)
        left = process.get("/v2/bench/health")["jobs"]
        found.check(
            left["inQueue"] == left["inProgress"] == 0, f"counters do not end at zero: {left}"
        )
    found.notes.append(f"{given.connections} connections, {WORKERS} workers, {stand.machine()}")
    return found


def deploy(process: BackendProcess, folder: Path) -> None:
    """An endpoint whose workers come by themselves."""
    (folder / "handler.py").write_text(HANDLER)
    process.deploy(
        "bench", workers={"max": 0},
        nbgpu={"engine": {"name": "handler"}, "model": str(folder / "handler.py")},
    )  # fmt: skip


async def accept(process: BackendProcess, connections: int, jobs: int) -> tuple[float, int]:
    """(jobs accepted a second, jobs that were acknowledged and are not there)"""
    body = json.dumps({"input": {"prompt": "What is a GPU pod?"}}).encode()
    before = process.get("/v2/bench/health")["jobs"]["inQueue"]

    async def client() -> None:
        wire = await Wire.open(process.backend.url, process.backend.token)
        for _ in range(jobs // connections):
            code, answer = await wire.post("/v2/bench/run", body)
            assert code == 200, answer
        wire.close()

    seconds = await timed(*(client() for _ in range(connections)))
    queued = process.get("/v2/bench/health")["jobs"]["inQueue"] - before
    sent = jobs // connections * connections
    return sent / seconds, sent - queued


async def go_through(process: BackendProcess, connections: int, jobs: int) -> tuple[float, int]:
    """(jobs a second from /run to the result read with /status-sync, wrong results)"""
    backend, wrong = process.backend, 0

    async def client(number: int) -> None:
        nonlocal wrong
        wire = await Wire.open(backend.url, backend.token)
        for turn in range(jobs // connections):
            mine = f"{number}-{turn}"
            _, answer = await wire.post("/v2/bench/run", json.dumps({"input": mine}).encode())
            job = json.loads(answer)["id"]
            _, answer = await wire.get(f"/v2/bench/status-sync/{job}?wait=60000")
            wrong += json.loads(answer).get("output") != mine
        wire.close()

    async def worker(name: str) -> None:
        takes = await Wire.open(backend.url, backend.token)
        posts = [await Wire.open(backend.url, backend.token) for _ in range(BATCH)]
        while True:
            code, answer = await takes.get(
                f"/v2/bench/job-take-batch/{name}?gpu=&batch_size={BATCH}&job_in_progress=0"
            )
            if code != 200:
                continue
            taken = json.loads(answer)
            await asyncio.gather(
                *(
                    wire.post(
                        f"/v2/bench/job-done/{name}/{job['id']}?gpu=&isStream=false",
                        json.dumps({"output": job["input"]}).encode(),
                    )
                    for wire, job in zip(posts, taken, strict=False)
                )
            )

    workers = [asyncio.create_task(worker(f"w{n}-{time.time_ns()}")) for n in range(WORKERS)]
    seconds = await timed(*(client(n) for n in range(connections)))
    for task in workers:
        task.cancel()
    await asyncio.wait(workers)
    return jobs // connections * connections / seconds, wrong


async def timed(*work: Coroutine[Any, Any, None]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*work)
    return time.perf_counter() - began


def growth(process: BackendProcess, given: argparse.Namespace, found: Report) -> None:
    small, large = (int(number) for number in given.growth.split(","))
    sizes, done = [], 0
    for goal in (small, large):
        uvloop.run(go_through(process, given.connections, goal - done))
        done = goal
        sizes.append(status(process.backend.pid, "VmRSS") / 1024)
        found.add(f"memory after {goal} jobs (RSS)", sizes[-1], "MB")
    found.add("memory, the second as a share of the first", sizes[1] / sizes[0], "x", 1.1)


@contextmanager
def strace(pid: int) -> Iterator[list[int]]:
    """Count the backend's fsync and fdatasync calls; the number is in the list after the block."""
    program = shutil.which("strace")
    if program is None:
        sys.exit("There is no strace; install it, or leave --syncs out.")
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as output:
        tracer = subprocess.Popen(
            [program, "-f", "-e", "trace=fsync,fdatasync", "-o", output.name, "-p", str(pid)],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert tracer.stderr is not None
        tracer.stderr.readline()  # attached
        counts: list[int] = []
        yield counts
        os.kill(tracer.pid, signal.SIGINT)
        tracer.wait()
        counts.append(sum("sync(" in line for line in output if "resumed" not in line))


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
