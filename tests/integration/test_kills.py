"""No kill loses a job, ends one twice, or makes one run again that was not held by what died.

The short form of `python -m tests.bench.kills`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.kill_run import Plan, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="instances run on Linux")


def test_every_acknowledged_job_has_one_end_whatever_is_killed(tmp_path: Path) -> None:
    found = run(tmp_path, Plan(jobs=300, kills=15, pause_s=2.5, seed=1))
    print(found.line())
    assert not found.wrong, "\n".join(found.wrong)
    assert found.killed["backend"] and sum(found.killed.values()) >= 15
