"""A host whose clock is off by an hour: what a pod there costs and when it ends goes by ours."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pods import PodBackend
from tests.support.ssh_pods import add_host, share_engines
from tests.support.sshd import Sshd, needs_sshd, serving
from tests.support.waiting import until

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.fixture(params=["+1h", "-1h"])
def off(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def enter(off: str, tmp_path: Path) -> tuple[str, ...]:
    """A command that runs another one, and all that it starts, where the time is `off`: an /etc of its own
    has the library that says so."""
    if not FAKETIME.exists():
        pytest.skip("no libfaketime: install faketime (tests/debian-packages.txt)")
    etc = tmp_path / "etc"
    subprocess.run(["cp", "-a", "/etc", etc], check=True)
    (etc / "ld.so.preload").write_text(f"{FAKETIME}\n")
    (etc / "faketimerc").write_text(f"{off}\n")
    there = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc && exec "$@"', str(etc))
    if subprocess.run([*there, "true"], capture_output=True).returncode:
        pytest.skip("an /etc of its own takes root, and a mount namespace")
    return there


@pytest.fixture
def home(enter: tuple[str, ...], tmp_path: Path, pod_engines: Path) -> Iterator[PodBackend]:
    needs_sshd()
    backend = PodBackend(tmp_path / "home")
    backend.place = "lab1"
    with serving(Sshd(tmp_path / "server", enter=enter)) as server:
        share_engines(server, pod_engines)
        add_host(backend, server)
        backend.start()
        yield backend
        backend.shutdown(everything=True)


def open_there(home: PodBackend, **limits: Any) -> float:
    """-> when it was opened"""
    home.http.patch("/nbgpu/v1/settings", json={"rates": {"lab1": "3600"}}).raise_for_status()
    began = time.time()
    home.open_pod(limits=limits)
    hour = float(home.printed("import time; print(time.time())")) - time.time()
    assert 3500 < abs(hour) < 3700  # or nothing is tested
    return began


def test_a_pod_ends_and_costs_by_our_clock(home: PodBackend, off: str) -> None:
    checked = home.cli("host", "check", "lab1").stdout
    assert ("ahead" if off == "+1h" else "behind") in checked and "3600" in checked
    ends_us = int((time.time() + 25) * 1e6)
    began = open_there(home, untilUs=ends_us)
    home.start_run("import time; time.sleep(1000)")
    started_us = home.pod()["nbgpu"]["startedUs"]
    assert began - 1 < started_us / 1e6 < time.time()
    until(lambda: home.state() == "stopped", within=40)
    assert 0 <= time.time() - ends_us / 1e6 < 8
    pod = home.pod()["nbgpu"]
    assert pod["reason"]["code"] == "until"
    assert 0 < float(pod["costSoFar"]) <= time.time() - began + 1  # a dollar a second


def test_an_idle_pod_there_is_stopped_when_its_time_has_come(home: PodBackend) -> None:
    open_there(home, idleStopS=12)
    used = time.time()
    run = home.get("/nbgpu/v1/pods/train/runs")["runs"][-1]
    assert abs(run["askedUs"] / 1e6 - used) < 10
    until(lambda: home.state() == "stopped", within=40)
    assert 8 < time.time() - used < 30
    assert home.pod()["nbgpu"]["reason"]["code"] == "idle"
