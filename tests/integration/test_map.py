"""A map against a real backend that is killed meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from nbgpu.client import Client

from tests.support.backend import BackendProcess
from tests.support.waiting import until

ROWS = 300
KILLS = 3


def test_a_map_survives_the_kills_of_its_backend_and_submits_no_row_twice(
    backend: BackendProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGPU_HOME", str(backend.home.root))
    backend.deploy("work")
    client = Client()
    endpoint = client.endpoint("work")
    out = tmp_path / "answers.parquet"

    def ended() -> int:
        journal = out.with_name(out.name + ".journal")
        return journal.read_text().count('"end"') if journal.exists() else 0

    def kill() -> None:
        for n in range(KILLS):
            until(lambda n=n: ended() >= (n + 1) * ROWS // (KILLS + 2), within=60)
            backend.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    found = endpoint.map(
        [f"question {n}" for n in range(ROWS)], concurrency=16, max_tokens=1, out=out, expand=True
    )
    killer.join()
    assert list(found.df["status"]) == ["COMPLETED"] * ROWS
    assert found.df["answer"].notna().all() and found.df["job"].nunique() == ROWS
    jobs = client.do("ls", kind="jobs", endpoint="work", limit=10_000)
    assert set(jobs) == set(found.df["job"]), "a row was submitted twice"
    assert out.exists()
