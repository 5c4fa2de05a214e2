"""A kernel in a pod beside a local kernel, both as Jupyter starts them: start to ready, the round trip of
`pass`, and 20 MB of output, in turns.

Ready is the first answer to `kernel_info`. The pod runs already, as it does when a notebook picks its
kernel; its kernel was ended before, so that each turn starts one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.bench import report, stand
from tests.bench.report import Report
from tests.support.pods import PodBackend

ROUNDS, TRIPS = 5, 200
LINE, LINES = "x" * 79, 262_144  # 20 MiB
WRITE = f"for _ in range({LINES // 64}): print('\\n'.join([{LINE!r}] * 64))"
READY, OUTPUT, TRIP_MS = 1.5, 1.3, 3.0
PATIENCE_S = 120.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--trips", type=int, default=TRIPS, help="round trips of a round")


def run(given: argparse.Namespace) -> Report:
    found = Report("kernel: one in a pod beside a local one")
    times: dict[str, list[tuple[float, float, float]]] = {"local": [], "pod": []}
    with tempfile.TemporaryDirectory(prefix="nbgpu-bench-") as folder:
        backend = PodBackend(Path(folder) / "home")
        backend.start()
        try:
            began = time.perf_counter()
            backend.open_pod("warm-up")  # with the environment, where that is not cached
            backend.delete_pod("warm-up")
            opened = time.perf_counter()
            pod = backend.open_pod("bench")
            found.add("open to ready, the environment cached", time.perf_counter() - opened, "s")
            found.add("the first open of this home", opened - began, "s")
            found.notes.append(pod["nbgpu"]["isolationText"])
            specs = KernelSpecManager()
            specs.kernel_dirs = [*specs.kernel_dirs, str(backend.home.kernels)]
            for _ in range(given.rounds):
                for name, spec in (("local", "python3"), ("pod", "nbgpu-bench")):
                    if name == "pod":
                        backend.http.post("/nbgpu/v1/pods/bench/kernel", json={"action": "stop"})
                    times[name].append(_round(found, spec, specs, given.trips))
        finally:
            backend.shutdown(everything=True)
    for at, what, unit in (
        (0, "start to ready", "s"),
        (1, "`pass`", "ms"),
        (2, "20 MB of output", "s"),
    ):
        for name, rows in times.items():
            found.add(f"{what}: {name}, median", median(row[at] for row in rows), unit)
    pairs = list(zip(times["pod"], times["local"], strict=True))
    ready, output = (median(p[at] / o[at] for p, o in pairs) for at in (0, 2))
    found.add("ready: pod / local, median of the rounds", ready, "times", READY)
    found.add(
        "`pass`: pod - local, median of the rounds",
        median(p[1] - o[1] for p, o in pairs),
        "ms",
        TRIP_MS,
    )
    found.add("20 MB: pod / local, median of the rounds", output, "times", OUTPUT)
    found.keys = {"ready": round(ready, 3), "output": round(output, 3)}
    found.notes.append(f"{given.rounds} rounds, {given.trips} round trips each, {stand.machine()}")
    return found


def _round(
    found: Report, spec: str, specs: KernelSpecManager, trips: int
) -> tuple[float, float, float]:
    """Seconds to ready, milliseconds of a round trip, seconds of the output."""
    manager = KernelManager(kernel_name=spec, kernel_spec_manager=specs)
    began = time.perf_counter()
    manager.start_kernel()
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE_S)
        ready = time.perf_counter() - began
        taken = []
        for _ in range(trips):
            began = time.perf_counter()
            _execute(client, "pass")
            taken.append(time.perf_counter() - began)
        began = time.perf_counter()
        size = _execute(client, WRITE)
        seconds = time.perf_counter() - began
        found.check(size == LINES * (len(LINE) + 1), f"{spec}: {size} characters of output came")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return ready, median(taken) * 1000, seconds


def _execute(client: BlockingKernelClient, code: str) -> int:
    """To its idle; the characters of its output."""
    asked, size = client.execute(code), 0
    while True:
        message: dict[str, Any] = client.get_iopub_msg(timeout=PATIENCE_S)
        if message["parent_header"].get("msg_id") != asked:
            continue
        if message["msg_type"] == "stream":
            size += len(message["content"]["text"])
        elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    client.get_shell_msg(timeout=PATIENCE_S)
    return size


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
