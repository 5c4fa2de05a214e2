"""The example notebooks, executed for real (with a tiny random model in the place of the small real one)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import pytest

from demo.notebook import execute
from tests.support.backend import CLONE, BackendProcess
from tests.support.ssh_pods import share_engines
from tests.support.ssh_workers import engines_there
from tests.support.sshd import Sshd, serving


@pytest.mark.vllm
def test_the_quickstart_answers_and_draws_both_charts(
    backend: BackendProcess, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (backend.home.models / "smollm2-135m-instruct").symlink_to(tiny_llama)
    monkeypatch.setenv("NBGPU_HOME", str(backend.home.root))
    heard: list[str] = []
    done = execute(CLONE / "notebooks" / "quickstart.ipynb", tmp_path / "out", heard.append)
    notebook = nbformat.read(done.notebook, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    outputs = {cell.source.split("\n")[0]: cell.outputs for cell in code}
    (asked,) = outputs["%%gpu ask smol --temperature 0 --max-tokens 60 -o answer"]
    assert "cold start" in asked.data["text/plain"]
    for kind in ("latency", "cost"):
        (chart,) = outputs[f"%gpu chart smol {kind}"]
        assert chart.data["image/png"]
    assert [r["cold"] for r in backend.records("smol", 6)] == [True] + [False] * 5
    html = done.html.read_text()
    assert html.count('src="data:image/png') == 2 and backend.backend.token not in html
    assert heard[0] == "%load_ext nbgpu"


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handlers' environment is that of the machine's cache: building it takes a minute."""
    if "NBGPU_ENGINES" not in os.environ:
        monkeypatch.setenv("NBGPU_ENGINES", str(Path("~/.cache/nbgpu/engines").expanduser()))


def test_the_serverless_notebook_runs_jobs_and_a_frame(
    engines: None, backend: BackendProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGPU_HOME", str(backend.home.root))
    # it writes its handlers beside itself
    source = Path(shutil.copy(CLONE / "notebooks" / "serverless.ipynb", tmp_path))
    done = execute(source, tmp_path / "out", lambda line: None)
    notebook = nbformat.read(done.notebook, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)

    def said(start: str) -> str:
        (cell,) = [cell for cell in code if cell.source.startswith(start)]
        data = [o.get("text") or o["data"].get("text/plain", "") for o in cell.outputs]
        return "\n".join(data)

    assert "'words': 9, 'sentences': 2" in said("import nbgpu")
    assert "failed: ValueError: there are no words" in said("from nbgpu.errors")
    assert "".join(said("counter = gpu").split()) == "01234"
    assert said("job = counter").splitlines() == ["it has begun: 0", "", "'CANCELLED'"]
    listed = said("%gpu ls jobs")
    assert all(state in listed for state in ("COMPLETED", "FAILED", "CANCELLED"))
    assert "45 rows by readability" in said("import itertools")
    assert "all 45 rows were done before" in said("again =") and "(45, 0, " in said("again =")
    (chart,) = next(c for c in code if c.source.startswith("%gpu chart")).outputs
    assert chart.data["image/png"] and "48 requests, 1 failed" in chart.data["text/plain"]
    table = (tmp_path / "serverless-example" / "scores.csv").read_text().splitlines()
    assert len(table) == 46 and table[0].startswith("text,output,status,error")
    assert backend.get("/nbgpu/v1/summary")["endpoints"] == []
    assert backend.backend.token not in done.html.read_text()


def test_the_pods_notebook_runs_cells_and_moves_values_and_files(
    engines: None, backend: BackendProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGPU_HOME", str(backend.home.root))
    source = Path(shutil.copy(CLONE / "notebooks" / "pods.ipynb", tmp_path))
    done = execute(source, tmp_path / "out", lambda line: None)
    notebook = nbformat.read(done.notebook, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)

    def said(part: str) -> str:
        (cell,) = [cell for cell in code if part in cell.source]
        data = [o.get("text") or o["data"].get("text/plain", "") for o in cell.outputs]
        return "\n".join(data)

    assert "study /workspace 8" in said("platform.node()")
    assert "123.5 MB" in said("%pip install")
    (total,) = next(cell for cell in code if cell.source == "total").outputs
    assert total.data["text/plain"] == "499500"
    assert "so far" in said("study.run(") and "ZeroDivisionError" in said("study.run(")
    assert [line for line in said("%gpu attach").split() if line.isdigit()] == list("12345")
    assert "from the notebook and from the pod" in said("print(Path('pods-example/answer.txt')")
    assert "127.0.0.1" in said("%gpu port study")
    assert "from the notebook and from the pod" in said("print(open('answer.txt').read())")
    assert backend.get("/nbgpu/v1/summary")["pods"] == []
    assert backend.backend.token not in done.html.read_text()


@pytest.mark.vllm
def test_the_notebook_of_own_servers_opens_a_pod_and_serves_a_model_on_one(
    backend: BackendProcess,
    pod_engines: Path,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NBGPU_HOME", str(backend.home.root))
    with serving(Sshd(tmp_path / "server")) as server:
        share_engines(server, pod_engines)
        engines_there(server)
        hop = server.hop()
        monkeypatch.setenv("NBGPU_EXAMPLE_MODEL", str(tiny_llama))
        monkeypatch.setenv("NBGPU_EXAMPLE_SERVER", f"{hop.user}@{hop.address}:{hop.port}")
        monkeypatch.setenv("NBGPU_EXAMPLE_OPTIONS", f"--key {server.user_key} --yes")
        source = Path(shutil.copy(CLONE / "notebooks" / "own-servers.ipynb", tmp_path))
        done = execute(source, tmp_path / "out", lambda line: None)
    notebook = nbformat.read(done.notebook, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    (total,) = next(cell for cell in code if cell.source == "total").outputs
    assert total.data["text/plain"] == "4950"
    offers = next(cell for cell in code if cell.source == "%gpu offers").outputs
    assert "lab1" in str(offers) and "processors" in str(offers)
    assert backend.get("/nbgpu/v1/hosts")["hosts"] == []
