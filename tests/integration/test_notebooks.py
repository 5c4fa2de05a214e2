"""The example notebooks, executed for real (with a tiny random model in the place of the small real one)."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest

from demo.notebook import execute
from tests.support.backend import CLONE, BackendProcess


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


def test_the_serverless_notebook_runs_jobs_and_a_table(
    backend: BackendProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGPU_HOME", str(backend.home.root))
    source = shutil.copy(CLONE / "notebooks" / "serverless.ipynb", tmp_path)
    done = execute(Path(source), tmp_path / "out", lambda line: None)
    notebook = nbformat.read(done.notebook, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    texts = {cell.source.split("\n")[0]: str(cell.outputs) for cell in code}
    assert "'score': -2" in texts['job = reviews.run({"text": "slow and dull"})']
    assert "the review is empty" in texts['failed = reviews.run({"text": ""})']
    assert "60 rows by reviews" in texts["import pandas as pd"]
    assert "15 failed" in texts["import pandas as pd"]
    assert "image/png" in texts["%gpu chart reviews latency"]
    assert backend.get("/v2/serverless")["endpoints"] == []
