"""Inside a pod the environment names the backend: it is used, and none is ever started."""

from __future__ import annotations

from pathlib import Path

import pytest
from nbgpu import errors
from nbgpu.client import connect
from nbgpu_backend import runtime

from tests.support.api import TOKEN, Api


def test_the_given_backend_is_used(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGPU_HOME", str(tmp_path / "pod"))
    monkeypatch.setenv("NBGPU_URL", f"http://127.0.0.1:{api.port}/")
    monkeypatch.setenv("NBGPU_TOKEN", TOKEN)
    gpu = connect()
    assert gpu.backend.url == f"http://127.0.0.1:{api.port}" and len(gpu.ls()) == 0
    assert gpu.status().backend.url == gpu.backend.url
    assert not (tmp_path / "pod").exists()


def test_a_given_backend_that_is_away_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBGPU_HOME", str(tmp_path / "pod"))
    monkeypatch.setenv("NBGPU_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NBGPU_TOKEN", "x")
    with pytest.raises(errors.BackendDown):
        connect().ls()
    assert not (tmp_path / "pod").exists()


def test_half_of_it_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGPU_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("NBGPU_TOKEN", raising=False)
    assert runtime.given() is None
