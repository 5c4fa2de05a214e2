"""Pre-imported parents with a toy for an engine: what they fork, what survives what, what falls back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend.clock import SystemClock
from nbgpu_backend.domain.parents import PARENT, ParentSpec
from nbgpu_backend.errors import Conflict, Unavailable
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import Launched, LaunchSpec, ParentSeen
from nbgpu_backend.providers.local import parents, procfs
from nbgpu_backend.providers.local.provider import LocalProvider

from tests.support.backend import BackendProcess
from tests.support.shims import Yard, until, yard

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="instances run on Linux")

KEY = "toy-1"
FRESH = "import time; print('up', flush=True); time.sleep(1000)"  # an interpreter to compare with

# `PREPARE` in the parent's environment says how it imports, the engine's arguments what it does.
TOY = """
import atexit, json, os, signal, sys, threading, time

def prepare():
    exec(os.environ.get("PREPARE", ""), globals())
    atexit.register(lambda: print("goodbye", flush=True))
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=time.sleep, args=(9,)).start())

def look():
    print(json.dumps({
        "argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd(), "umask": os.umask(0o077),
        "stdin": os.readlink("/proc/self/fd/0"), "ppid": os.getppid(),
        "threads": len(os.listdir("/proc/self/task")), "path": sys.path,
        "handler": str(signal.getsignal(signal.SIGINT)), "wakeup": signal.set_wakeup_fd(-1),
    }), flush=True)

def run(argv):
    print("forked", flush=True)
    return eval(argv[-1])
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Yard]:
    with yard(tmp_path / "home") as made:
        yield made


@pytest.fixture
async def host(home: Yard) -> AsyncIterator[LocalProvider]:
    made = provider(home)
    yield made
    for parent in await made.parents():
        await made.stop_parent(parent.key)


def provider(home: Yard) -> LocalProvider:
    return LocalProvider(Home(home.root), SystemClock())


def parent(home: Yard, prepare: str = "", *, idle_s: float = 60.0, key: str = KEY) -> ParentSpec:
    module = home.root / "toy.py"
    module.write_text(TOY)
    argv = [sys.executable, str(PARENT), str(module)]
    return ParentSpec(key, argv, home.env(PREPARE=prepare), idle_s)


def spec(
    home: Yard,
    does: str = "time.sleep(1000)",
    number: int = 1,
    prepare: str = "",
    of: ParentSpec | None = None,
    **more: Any,
) -> LaunchSpec:
    """An instance that evaluates `does` where it is forked, and says `plain` where it is exec'ed."""
    fields: dict[str, Any] = {"generation": 1, "ttl_s": 60.0, "grace_s": 5.0, **more}
    return LaunchSpec(
        name=f"nbgpu-t-w-{number}",
        argv=["sh", "-c", "echo plain; sleep 1000", does],
        env=home.env(MINE="1"),
        parent=of or parent(home, prepare),
        **fields,
    )


async def up(host: LocalProvider, wanted: LaunchSpec) -> Launched:
    """Launch, and return once the engine has written a line."""
    made = await host.launch(wanted)
    async with asyncio.timeout(10):
        while not await host.logs(wanted.name):
            await asyncio.sleep(0.005)
    return made


async def only(host: LocalProvider) -> ParentSeen:
    (seen,) = await host.parents()
    return seen


def alive(pid: int) -> bool:
    row = procfs.stat(pid)
    return row is not None and row.alive


def descriptors(pid: int) -> dict[int, str]:
    folder = Path(f"/proc/{pid}/fd")
    return {int(fd.name): os.readlink(fd) for fd in folder.iterdir()}


# dispositions; how many signals are queued is the whole user's, and changes by itself
SIGNALS = ("SigBlk", "SigIgn", "SigCgt")


