"""A kernel in a pod, here and on a host over SSH (a server of loopback), beside a local kernel, all as Jupyter
starts them: start to ready, the round trip of `pass`, and 20 MB of output, in turns.

Ready is the first answer to `kernel_info`. The pod runs already, as it does when a notebook picks its
kernel; its kernel was ended before, so that each turn starts one.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.bench import report, stand
from tests.bench.report import Report
from tests.support.pods import PodBackend
from tests.support.ssh_pods import add_host
from tests.support.sshd import SSHD, Sshd, serving

ROUNDS, TRIPS = 5, 200
LINE, LINES = "x" * 79, 262_144  # 20 MiB
WRITE = f"for _ in range({LINES // 64}): print('\\n'.join([{LINE!r}] * 64))"
LIMITS = {"pod": (1.5, 3.0, 1.3), "ssh": (1.6, 5.0, None)}  # ready, ms of a round trip, output
PATIENCE_S = 120.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--trips", type=int, default=TRIPS, help="round trips of a round")


def run(given: argparse.Namespace) -> Report:
    found = Report("kernel: one in a pod beside a local one")
    with (
        tempfile.TemporaryDirectory(prefix="nbgpu-bench-") as folder,
        _server(Path(folder)) as server,
    ):
        backend = PodBackend(Path(folder) / "home")
        places = {"pod": "local"}
        if server is not None:
            add_host(backend, server)
            places["ssh"] = "lab1"
        backend.start()
        try:
            _measure(found, backend, places, given)
        finally:
            backend.shutdown(everything=True)
    return found


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[Sshd | None]:
    """An SSH server of loopback, where there is one."""
    if SSHD is None:
        yield None
        return
    with serving(Sshd(folder / "server")) as server:
        yield server


def _measure(
    found: Report, backend: PodBackend, places: dict[str, str], given: argparse.Namespace
) -> None:
    times: dict[str, list[tuple[float, float, float]]] = {"local": [], **{n: [] for n in places}}
    for name, place in places.items():
        backend.place = place
        backend.open_pod("warm-up")  # with the environment, where that is not cached
        backend.delete_pod("warm-up")
        opened = time.perf_counter()
        pod = backend.open_pod(name)
        found.add(
            f"open to ready, the environment there: {name}", time.perf_counter() - opened, "s"
        )
        found.notes.append(pod["nbgpu"]["isolationText"])
    specs = KernelSpecManager()
    specs.kernel_dirs = [*specs.kernel_dirs, str(backend.home.kernels)]
    for _ in range(given.rounds):
        for name in times:
            if name != "local":
                backend.http.post(f"/nbgpu/v1/pods/{name}/kernel", json={"action": "stop"})
            spec = "python3" if name == "local" else f"nbgpu-{name}"
            times[name].append(_round(found, spec, specs, given.trips))
    for at, what, unit in (
        (0, "start to ready", "s"), (1, "`pass`", "ms"), (2, "20 MB of output", "s")
    ):  # fmt: skip
        for name, rows in times.items():
            found.add(f"{what}: {name}, median", median(row[at] for row in rows), unit)
    for name, (ready_limit, trip_limit, output_limit) in LIMITS.items():
        if name not in times:
            continue
        pairs = list(zip(times[name], times["local"], strict=True))
        ready, output = (median(p[at] / o[at] for p, o in pairs) for at in (0, 2))
        more = median(p[1] - o[1] for p, o in pairs)
        found.add(f"ready: {name} / local, median of the rounds", ready, "times", ready_limit)
        found.add(f"`pass`: {name} - local, median of the rounds", more, "ms", trip_limit)
        found.add(f"20 MB: {name} / local, median of the rounds", output, "times", output_limit)
        found.keys |= {f"{name}_ready": round(ready, 3), f"{name}_output": round(output, 3)}
    found.notes.append(f"{given.rounds} rounds, {given.trips} round trips each, {stand.machine()}")


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
