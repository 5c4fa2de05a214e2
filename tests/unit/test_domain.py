"""Names, states, memory."""

from __future__ import annotations

import pytest
from nbgpu_backend.control.phases import PhaseTimer
from nbgpu_backend.domain.names import complaint, did_you_mean, suggest
from nbgpu_backend.domain.states import WORKER_STATES, endpoint_state
from nbgpu_backend.engines.base import PhaseMarker


@pytest.mark.parametrize("name", ["chat", "a", "qwen3-8b", "0", "a" * 63])
def test_good_names(name: str) -> None:
    assert complaint(name) is None


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "a" * 64, "pods", "openai", "nbgpu", "é"])  # fmt: skip
def test_bad_names_are_told_what_to_do(name: str) -> None:
    found = complaint(name)
    assert found and found[0] and "--name" in found[1]


def test_a_name_is_suggested_from_a_model() -> None:
    assert suggest("HuggingFaceTB/SmolLM2-135M_Instruct@main") == "smollm2-135m-instruct"
    assert suggest("./models/My Model/") == "my-model" and suggest("///") == ""
    assert did_you_mean("smoll", ["smol", "chat"]) == "Did you mean 'smol'?"
    assert did_you_mean("xyz", ["smol"]) == ""


def test_what_bills_and_counts() -> None:
    assert {n for n, s in WORKER_STATES.items() if s.bills} == {
        "starting", "idle", "running", "draining", "unhealthy", "unreachable",
    }  # fmt: skip
    assert not WORKER_STATES["parked"].counts and not WORKER_STATES["throttled"].bills


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"stopped": True, "workers": ["running"]}, "stopped"),
        ({"failed": True}, "failed"),
        ({"workers": ["draining", "running"]}, "busy"),
        ({"workers": ["idle"], "fetching": True}, "ready"),
        ({"fetching": True}, "fetching"),
        ({"throttled": True, "workers": ["draining"]}, "throttled"),
        ({"workers": ["starting"]}, "starting"),
        ({"workers": ["draining"]}, "draining"),
        ({"workers": ["unreachable", "draining"]}, "unreachable"),
        ({"workers": ["unreachable", "idle"]}, "ready"),
        ({}, "asleep"),
    ],
)
def test_an_endpoints_state_follows_from_its_workers(facts: dict[str, object], state: str) -> None:
    base: dict[str, object] = {"stopped": False, "failed": False, "fetching": False, "throttled": False, "workers": []}  # fmt: skip
    assert endpoint_state(**(base | facts)) == state  # type: ignore[arg-type]


def test_phases_end_at_the_engines_own_lines_also_when_one_is_skipped() -> None:
    import re

    markers = [PhaseMarker(n, re.compile(n.upper())) for n in ("import", "engine", "weights")]
    timer = PhaseTimer(markers)
    assert timer.current == "import" and not timer.see(["nothing"], 1.0)
    assert timer.see(["IMPORT done"], 2.0) and timer.current == "engine"
    assert timer.see(["IMPORT done", "WEIGHTS done"], 5.0) and timer.current == "api"
    timer.ready(6.0)
    assert timer.done == [("import", 2.0), ("weights", 3.0), ("api", 1.0)]