def signals(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t") for line in lines if line.startswith(SIGNALS))


# --- what is forked


async def test_a_forked_instance_is_like_any_other(home: Yard, host: LocalProvider) -> None:
    wanted = spec(home, ttl_s=30.0, meta={"endpoint": "e"}, secrets={"key": "k"}, oom_score_adj=500)
    made = await up(host, wanted)
    (zygote,) = await host.parents()
    own, *scores = (
        int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        for pid in ("self", zygote.pid, made.pid, made.shim_pid)
    )
    assert scores == [800, 500, own]  # the shim is as safe as the one that a backend starts
    assert (made.tier, made.fell_back) == ("preimported", "") and made.parent_s > 0
    state = json.loads((home.folder() / "state.json").read_text())
    assert (state["pid"], state["shim"]) == (made.pid, made.shim_pid)
    seen = await host.observe("nbgpu-t-w-1")
    assert (seen.state, seen.pid, seen.meta) == ("running", made.pid, {"endpoint": "e"})
    assert seen.lease_s is not None and 25 < seen.lease_s <= 30
    assert await host.renew("nbgpu-t-w-1", 60.0)
    assert (home.folder() / "key").read_text() == "k"
    row = procfs.stat(made.pid)
    assert row is not None
    assert (row.ppid, row.group, row.session) == (made.shim_pid, made.pid, made.pid)
    ended = await host.stop("nbgpu-t-w-1", 5.0)
    assert (ended.reason, ended.signal) == ("asked", signal.SIGTERM)
    assert json.loads((home.folder() / "exit.json").read_text())["reason"] == "asked"
    again = await up(host, spec(home, number=2))
    assert again.tier == "preimported" and again.parent_s < 0.5


async def test_nothing_of_the_parent_is_left_in_the_engine(home: Yard, host: LocalProvider) -> None:
    made = await up(host, spec(home, "(look(), time.sleep(1000))"))
    async with asyncio.timeout(5):
        while len(lines := await host.logs("nbgpu-t-w-1")) < 2:
            await asyncio.sleep(0.005)
    assert lines[0] == "forked"
    found = json.loads(lines[1])
    assert found["argv"][:2] == ["sh", "-c"] and found["env"] == home.env(MINE="1")
    assert found["cwd"] == str(home.folder()) and found["umask"] == 0o077
    assert found["stdin"] == "/dev/null" and found["ppid"] == made.shim_pid
    assert found["threads"] == 1 and found["wakeup"] == -1
    assert "default_int_handler" in found["handler"]
    assert str(PARENT.parent) not in found["path"]
    assert Path(f"/proc/{made.pid}/comm").read_text() == "sh\n"


async def test_descriptors_and_signals_are_those_of_a_process_just_started(
    home: Yard, host: LocalProvider
) -> None:
    forked = await up(host, spec(home))
    plain = LaunchSpec("nbgpu-t-w-2", 1, [sys.executable, "-c", FRESH], home.env(), 60.0)
    exec_ed = await up(host, plain)
    log = str(home.folder() / "log")
    assert descriptors(forked.pid) == {0: "/dev/null", 1: log, 2: log}
    ours, others = signals(forked.pid), signals(exec_ed.pid)
    usr1 = 1 << (signal.SIGUSR1 - 1)  # the toy's own handler
    assert int(ours["SigCgt"], 16) == int(others["SigCgt"], 16) | usr1
    assert (ours["SigBlk"], ours["SigIgn"]) == (others["SigBlk"], others["SigIgn"])
    assert signals(forked.shim_pid) == signals(exec_ed.shim_pid)
    # pipes and sockets have numbers of their own
    kinds = [
        sorted(
            target.partition("[")[0].replace("-1/", "-2/") for target in descriptors(pid).values()
        )
        for pid in (forked.shim_pid, exec_ed.shim_pid)
    ]
    assert kinds[0] == kinds[1]


async def test_a_folder_to_start_in_is_gone_to(home: Yard, host: LocalProvider) -> None:
    await up(host, spec(home, "print(os.getcwd(), flush=True)", cwd="/usr"))
    ended = await host.wait("nbgpu-t-w-1")
    assert ended.tail[1] == "/usr"
    with pytest.raises(Unavailable, match="/no/such") as caught:
        await host.launch(spec(home, number=2, cwd="/no/such"))
    assert caught.value.code == "exec_failed"  # the plain start found the same


@pytest.mark.parametrize(
    ("does", "code", "last"),
    [
        ("0", 0, "goodbye"),
        ("7", 7, "goodbye"),
        ("None", 0, "goodbye"),
        ("sys.exit(5)", 5, "goodbye"),
        ("sys.exit('a reason')", 1, "goodbye"),
        ("1 / 0", 1, "goodbye"),
        ("os._exit(9)", 9, "forked"),
        ("threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()", 0, "goodbye"),
    ],
)
async def test_it_ends_as_an_interpreter_does(
    home: Yard, host: LocalProvider, does: str, code: int, last: str
) -> None:
    await host.launch(spec(home, does))
    ended = await host.wait("nbgpu-t-w-1")
    assert (ended.code, ended.reason, ended.tail[-1]) == (code, "exit", last)
    if "reason" in does:
        assert "a reason" in ended.tail
    if "1 / 0" in does:
        assert "ZeroDivisionError: division by zero" in ended.tail
    if "late" in does:
        assert list(ended.tail) == ["forked", "late", "goodbye"]
    assert (await only(host)).ready


async def test_launches_at_once_share_one_parent(home: Yard, host: LocalProvider) -> None:
    slow, other = "time.sleep(0.5)", provider(home)
    made = await asyncio.gather(
        *(up(host if n % 2 else other, spec(home, number=n, prepare=slow)) for n in range(1, 7))
    )
    assert {one.tier for one in made} == {"preimported"}
    assert len({one.pid for one in made}) == 6
    assert all(one.parent_s > 0.4 for one in made)
    (seen,) = await host.parents()
    assert seen.ready and seen.ready_s is not None and 0.5 <= seen.ready_s < 5
    assert seen.pss > 1 << 20


async def test_many_forks_leave_no_zombie_and_no_descriptor(
    home: Yard, host: LocalProvider
) -> None:
    await host.launch(spec(home, "0", number=0))
    seen = await only(host)
    await host.wait("nbgpu-t-w-0")
    before = descriptors(seen.pid)
    for first in range(1, 51, 10):
        numbers = range(first, first + 10)
        await asyncio.gather(*(host.launch(spec(home, "3", number=n)) for n in numbers))
        ends = await asyncio.gather(*(host.wait(f"nbgpu-t-w-{n}") for n in numbers))
        assert {end.code for end in ends} == {3}
    until(lambda: not [row for row in procfs.processes() if row.ppid == seen.pid])
    until(lambda: descriptors(seen.pid) == before)
    assert (await only(host)).pid == seen.pid


# --- what survives what


async def test_a_killed_parent_touches_no_worker_and_is_followed_by_another(
    home: Yard, host: LocalProvider
) -> None:
    made = await up(host, spec(home))
    first = await only(host)
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: not alive(first.pid))
    assert await host.parents() == []
    assert not (home.root / "parents" / KEY).exists()
    assert (await host.observe("nbgpu-t-w-1")).state == "running" and alive(made.pid)
    again = await up(host, spec(home, number=2))
    assert again.tier == "preimported" and (await only(host)).pid != first.pid
    assert (await host.stop("nbgpu-t-w-1", 5.0)).reason == "asked"


