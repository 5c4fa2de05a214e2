"""The short form of `python -m tests.bench.soak`: what is killed costs no request its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from nbgpu_backend.engines.vllm.environment import Environment

from tests.support.soak_run import ANSWERED, Plan, run


@pytest.mark.vllm
def test_every_request_comes_to_an_end_and_nothing_is_left(
    tmp_path: Path, engine: Environment, tiny_llama: Path
) -> None:
    plan = Plan(seconds=25.0, rate=8.0, pause_s=2.0, seed=11, model=tiny_llama)
    outcome = run(tmp_path, plan, lambda text: None)
    assert outcome.wrong == []
    assert outcome.ends[ANSWERED] > 40 and outcome.killed["backend"] == 1
    assert outcome.killed["worker"] + outcome.killed["shim"] + outcome.killed["parked"] >= 3
