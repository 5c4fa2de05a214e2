"""Pods on hosts whose links break: the work goes on, nothing is lost, nothing twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.support.pods import PodBackend, status_of, text_of
from tests.support.ssh_pods import add_host, share_engines
from tests.support.sshd import Net, Sshd, serving, tunnel_pid
from tests.support.waiting import until

COUNT = "import time\nfor n in range(1, {}):\n    print(n, flush=True)\n    time.sleep(0.1)"


def lab(tmp_path: Path, server: Sshd) -> PodBackend:
    backend = PodBackend(tmp_path / "home")
    backend.place = "lab1"
    add_host(backend, server)
    backend.start()
    return backend


@pytest.fixture
def server(tmp_path: Path, pod_engines: Path) -> Iterator[Sshd]:
    with serving(Sshd(tmp_path / "server")) as found:
        share_engines(found, pod_engines)
        yield found


@pytest.fixture
def home(tmp_path: Path, server: Sshd) -> Iterator[PodBackend]:
    backend = lab(tmp_path, server)
    yield backend
    backend.shutdown(everything=True)


def collect(home: PodBackend, run: str, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """To the run's end, through whatever breaks."""
    items = list(known)

    def done() -> bool:
        try:
            items.extend(home.output(run=run, since=items[-1]["n"] if items else 0))
        except Exception:
            return False
        return bool(items) and items[-1]["type"] == "run_ended"

    until(done, within=60, every=0.3)
    return items


def numbers(items: list[dict[str, Any]]) -> list[int]:
    return [int(line) for line in text_of(items).split()]


def test_a_cell_goes_on_while_tunnel_session_and_backend_are_killed(
    home: PodBackend, server: Sshd
) -> None:
    home.open_pod()
    home.run("kept = 'still here'")
    run = home.start_run(COUNT.format(101))
    place = home.home.hosts / "lab1"
    os.kill(tunnel_pid(place), signal.SIGKILL)
    time.sleep(1)
    for pid in server.sessions():
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    for pid in server.programs():
        os.kill(pid, signal.SIGKILL)
    home.kill()
    home.start()
    home.pod_ready()
    items = collect(home, run["id"], [])
    assert numbers(items) == list(range(1, 101)) and status_of(items) == "ok"
    assert home.printed("print(kept)") == "still here\n"
    home.delete_pod()
    assert [p.name for p in (server.nbgpu / "pods").iterdir()] == []
    assert [p.name for p in (server.nbgpu / "instances").iterdir()] == []


def test_a_notebooks_kernel_there_outlives_its_tunnel(home: PodBackend) -> None:
    home.open_pod()
    specs = KernelSpecManager()
    specs.kernel_dirs = [str(home.home.kernels)]
    spec = specs.get_kernel_spec("nbgpu-train")
    assert spec.display_name == "Python 3 · train (cpu, lab1)"
    manager = KernelManager(kernel_name="nbgpu-train", kernel_spec_manager=specs)
    manager.start_kernel()
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=30)
        assert client.execute_interactive("x = 42", timeout=20)["content"]["status"] == "ok"
        os.kill(tunnel_pid(home.home.hosts / "lab1"), signal.SIGKILL)

        def answers() -> bool:
            try:
                return bool(client.execute("x", reply=True, timeout=2)["content"]["status"] == "ok")
            except TimeoutError:
                return False

        until(answers, within=60)
        assert home.printed("print(x)") == "42\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def net() -> Iterator[Net]:
    found = Net(1)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def away(tmp_path: Path, net: Net) -> Iterator[Sshd]:
    """A host in a network of its own, which `net` cuts and restores."""
    with serving(Sshd(tmp_path / "far", net.address(0), enter=net.enter(0), port=2222)) as server:
        yield server


@pytest.fixture
def far(tmp_path: Path, away: Sshd, pod_engines: Path, net: Net) -> Iterator[PodBackend]:
    share_engines(away, pod_engines)
    backend = lab(tmp_path, away)
    yield backend
    net.restore(0)
    backend.shutdown(everything=True)


def test_an_image_is_refused_there(home: PodBackend) -> None:
    asked = {"name": "t", "image": "python:3.12", "nbgpu": {"place": {"on": "lab1"}}}
    refused = home.http.post("/v2/pods", json=asked)
    assert refused.status_code == 503
    assert "pods from images are not supported on lab1 yet" in refused.text


def test_a_host_that_is_not_heard_is_not_dead(far: PodBackend, net: Net) -> None:
    far.http.patch("/nbgpu/v1/settings", json={"rates": {"lab1": "3600"}})
    far.open_pod()
    run = far.start_run(COUNT.format(151))
    heard = [next(iter(far.output(run=run["id"])))]
    net.cut(0)
    until(lambda: far.state() == "unreachable", within=40)
    pod = far.pod()
    assert pod["status"] == "RUNNING" and "meter goes on" in pod["nbgpu"]["reason"]["text"]
    before = float(pod["nbgpu"]["costSoFar"])
    far.kill()  # and the next backend finds a host that it cannot ask
    began = time.monotonic()
    far.start()
    assert time.monotonic() - began < 10
    until(lambda: far.state() == "unreachable", within=20)
    assert float(far.pod()["nbgpu"]["costSoFar"]) > before
    early = far.http.delete("/v2/pods/train", timeout=60)
    assert early.status_code == 503 and "heard" in early.json()["detail"]
    net.restore(0)
    until(lambda: far.state() == "stopped", within=60)  # as it was asked to be
    far.http.post("/v2/pods/train/action", json={"action": "start"}).raise_for_status()
    far.pod_ready()
    seen = [i for i in far.output(run=run["id"]) if i["type"] == "stream"]
    assert numbers(seen) == list(range(1, len(numbers(seen)) + 1)) and heard
    far.delete_pod()


def test_a_file_on_its_way_waits_for_a_link_that_is_cut(
    tmp_path: Path, far: PodBackend, away: Sshd, net: Net
) -> None:
    far.open_pod()
    file = tmp_path / "large.bin"
    file.write_bytes(os.urandom(30_000_000))
    net.slow(0, 50)  # some five seconds
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(far.cli, "put", "train", str(file), timeout=200)
        part = away.nbgpu / "volumes"
        until(lambda: any(f.stat().st_size > 1e6 for f in part.rglob("*") if f.is_file()))
        net.cut(0)
        until(lambda: far.state() == "unreachable", within=40)
        net.restore(0)
        done = put.result(timeout=100)
    assert done.returncode == 0, done.stderr
    (there,) = part.rglob("large.bin")
    assert there.read_bytes() == file.read_bytes()


def test_a_cut_link_delays_a_cell_and_loses_none_of_it(far: PodBackend, net: Net) -> None:
    far.open_pod()
    run = far.start_run(COUNT.format(151))
    time.sleep(1)
    net.cut(0)
    until(lambda: far.state() == "unreachable", within=40)
    net.restore(0)
    far.pod_ready()
    items = collect(far, run["id"], [])
    assert numbers(items) == list(range(1, 151)) and status_of(items) == "ok"