async def test_a_parent_killed_at_any_moment_fails_no_launch(
    home: Yard, host: LocalProvider
) -> None:
    chance = random.Random(7)
    pids = set()
    for number in range(1, 41):
        fresh = provider(home)  # one that remembers no failure
        launch = asyncio.create_task(up(fresh, spec(home, number=number)))
        await asyncio.sleep(chance.uniform(0, 0.06))
        for seen in await host.parents():
            with contextlib.suppress(ProcessLookupError):
                os.kill(seen.pid, signal.SIGKILL)
        made = await launch
        assert made.tier == "preimported" or made.fell_back
        pids.add(made.pid)
        row = procfs.stat(made.pid)
        assert row is not None and (row.ppid, row.session) == (made.shim_pid, made.pid)
    for seen in await host.parents():
        await host.stop_parent(seen.key)
    running = home.engines()  # not the shims: they have another environment
    assert {row.session for pid in running if (row := procfs.stat(pid))} == pids
    listed = await host.list_owned("t")
    assert {seen.pid for seen in listed if seen.state == "running"} == pids


async def test_a_stopped_parent_touches_no_worker(home: Yard, host: LocalProvider) -> None:
    made = await up(host, spec(home))
    seen = await only(host)
    await provider(home).stop_parent(KEY)  # one that has not started it
    assert not alive(seen.pid) and alive(made.pid) and await host.parents() == []
    await host.stop_parent(KEY)
    await host.stop_parent("never-was")
    assert (await up(host, spec(home, number=2))).tier == "preimported"


