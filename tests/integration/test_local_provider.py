"""The local provider against real shims, also those that are killed at a bad moment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend import shim
from nbgpu_backend.clock import SystemClock
from nbgpu_backend.errors import Conflict, DiskError, NotFound, Unavailable
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import LaunchSpec, WorkerHost
from nbgpu_backend.providers.local import procfs
from nbgpu_backend.providers.local.provider import LocalProvider

from tests.support.shims import STUBBORN_TREE, Yard, broken_json, child_of, until, yard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="instances run on Linux")

NAME = "nbgpu-t-w-1"
# four processes of one session, two of which outlive a killed parent
FAMILY = "sleep 1000 & sh -c 'sleep 1001 & sleep 1002' & echo up; wait"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Yard]:
    with yard(tmp_path / "home") as made:
        yield made


@pytest.fixture
def host(home: Yard) -> WorkerHost:
    return provider(home)


def provider(home: Yard) -> LocalProvider:
    return LocalProvider(Home(home.root), SystemClock())


def spec(home: Yard, script: str, name: str = NAME, **more: Any) -> LaunchSpec:
    fields: dict[str, Any] = {"generation": 1, "ttl_s": 60.0, "grace_s": 5.0, **more}
    return LaunchSpec(name=name, argv=["sh", "-c", script], env=home.env(), **fields)


async def up(host: WorkerHost, name: str = NAME) -> None:
    """Return once the engine has written a line."""
    async with asyncio.timeout(10):
        while not await host.logs(name):
            await asyncio.sleep(0.005)


async def test_a_launched_instance_is_observed_and_stopped(home: Yard, host: WorkerHost) -> None:
    made = await host.launch(
        spec(home, "echo up; sleep 100", generation=4, meta={"endpoint": "e"}, ttl_s=30.0)
    )
    seen = await host.observe(NAME)
    assert (seen.state, seen.pid, seen.generation) == ("running", made.pid, 4)
    assert seen.started_us == made.started_us and seen.meta == {"endpoint": "e"}
    assert seen.lease_s is not None and 25 < seen.lease_s <= 30
    assert seen.exit is None
    ended = await host.stop(NAME, 5.0)
    assert (ended.reason, ended.signal, ended.estimated) == ("asked", signal.SIGTERM, False)
    assert home.engines() == []
    after = await host.observe(NAME)
    assert (after.state, after.exit, after.generation) == ("ended", ended, 4)
    assert await host.stop(NAME, 5.0) == await host.wait(NAME) == ended


async def test_waiting_returns_the_exit_code_and_the_last_lines(
    home: Yard, host: WorkerHost
) -> None:
    await host.launch(spec(home, "echo one; sleep 0.2; echo two >&2; exit 3"))
    ended = await host.wait(NAME)
    assert (ended.code, ended.reason, list(ended.tail)) == (3, "exit", ["one", "two"])
    assert await host.logs(NAME, 1) == ["two"]


async def test_a_failed_exec_is_unavailable_with_the_reason(home: Yard, host: WorkerHost) -> None:
    bad = LaunchSpec(NAME, 1, ["/no/such/engine"], home.env(), ttl_s=60)
    with pytest.raises(Unavailable, match=r"/no/such/engine: No such file") as caught:
        await host.launch(bad)
    assert caught.value.code == "exec_failed"
    seen = await host.observe(NAME)
    assert seen.exit is not None
    assert (seen.exit.code, seen.exit.reason) == (127, "exec")
    await host.forget(NAME)
    assert (await host.observe(NAME)).state == "gone"


async def test_a_taken_name_is_a_conflict(home: Yard, host: WorkerHost) -> None:
    await host.launch(spec(home, "sleep 100"))
    with pytest.raises(Conflict, match="lock is held"):
        await host.launch(spec(home, "sleep 100"))
    await host.stop(NAME, 5)
    until(lambda: not (home.folder(NAME) / "sock").exists())
    with pytest.raises(Conflict):
        await host.launch(spec(home, "sleep 100"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
async def test_a_full_disk_is_a_disk_error_and_nothing_runs(home: Yard) -> None:
    small, proof = home.root / "small", home.root / "ran"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4096", "none", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        host = LocalProvider(Home(small), SystemClock())
        with pytest.raises(DiskError, match="No space left"):
            await host.launch(spec(home, f"mkdir {proof}", secrets={"key": "k"}))
        assert not proof.exists()
        assert await host.list_owned("t") == []
        until(lambda: home.everything() == [])
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


async def test_an_unknown_name_is_said_so(host: WorkerHost) -> None:
    assert (await host.observe(NAME)).state == "gone"
    for call in (host.wait(NAME), host.stop(NAME, 1), host.logs(NAME), host.observe("../run")):
        with pytest.raises(NotFound):
            await call
    assert await host.renew(NAME, 5) is False
    await host.forget(NAME)


async def test_a_renewal_is_refused_once_it_ends(home: Yard, host: WorkerHost) -> None:
    await host.launch(spec(home, "trap '' TERM; echo up; while :; do sleep 0.05; done"))
    await up(host)
    assert await host.renew(NAME, 50)
    stopping = asyncio.create_task(host.stop(NAME, 0.5))
    async with asyncio.timeout(10):
        while await host.renew(NAME, 50):
            await asyncio.sleep(0.01)
    assert (await stopping).signal == signal.SIGKILL
    assert await host.renew(NAME, 50) is False


async def test_a_new_provider_adopts_what_runs(home: Yard, host: WorkerHost) -> None:
    made = await host.launch(
        spec(home, "trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done")
    )
    await up(host)
    heir = provider(home)
    (seen,) = await heir.list_owned("t")
    assert (seen.name, seen.state, seen.pid) == (NAME, "running", made.pid)
    assert await heir.renew(NAME, 30)
    waiting = asyncio.create_task(host.wait(NAME))
    assert (await heir.stop(NAME, 5)).code == 6
    assert (await waiting).code == 6


async def test_a_killed_shim_is_lost_and_its_session_swept(home: Yard, host: WorkerHost) -> None:
    made = await host.launch(spec(home, FAMILY))
    await up(host)
    waiting = asyncio.create_task(host.wait(NAME))
    await asyncio.sleep(0)
    os.kill(made.shim_pid, signal.SIGKILL)
    ended = await waiting
    assert (ended.reason, ended.estimated, ended.code) == ("lost", True, None)
    assert list(ended.tail) == ["up"]
    assert made.started_us - 5_000_000 < ended.ended_us <= SystemClock().now()
    assert home.engines() == []
    assert (await provider(home).observe(NAME)).exit == ended  # the record is on the disk


async def test_what_left_the_session_but_writes_to_the_log_is_swept(
    home: Yard, host: WorkerHost
) -> None:
    made = await host.launch(spec(home, STUBBORN_TREE))
    until(lambda: len(home.engines()) >= 9)
    os.kill(made.shim_pid, signal.SIGKILL)
    assert (await host.wait(NAME)).reason == "lost"
    assert home.engines() == []


async def test_a_sweep_spares_the_session_that_has_the_number_now(
    home: Yard, host: WorkerHost
) -> None:
    made = await host.launch(spec(home, "echo up; exec sleep 1000"))
    await up(host)
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    os.kill(made.shim_pid, signal.SIGKILL)
    path = home.folder(NAME) / "state.json"
    state = json.loads(path.read_bytes())
    # as after a wrap of the pids: the leader of that number started later than ours
    path.write_text(json.dumps({**state, "pid": other.pid, "start": state["start"] - 100}))
    try:
        assert (await host.wait(NAME)).reason == "lost"
        row = procfs.stat(other.pid)
        assert row is not None and row.alive
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("changed", ["boot_id", "pid_ns"])
async def test_a_sweep_touches_nothing_after_a_reboot(
    home: Yard, host: WorkerHost, changed: str
) -> None:
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        home.start(home.folder(NAME), home.spec("true"))
        await host.wait(NAME)
        folder = home.folder(NAME)
        state = json.loads((folder / "state.json").read_bytes())
        row = procfs.stat(other.pid)
        assert row is not None
        state = {**state, "pid": other.pid, "start": row.start, changed: "another"}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "exit.json").unlink()
        assert (await host.wait(NAME)).reason == "lost"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_a_shim_that_is_stopped_still_counts_as_running(home: Yard, host: WorkerHost) -> None:
    made = await host.launch(spec(home, "echo up; sleep 100"))
    os.kill(made.shim_pid, signal.SIGSTOP)
    looking = asyncio.create_task(host.observe(NAME))
    seen = await looking
    assert (seen.state, seen.pid, seen.lease_s) == ("running", made.pid, None)
    os.kill(made.shim_pid, signal.SIGCONT)
    assert (await host.stop(NAME, 5)).reason == "asked"


async def test_two_observers_of_a_lost_instance_agree(home: Yard, host: WorkerHost) -> None:
    made = await host.launch(spec(home, FAMILY))
    await up(host)
    os.kill(made.shim_pid, signal.SIGKILL)
    seen = await asyncio.gather(*(provider(home).observe(NAME) for _ in range(5)))
    until(lambda: home.engines() == [])
    final = await host.wait(NAME)
    assert all(x.exit == final for x in seen if x.state == "ended")


async def test_only_this_installations_instances_are_listed(home: Yard, host: WorkerHost) -> None:
    names = ["nbgpu-t-a-1", "nbgpu-t-b-2", "nbgpu-other-a-1"]
    await asyncio.gather(*(host.launch(spec(home, "sleep 100", name=x)) for x in names))
    (home.instances / "nbgpu-t-not-a-folder").write_text("")
    await host.stop("nbgpu-t-b-2", 5)
    owned = await host.list_owned("t")
    assert [(x.name, x.state) for x in owned] == [
        ("nbgpu-t-a-1", "running"),
        ("nbgpu-t-b-2", "ended"),
    ]
    assert await provider(Yard(home.root / "empty")).list_owned("t") == []


async def test_folders_that_a_killed_launch_left_are_cleared(home: Yard, host: WorkerHost) -> None:
    old, new = (home.instances / f".nbgpu-t-{x}-1.7" for x in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
        (folder / "lock").touch()
    os.utime(old, (1, 1))
    assert await host.list_owned("t") == []
    assert new.exists() and not old.exists()


async def test_a_running_instance_is_not_forgotten(home: Yard, host: WorkerHost) -> None:
    await host.launch(spec(home, "sleep 100"))
    with pytest.raises(Conflict, match="Stop it first"):
        await host.forget(NAME)
    await host.stop(NAME, 5)
    await host.forget(NAME)
    assert list(home.instances.iterdir()) == []


async def test_logs_are_the_last_lines_decoded_with_replacement(
    home: Yard, host: WorkerHost
) -> None:
    script = (
        r"i=0; while [ $i -lt 9000 ]; do echo line number $i; i=$((i+1)); done; printf '\377end'"
    )
    await host.launch(spec(home, script))
    await host.wait(NAME)
    lines = await host.logs(NAME, 8000)
    assert len(lines) == 8000
    assert lines[0] == "line number 1001" and lines[-1] == "\ufffdend"
    assert len(await host.logs(NAME, 100_000)) == 9001
    assert await host.logs(NAME, 0) == []


async def test_a_log_is_followed_whole_however_fast_it_grows_until_the_end(
    home: Yard, host: WorkerHost
) -> None:
    script = "i=0; while [ $i -lt 40000 ]; do echo $i; i=$((i+1)); done; printf last"
    await host.launch(spec(home, script))
    async with aclosing(host.follow(NAME, 1)) as log, asyncio.timeout(30):
        lines = [line async for some in log for line in some]
    first = int(lines[0])
    assert lines == [*map(str, range(first, 40_000)), "last"]


async def test_a_followed_log_that_was_cut_to_its_tail_goes_on(
    home: Yard, host: WorkerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.launch(spec(home, "seq 1 200000; sleep 100"))
    async with asyncio.timeout(10):
        while await host.logs(NAME, 1) != ["200000"]:
            await asyncio.sleep(0.005)
    log = home.instances / NAME / "log"
    seen: list[str] = []
    async with aclosing(host.follow(NAME, 1)) as follow, asyncio.timeout(30):
        async for some in follow:
            seen += some
            if seen == ["200000"]:
                with log.open("a") as file:
                    file.write("not read yet\n")
                monkeypatch.chdir(log.parent)
                shim.cut_log(1 << 20)
                with log.open("a") as file:
                    file.write("and on\n")
            elif seen[-1] == "and on":
                break
    assert log.stat().st_size < 100_000
    assert seen == ["200000", "not read yet", "and on"]


async def test_a_launch_leaves_the_event_loop_free(home: Yard, host: WorkerHost) -> None:
    beats = 0
    launching = asyncio.create_task(host.launch(spec(home, "sleep 100")))
    while not launching.done():
        await asyncio.sleep(0.001)
        beats += 1
    await launching
    assert beats > 5  # of about 40; a launch on the loop leaves one or two


async def test_no_engine_survives_a_shim_killed_at_any_moment(home: Yard) -> None:
    """100 in the first 50 ms from the shim's fork, 20 more in the first 200 ms."""
    moments = random.Random(7)
    kills = [moments.uniform(0, 0.05) for _ in range(100)]
    kills += [moments.uniform(0.05, 0.2) for _ in range(20)]
    host, lane = provider(home), asyncio.Semaphore(3)
    states: dict[str, int] = {}

    async def one(number: int, after_s: float) -> None:
        name = f"nbgpu-t-{number}-1"
        folder = home.folder(name)
        async with lane:
            shim = await asyncio.to_thread(kill_shim, folder, after_s)
            seen = await host.observe(name)
            states[seen.state] = states.get(seen.state, 0) + 1
            assert seen.state in ("ended", "gone"), seen
            if seen.exit is not None:
                assert seen.exit.reason == "lost"
            assert home_of(name) == [], f"shim {shim} killed after {after_s * 1e3:.1f} ms"

    def kill_shim(folder: Path, after_s: float) -> int:
        shim: int | None
        env = {**home.env(), "INSTANCE": folder.name}
        launcher = home.begin(folder, home.spec(FAMILY, env=env, files={"key": "k"}))
        shim = None
        while shim is None and launcher.poll() is None:
            shim = child_of(launcher.pid)
        if shim is None:  # it was up before we looked
            shim = json.loads(launcher.communicate(timeout=10)[0])["shim"]
        time.sleep(after_s)
        os.kill(shim, signal.SIGKILL)
        launcher.communicate(timeout=10)
        until(lambda: (row := procfs.stat(shim)) is None or not row.alive)
        return shim

    def home_of(name: str) -> list[int]:
        mark = f"INSTANCE={name}\0".encode()
        return [pid for pid in home.engines() if mark in read(f"/proc/{pid}/environ")]

    def read(path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError:
            return b""

    await asyncio.gather(*(one(i, s) for i, s in enumerate(kills)))
    until(lambda: home.everything() == [], 2)  # a child that was forked and never exec'ed
    assert broken_json(home.instances) == []
    assert states["ended"] > 20
    for seen in await host.list_owned("t"):
        await host.forget(seen.name)
    left = [x.name for x in home.instances.iterdir()]
    assert all(x.startswith(".nbgpu-t-") for x in left)  # killed before it got its name


async def test_available_memory_is_a_part_of_what_there_is(host: WorkerHost) -> None:
    assert 0 < host.available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


async def test_the_shims_environment_names_the_home_and_holds_no_secret(
    home: Yard, host: WorkerHost
) -> None:
    secret = uuid.uuid4().hex
    made = await host.launch(spec(home, "sleep 100", secrets={"key": secret}))
    environ = Path(f"/proc/{made.shim_pid}/environ").read_bytes()
    assert f"NBGPU_HOME={home.root}".encode() in environ
    for name in ("environ", "cmdline"):
        for pid in (made.pid, made.shim_pid):
            assert secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert await provider(home).read_secret(NAME, "key") == secret
    assert await host.read_secret(NAME, "none") is None
    assert secret not in (home.folder(NAME) / "state.json").read_text()
