"""A launch that outlives its backend comes up when the next one has looked: nobody's, and found all the same."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import closing

import pytest
from nbgpu_backend import runtime
from nbgpu_backend.clock import SystemClock
from nbgpu_backend.providers.base import LaunchSpec
from nbgpu_backend.providers.local.provider import LocalProvider

from tests.support.backend import BackendProcess

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
