"""A backend with no endpoint and no client: what it costs to leave it running."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from nbgpu_backend.providers.local import procfs

from tests.bench import report, stand
from tests.bench.report import Report

SECONDS = 60.0
SETTLE_S = 3.0  # the start itself is not what is measured
RSS_LIMIT_MB = 150.0
CPU_LIMIT = 1.0  # percent of one core


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long to look at it")


def run(given: argparse.Namespace) -> Report:
    found = Report("idle: a backend with no endpoint and no client")
    with stand.backend() as process:
        pid = process.backend.pid
        time.sleep(SETTLE_S)
        cpu, began = cpu_s(pid), time.monotonic()
        time.sleep(given.seconds)
        used, seconds = cpu_s(pid) - cpu, time.monotonic() - began
        children = [row.pid for row in procfs.processes() if row.alive and row.ppid == pid]
        found.check(not children, f"it has children: {children}")
        found.add("memory (RSS)", status(pid, "VmRSS") / 1024, "MB", RSS_LIMIT_MB)
        found.add("memory, at most since its start (RSS)", status(pid, "VmHWM") / 1024, "MB")
        found.add("processor", 100 * used / seconds, "% of a core", CPU_LIMIT)
        found.add("threads", status(pid, "Threads"), "threads")
        lag = process.get("/nbgpu/v1/health")["loopLagMs"]
        found.add("worst lag of the event loop in the last minute", lag, "ms")
    found.notes.append(f"{seconds:.0f} s, {stand.machine()}")
    return found


def cpu_s(pid: int) -> float:
    """Seconds of processor time, in user and kernel mode."""
    raw = Path(f"/proc/{pid}/stat").read_bytes()
    fields = raw[raw.rindex(b")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def status(pid: int, name: str) -> int:
    """A number of /proc/PID/status; memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
