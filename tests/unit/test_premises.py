"""What engines start on another host is made of that host's paths, and of nothing of the backend's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.domain.supplies import Premises, Weights
from nbgpu_backend.engines import engine
from nbgpu_backend.engines.base import EngineCommand, WorkerSpec
from nbgpu_backend.home import Home

THERE = Premises(
    environment="/there/engines/e",
    python="/there/python3",
    code="/there/code/1",
    home="/there",
    hub="/there/hub",
    model="/there/models/m/handler.py",
    weights=Weights(1 << 30, "bfloat16"),
    flags=frozenset({"amx_bf16"}),
    cores=64,
    env={"PATH": "/there/bin", "OPENBLAS_CORETYPE": "Zen", "TZ": "Asia/Tokyo"},
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An installation that has no engine. `here` marks what must not be seen there."""
    for name in ("PATH", "TMPDIR", "OPENBLAS_CORETYPE", "HF_HOME", "NBGPU_ENGINES"):
        monkeypatch.setenv(name, "/here")
    return Home(tmp_path / "here")


def command(
    name: str, home: Home, options: Sequence[str] = (), there: Premises = THERE
) -> EngineCommand:
    model = None if name == "command" else Path("/there/models/m/handler.py")
    spec = WorkerSpec("tiny", model, 4000, 3, options, endpoint="ep", worker="w", premises=there)
    made = engine(name, home).command(spec)
    starts: list[EngineCommand | ParentSpec] = [made]
    if (parent := engine(name, home).parent(spec)) is not None:
        starts.append(parent)
    for one in starts:
        assert "here" not in json.dumps([list(one.argv), dict(one.env)]).replace("there", "")
    return made


def test_vllm_computes_in_what_that_processor_is_fast_in(home: Home) -> None:
    made = command("vllm", home)
    assert list(made.argv[:3]) == [
        "/there/engines/e/bin/vllm",
        "serve",
        "/there/models/m/handler.py",
    ]
    assert made.argv[made.argv.index("--dtype") + 1] == "bfloat16"
    assert made.env["OMP_NUM_THREADS"] == "3" and made.env["OPENBLAS_CORETYPE"] == "Zen"
    assert (
        made.env["VLLM_CACHE_ROOT"] == "/there/cache/vllm" and made.env["HF_HOME"] == "/there/hub"
    )
    old = replace(THERE, flags=frozenset({"avx2"}))
    slow = command("vllm", home, there=old)
    assert slow.argv[slow.argv.index("--dtype") + 1] == "float32"
    needs = [engine("vllm", home).memory(None, [], premises) for premises in (THERE, old)]
    assert needs[1] - needs[0] == 1 << 30


def test_a_handler_runs_behind_the_relay_of_that_host(home: Home) -> None:
    made = command("handler", home, ["--fast"])
    assert made.argv[0] == "/there/python3" and "/there/code/1/relay.py" in made.argv
    assert list(made.argv[-4:]) == [
        "/there/engines/e/bin/python", "-u", "/there/models/m/handler.py", "--fast",
    ]  # fmt: skip
    assert made.argv[made.argv.index("--cwd") + 1] == "/there/models/m"
    assert made.env["PATH"] == "/there/engines/e/bin:/there/bin" and made.env["TZ"] == "Asia/Tokyo"
    assert made.env["RUNPOD_SKIP_GPU_CHECK"] == "true"
    assert (
        "RUNPOD_SKIP_GPU_CHECK"
        not in command("handler", home, there=replace(THERE, has_gpu=True)).env
    )


def test_a_program_is_looked_for_on_that_hosts_path(home: Home) -> None:
    made = command("command", home, ["sh", "serve.sh", "{port}"])
    assert list(made.argv) == ["sh", "serve.sh", "4000"] and made.env["PATH"] == "/there/bin"


def test_a_parent_of_vllm_there_is_that_engines_and_runs_the_code_there(home: Home) -> None:
    model = Path("/there/models/m")
    spec = WorkerSpec("tiny", model, 4000, 3, (), endpoint="ep", worker="w", premises=THERE)
    parent = engine("vllm", home).parent(spec)
    assert parent is not None and parent.env["OMP_NUM_THREADS"] == "1"
    code = THERE.code
    python = "/there/engines/e/bin/python"
    assert list(parent.argv) == [python, f"{code}/parent.py", f"{code}/preimport.py"]
    newer = replace(spec, premises=replace(THERE, code="/there/code/2"))
    other = engine("vllm", home).parent(newer)
    assert other is not None and other.key != parent.key
