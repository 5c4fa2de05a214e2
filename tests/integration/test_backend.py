"""The backend as a process: on demand, exactly one, killed and back, full and read-only disks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbgpu
import pytest
from nbgpu_backend import runtime
from nbgpu_backend.errors import BackendError, DiskError
from nbgpu_backend.home import Home

from tests.support.backend import CLONE, BackendProcess, command_engine
from tests.support.ports import free_port
from tests.support.waiting import until

ENSURE = "from nbgpu_backend import runtime; b = runtime.ensure_running(); print(b.pid, b.url)"


def test_nbgpu_is_the_one_of_this_clone() -> None:
    assert Path(nbgpu.__file__).is_relative_to(CLONE)
    assert Path(runtime.__file__).is_relative_to(CLONE)


def test_eight_at_once_start_one_backend(tmp_path: Path) -> None:
    process = BackendProcess(tmp_path / "home")

    def ensure(_: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", ENSURE],
            env=process.environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    try:
        with ThreadPoolExecutor(8) as pool:
            answers = set(pool.map(ensure, range(8)))
        assert len(answers) == 1
        assert process.log().count(" serves ") == 1
    finally:
        process.shutdown(everything=True)


def test_backend_json_is_private_and_says_how_to_reach_it(backend: BackendProcess) -> None:
    path = backend.home.backend_json
    assert path.stat().st_mode & 0o777 == 0o600
    found = json.loads(path.read_text())
    assert set(found) == {"url", "token", "pid", "start", "boot_id", "version", "api_version"}
    assert backend.get("/nbgpu/v1/health")["pid"] == found["pid"]


def test_a_second_backend_is_refused(backend: BackendProcess) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "nbgpu_backend"],
        env=backend.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert second.returncode == 1 and "runs for" in second.stderr


def test_a_killed_backend_comes_back_at_its_port_and_adopts_its_worker(
    backend: BackendProcess,
) -> None:
    backend.deploy("kept")
    backend.chat("kept")
    before, worker = backend.backend, backend.worker("kept")
    backend.kill()
    os.kill(worker["pid"], 0)
    after = backend.start()
    assert (after.url, after.token) == (before.url, before.token) and after.pid != before.pid
    adopted = backend.worker("kept", "idle")
    assert (adopted["id"], adopted["pid"]) == (worker["id"], worker["pid"])
    answer = backend.chat("kept")
    assert answer.status_code == 200 and answer.headers["x-nbgpu-cold"] == "0"
    ledger = backend.get("/nbgpu/v1/metrics/ledger")["columns"]
    assert len(ledger["instance"]) == 1 and ledger["ended_us"] == [None]


def test_a_worker_that_is_starting_is_adopted_and_serves(backend: BackendProcess) -> None:
    backend.deploy("early", workers={"min": 1, "max": 1}, nbgpu={"engine": command_engine("--startup-s", "1")})  # fmt: skip
    until(lambda: backend.worker("early", "starting")["pid"])
    worker = backend.worker("early")
    backend.kill()
    backend.start()
    assert backend.worker("early", "idle")["pid"] == worker["pid"]


def test_a_worker_that_died_meanwhile_is_written_down_with_its_end(backend: BackendProcess) -> None:
    backend.deploy("mourned")
    backend.chat("mourned")
    worker = backend.worker("mourned")
    backend.kill()
    os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: runtime.start_time(worker["pid"]) is None)
    backend.start()
    assert backend.row("mourned")["workers"] == []
    assert any("signal 9" in x for x in backend.get("/nbgpu/v1/why/mourned")["history"])
    assert backend.chat("mourned").headers["x-nbgpu-worker"] != worker["id"]
    assert backend.get("/nbgpu/v1/metrics/ledger")["columns"]["ended_us"][0] is not None


def test_shutdown_leaves_workers_and_shutdown_all_leaves_nothing(backend: BackendProcess) -> None:
    backend.deploy("left", workers={"min": 1, "max": 1})
    pid = backend.worker("left", "idle")["pid"]
    backend.shutdown(everything=False)
    os.kill(pid, 0)
    backend.start()
    assert backend.worker("left", "idle")["pid"] == pid
    backend.shutdown(everything=True)
    assert runtime.start_time(pid) is None
    assert list(backend.home.instances.iterdir()) == []
    assert _carry(backend.home.root) == []


def test_a_taken_port_is_replaced_and_told(backend: BackendProcess) -> None:
    before = backend.backend
    port = int(before.url.rsplit(":", 1)[1])
    backend.shutdown(everything=False)
    with socket.create_server(("127.0.0.1", port)):
        after = backend.start()
    assert after.url != before.url and after.token == before.token
    assert f"port {port} is taken" in backend.log()


def test_a_token_never_goes_to_whoever_has_the_port_now(backend: BackendProcess) -> None:
    port = int(backend.backend.url.rsplit(":", 1)[1])
    backend.kill()
    with until(lambda: _listen(port)) as impostor:
        impostor.settimeout(0.2)
        assert runtime.locate(backend.home) is None
        with pytest.raises(TimeoutError):
            impostor.accept()


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[tuple[Home, subprocess.Popen[bytes]]]:
    """A process that backend.json names and that answers nobody."""
    home = Home(tmp_path / "home")
    home.prepare()
    process = subprocess.Popen(["sleep", "60"])
    start = runtime.start_time(process.pid)
    assert start is not None
    told = runtime.Backend(
        url=f"http://127.0.0.1:{free_port()}", token="t", pid=process.pid, start=start,
        boot_id=runtime.boot_id(), version="0", api_version=runtime.API_VERSION,
    )  # fmt: skip
    home.backend_json.write_text(json.dumps(told.dump()))
    yield home, process
    process.kill()
    process.wait()


def test_a_backend_that_is_dying_is_waited_for(
    mute: tuple[Home, subprocess.Popen[bytes]],
) -> None:
    home, process = mute
    threading.Timer(0.3, process.kill).start()
    assert runtime.locate(home) is None
    assert process.wait(1) == -signal.SIGKILL


def test_a_backend_that_lives_and_is_silent_is_told(
    mute: tuple[Home, subprocess.Popen[bytes]],
) -> None:
    home, process = mute
    with pytest.raises(BackendError, match=f"pid {process.pid}.* does not answer"):
        runtime.locate(home)


def test_the_lock_of_a_backend_that_is_dying_is_waited_for(tmp_path: Path) -> None:
    process = BackendProcess(tmp_path / "home")
    process.home.prepare()
    held = runtime.lock(process.home.run / "backend.lock", wait=False)
    assert held is not None
    threading.Timer(1.5, os.close, (held,)).start()
    try:
        process.start()
    finally:
        process.shutdown(everything=True)


def test_another_api_version_offers_a_restart(backend: BackendProcess) -> None:
    path = backend.home.backend_json
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "api_version": 99}))
    try:
        with pytest.raises(BackendError, match="nbgpu shutdown"):
            runtime.locate(backend.home)
    finally:
        path.write_text(json.dumps(found))


def test_what_runs_and_belongs_to_nothing_is_shown_as_an_orphan(backend: BackendProcess) -> None:
    backend.deploy("orphan", workers={"min": 1, "max": 1})
    worker = backend.worker("orphan", "idle")
    backend.kill()
    import sqlite3

    with sqlite3.connect(backend.home.state_db) as database:
        database.execute("DELETE FROM endpoints")
        database.execute("DELETE FROM instances")
    database.close()
    backend.start()
    orphans = backend.get("/nbgpu/v1/summary")["orphans"]
    assert [o["pid"] for o in orphans] == [worker["pid"]]
    backend.shutdown(everything=True)
    assert runtime.start_time(worker["pid"]) is None


def test_a_read_only_home_is_one_sentence(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DiskError, match=r"NBGPU_HOME .* cannot be written"):
        runtime.ensure_running(Home(blocker / "home"))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root and mount")
def test_a_full_disk_is_one_sentence_and_what_ran_before_runs_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)])
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    process = BackendProcess(disk / "home")
    try:
        process.start()
        process.deploy("full", workers={"min": 1, "max": 1})
        process.worker("full", "idle")
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        refused = process.http.post(
            "/v2/serverless", json={"name": "more", "nbgpu": {"engine": command_engine()}}
        )
        assert refused.status_code == 507 and "Free some space" in refused.json()["detail"]
        assert process.chat("full").status_code == 200
        process.kill()
        with pytest.raises((BackendError, DiskError), match="cannot be written"):
            process.start()
        filler.unlink()
        process.start()
        assert process.chat("full").status_code == 200
        process.deploy("more")
    finally:
        process.shutdown(everything=True)
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _listen(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:  # the dead one's threads may still hold it
        return None


def _carry(home: Path) -> list[str]:
    """Processes that have this NBGPU_HOME in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if f"NBGPU_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except (OSError, ValueError):
            continue
    return [line for line in found if line]
