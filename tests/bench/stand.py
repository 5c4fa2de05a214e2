"""A backend of one bench: a home of its own that is gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nbgpu_backend.engines.vllm.environment import Environment
from nbgpu_backend.home import Home

from tests.support import tiny_model
from tests.support.backend import BackendProcess


@contextmanager
def backend() -> Iterator[BackendProcess]:
    with tempfile.TemporaryDirectory(prefix="nbgpu-bench-") as folder:
        process = BackendProcess(Path(folder) / "home")
        process.start()
        try:
            yield process
        finally:
            process.shutdown(everything=True)


def engine() -> Environment | None:
    """The real engine's environment, where it is installed."""
    found = Environment.of(Home.default())
    return found if found.complete else None


def tiny_llama(environment: Environment) -> Path:
    return tiny_model.ensure(environment.python, environment.folder.parent / "tiny-llama")


def machine() -> str:
    """The conditions, in one line: figures of a busy machine are figures of a busy machine."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores, {model}, load {os.getloadavg()[0]:.1f}"


def worker_key(process: BackendProcess, worker_id: str) -> str:
    """What the worker asks of whoever comes directly."""
    (folder,) = (p for p in process.home.instances.iterdir() if f"-{worker_id}-" in p.name)
    return (folder / "key").read_text().strip()