async def test_a_stopped_parent_that_hangs_is_killed(
    home: Yard, host: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parents, "GRACE_S", 0.2)
    monkeypatch.setattr(parents, "STATUS_S", 0.2)
    await up(host, spec(home))
    seen = await only(host)
    os.kill(seen.pid, signal.SIGSTOP)
    (hung,) = await host.parents()
    assert (hung.pid, hung.ready) == (seen.pid, False)
    await host.stop_parent(KEY)
    assert not alive(seen.pid)


async def test_a_killed_shim_takes_its_engine_with_it_and_nobody_else(
    home: Yard, host: LocalProvider
) -> None:
    made, other = await up(host, spec(home)), await up(host, spec(home, number=2))
    seen = await only(host)
    os.kill(made.shim_pid, signal.SIGKILL)
    ended = await host.wait("nbgpu-t-w-1")
    assert (ended.reason, ended.estimated) == ("lost", True)
    until(lambda: not alive(made.pid))
    assert alive(other.pid) and (await only(host)).pid == seen.pid


async def test_a_killed_engine_is_on_record(home: Yard, host: LocalProvider) -> None:
    made = await up(host, spec(home))
    os.kill(made.pid, signal.SIGKILL)
    ended = await host.wait("nbgpu-t-w-1")
    assert (ended.signal, ended.reason) == (signal.SIGKILL, "exit")


async def test_a_new_provider_finds_parent_and_workers(home: Yard, host: LocalProvider) -> None:
    made = await up(host, spec(home, generation=1))
    seen = await only(host)
    fresh = provider(home)
    found = await only(fresh)
    assert (found.pid, found.key, found.ready) == (seen.pid, KEY, True)
    assert [one.pid for one in await fresh.list_owned("t")] == [made.pid]
    again = await up(fresh, spec(home, number=2))
    assert again.tier == "preimported" and (await only(fresh)).pid == seen.pid
    assert (await fresh.stop("nbgpu-t-w-1", 5.0)).signal == signal.SIGTERM


async def test_it_ends_when_it_has_forked_nothing_for_long(home: Yard, host: LocalProvider) -> None:
    short = parent(home, idle_s=0.5)
    made = await up(host, spec(home, of=short))
    seen = await only(host)
    assert seen.idle_s < 0.5
    until(lambda: not alive(seen.pid))
    assert await host.parents() == [] and alive(made.pid)
    assert (await up(host, spec(home, number=2, of=short))).tier == "preimported"


async def test_shutdown_of_everything_ends_parents(backend: BackendProcess) -> None:
    there = Yard(backend.home.root)
    toy = LaunchSpec("nbgpu-t-w-1", 1, ["x", "0"], there.env(), 60.0, parent=parent(there))
    host = provider(there)
    await host.launch(toy)
    seen = await only(host)
    backend.shutdown(everything=True)
    assert not alive(seen.pid) and await host.parents() == []


# --- what falls back to a plain start


async def fallen(host: LocalProvider, wanted: LaunchSpec) -> str:
    made = await up(host, wanted)
    assert made.tier == "plain" and await host.logs(wanted.name) == ["plain"]
    return made.fell_back


@pytest.mark.parametrize(
    ("prepare", "why", "again_in"),
    [
        ("raise ImportError('no engine here')", "ImportError: no engine here", "10 min"),
        ("os._exit(3)", "could not start", "10 min"),
        ("os.kill(os.getpid(), 9)", "could not start", " s."),  # what kills may be done with it
        (
            "threading.Thread(target=time.sleep, args=(900,), name='idler').start()",
            "idler",
            "10 min",
        ),
    ],
)
async def test_a_parent_that_cannot_import_is_told_and_not_tried_again(
    home: Yard, host: LocalProvider, prepare: str, why: str, again_in: str
) -> None:
    began = time.monotonic()
    assert why in await fallen(host, spec(home, prepare=prepare))
    assert time.monotonic() - began < 9
    began = time.monotonic()
    again = await fallen(host, spec(home, number=2, prepare=prepare))
    assert why in again and again.partition("It is tried again in ")[2].endswith(
        again_in.strip(".") + "."
    )
    assert time.monotonic() - began < 2 and await host.parents() == []
    changed = await up(host, spec(home, number=3))
    assert changed.tier == "preimported" and changed.fell_back == ""


