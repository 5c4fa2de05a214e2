"""A host whose folder somebody has removed by hand, with work on it: everything ends all the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbgpu_backend import runtime

from tests.support.ssh_workers import HostsBackend
from tests.support.sshd import Sshd, needs_sshd, serving
from tests.support.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    needs_sshd()
    with serving(Sshd(tmp_path / "server")) as made:
        yield made


def test_a_backend_ends_though_the_host_of_a_worker_was_removed_by_hand(
    tmp_path: Path, server: Sshd
) -> None:
    home = HostsBackend(tmp_path / "home", {"lab1": server})
    home.start()
    home.deploy_on("far", "lab1")
    assert home.chat("far").status_code == 200
    shutil.rmtree(home.home.hosts / "lab1")
    pid = home.backend.pid
    home.http.post("/nbgpu/v1/shutdown", json={"all": True}, timeout=60).raise_for_status()
    until(lambda: runtime.start_time(pid) is None, within=30)
