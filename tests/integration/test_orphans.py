"""What a new backend finds of an old one's launches, and that it launches nothing before it has looked."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from nbgpu_backend import runtime
from nbgpu_backend.clock import SystemClock
from nbgpu_backend.providers.base import LaunchSpec
from nbgpu_backend.providers.local.provider import LocalProvider

from tests.support.backend import BackendProcess, command_engine
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="instances run on Linux")


def test_shutdown_ends_what_came_up_late(backend: BackendProcess) -> None:
    with closing(sqlite3.connect(backend.home.state_db)) as connection:
        (ours,) = connection.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()
    spec = LaunchSpec(
        name=f"nbgpu-{ours}-w-late-1", generation=1, argv=["sleep", "1000"],
        env={"PATH": os.defpath}, ttl_s=900.0,
    )  # fmt: skip
    launched = asyncio.run(LocalProvider(backend.home, SystemClock()).launch(spec))
    assert runtime.start_time(launched.pid) is not None
    backend.shutdown(everything=True)
    assert runtime.start_time(launched.pid) is None
    assert list(backend.home.instances.iterdir()) == []


def test_a_text_whose_submission_was_cut_off_is_removed(backend: BackendProcess) -> None:
    backend.kill()
    cut = backend.home.jobs / "01a20dbe-3708-7416-b18c-e76491afa244-u1.in"
    cut.write_bytes(b"{}")
    backend.start()
    until(lambda: not cut.exists())


def test_a_new_backend_adopts_before_it_launches(backend: BackendProcess, tmp_path: Path) -> None:
    """The job that waits must not call a second worker while the first is not adopted yet."""
    ready = tmp_path / "ready"
    engine = command_engine("--ready-file", str(ready))
    patient = {"type": "QUEUE_DELAY", "queueDelay": 1000}
    backend.deploy("slow", workers={"max": 2}, scaling=patient, nbgpu={"engine": engine})
    given = {"input": {"messages": [{"role": "user", "content": "hi"}]}}
    job = backend.http.post("/v2/slow/run", json=given).json()["id"]
    worker = until(lambda: (w := backend.worker("slow", "starting"))["pid"] and w)
    for _ in range(3):
        backend.kill()
        backend.start()
    assert backend.worker("slow", "starting")["id"] == worker["id"]
    ready.touch()
    done = backend.http.get(f"/v2/slow/status-sync/{job}?wait=30000").json()
    assert done["status"] == "COMPLETED" and done["workerId"] == worker["id"]
    with closing(sqlite3.connect(backend.home.state_db)) as connection:
        launched = connection.execute("SELECT id, ended_us FROM instances").fetchall()
    assert launched == [(worker["id"], None)]