async def test_a_parent_whose_python_is_missing_falls_back(home: Yard, host: LocalProvider) -> None:
    gone = ParentSpec(KEY, ["/no/python", str(PARENT), "/no/module.py"], home.env(), 60.0)
    assert "No such file" in await fallen(host, spec(home, of=gone))
    no_module = ParentSpec("toy-2", [sys.executable, str(PARENT), "/no/module.py"], home.env(), 60)
    assert "/no/module.py" in await fallen(host, spec(home, number=2, of=no_module))


async def test_a_parent_that_is_killed_while_it_imports_falls_back(
    home: Yard, host: LocalProvider
) -> None:
    launch = asyncio.create_task(fallen(host, spec(home, prepare="time.sleep(30)")))
    async with asyncio.timeout(10):
        while not (found := await host.parents()):
            await asyncio.sleep(0.01)
    assert not found[0].ready and found[0].ready_s is None
    os.kill(found[0].pid, signal.SIGKILL)
    assert "could not start" in await launch


async def test_one_that_is_stopped_while_it_imports_may_start_again(
    home: Yard, host: LocalProvider
) -> None:
    launch = asyncio.create_task(fallen(host, spec(home, prepare="time.sleep(30)")))
    async with asyncio.timeout(10):
        while not await host.parents():
            await asyncio.sleep(0.01)
    await host.stop_parent(KEY)
    assert "could not start" in await launch
    assert (await up(host, spec(home, number=2))).tier == "preimported"


async def test_a_slow_parent_is_not_waited_for_and_serves_later(
    home: Yard, host: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parents, "READY_S", 0.3)
    assert "not ready" in await fallen(host, spec(home, prepare="time.sleep(1)"))
    until(lambda: (home.root / "parents" / KEY / "sock").exists())
    made = await up(host, spec(home, number=2, prepare="time.sleep(1)"))
    assert (made.tier, made.fell_back) == ("preimported", "")


async def test_a_parent_with_threads_forks_nothing_until_they_have_ended(
    home: Yard, host: LocalProvider
) -> None:
    await up(host, spec(home))
    seen = await only(host)
    os.kill(seen.pid, signal.SIGUSR1)
    until(lambda: len(list(Path(f"/proc/{seen.pid}/task").iterdir())) == 2)
    assert "cannot be forked" in await fallen(host, spec(home, number=2))
    assert (await only(host)).pid == seen.pid
    until(lambda: len(list(Path(f"/proc/{seen.pid}/task").iterdir())) == 1, 15)
    assert (await up(host, spec(home, number=3))).tier == "preimported"


async def test_what_the_shim_refuses_is_refused(home: Yard, host: LocalProvider) -> None:
    await up(host, spec(home))
    with pytest.raises(Conflict, match="lock is held"):
        await host.launch(spec(home))
    seen = await only(host)
    until(lambda: [row.state for row in procfs.processes() if row.ppid == seen.pid] == ["S"])


async def test_a_vllm_that_lacks_what_is_imported_is_told_by_name(
    home: Yard, host: LocalProvider
) -> None:
    module = PARENT.parent / "engines" / "vllm" / "preimport.py"
    other = ParentSpec("vllm-1", [sys.executable, "-S", str(PARENT), str(module)], home.env(), 60.0)
    assert "No module named 'torch'" in await fallen(host, spec(home, of=other))


async def test_the_log_of_a_parent_tells_why(home: Yard, host: LocalProvider) -> None:
    await fallen(host, spec(home, prepare="print('so far'); raise ValueError('no')"))
    log = (home.root / "parents" / KEY / "log").read_text()
    assert "so far" in log and "Traceback" in log
