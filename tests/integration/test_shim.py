"""The shim as a process: what it starts, what it ends, and what it leaves on the disk."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbgpu_backend.providers.local import procfs
from nbgpu_backend.providers.local.provider import SHIM

from tests.support.shims import (
    PATH,
    PYTHON,
    STUBBORN_TREE,
    Line,
    Yard,
    ask,
    child_of,
    exit_of,
    until,
    yard,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="instances run on Linux")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Yard]:
    with yard(tmp_path / "home") as made:
        yield made


def held(folder: Path) -> bool:
    with (folder / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_it_parses_on_the_oldest_python_it_promises() -> None:
    ast.parse(SHIM.read_text(), feature_version=(3, 8))


def test_the_engine_leads_a_session_and_gets_exactly_its_environment(home: Yard) -> None:
    folder = home.folder()
    line = home.up(folder, home.spec("echo up; sleep 100", meta={"endpoint": "e"}))
    assert line == json.loads((folder / "state.json").read_bytes())
    assert line["generation"] == 1 and line["meta"] == {"endpoint": "e"}
    engine = procfs.stat(line["pid"])
    assert engine is not None
    assert engine.pid == engine.group == engine.session and engine.ppid == line["shim"]
    assert engine.start == line["start"]
    raw = Path(f"/proc/{line['pid']}/environ").read_bytes()
    assert dict(x.split("=", 1) for x in raw.decode().split("\0") if x) == home.env()
    assert b"NBGPU_HOME=" in Path(f"/proc/{line['shim']}/environ").read_bytes()
    assert os.readlink(f"/proc/{line['pid']}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{line['pid']}/cwd") == str(folder)
    assert sorted(os.listdir(f"/proc/{line['pid']}/fd")) == ["0", "1", "2"]
    assert held(folder)


def test_signals_are_back_to_their_defaults_in_the_engine(home: Yard) -> None:
    folder = home.folder()
    home.start(folder, home.spec("exec grep ^Sig /proc/self/status"))
    masks = dict(row.split(":\t") for row in exit_of(folder)["tail"])
    # 32 and 33 belong to the C library, and nobody can set them back
    ours = ~((1 << 31) | (1 << 32))
    assert int(masks["SigIgn"], 16) & ours == int(masks["SigBlk"], 16) == 0


def test_the_exit_code_and_the_last_lines_are_kept(home: Yard) -> None:
    folder = home.folder()
    script = (
        "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); done; printf '%02000d' 7; exit 3"
    )
    home.start(folder, home.spec(script))
    record = exit_of(folder)
    assert (record["code"], record["signal"], record["reason"]) == (3, None, "exit")
    assert len(record["tail"]) == 40 and record["tail"][-2] == "line 59"
    assert record["tail"][-1] == "0" * 1000
    assert abs(record["ended_us"] / 1e6 - time.time()) < 10
    until(lambda: not held(folder))
    assert not (folder / "sock").exists()


def test_death_by_a_signal_is_recorded(home: Yard) -> None:
    folder = home.folder()
    home.start(folder, home.spec("kill -SEGV $$"))
    record = exit_of(folder)
    assert (record["code"], record["signal"]) == (None, signal.SIGSEGV)


def test_a_failed_exec_is_one_line_and_127(home: Yard) -> None:
    folder = home.folder()
    code, line = home.start(folder, {**home.spec(""), "argv": ["/no/such/engine", "--serve"]})
    assert code == 127
    assert line == {"error": "/no/such/engine: No such file or directory", "kind": "exec"}
    record = exit_of(folder)
    assert (record["code"], record["reason"]) == (127, "exec")
    assert record["error"] == line["error"]


def test_a_missing_folder_to_start_in_is_a_failed_exec(home: Yard) -> None:
    code, line = home.start(home.folder(), home.spec("true", cwd="/no/such/folder"))
    assert code == 127
    assert line["error"] == "/no/such/folder: No such file or directory"


def test_a_bad_spec_is_refused_before_anything_is_made(home: Yard) -> None:
    for spec in ({}, home.spec("true", ttl_s="soon"), home.spec("true", argv=[])):
        code, line = home.start(home.folder(), spec)
        assert code == 64 and line["kind"] == "spec"
    assert not home.folder().exists()


def test_a_second_shim_on_one_folder_gets_75(home: Yard) -> None:
    folder = home.folder()
    first = home.up(folder, home.spec("echo up; sleep 100"))
    code, line = home.start(folder, home.spec("echo second"))
    assert code == 75 and line["kind"] == "held"
    assert json.loads((folder / "state.json").read_bytes()) == first
    assert [x.name for x in home.instances.iterdir()] == [folder.name]


def test_of_two_shims_that_start_at_once_one_wins(home: Yard) -> None:
    folder = home.folder()
    both = [home.begin(folder, home.spec("echo up; sleep 100")) for _ in range(4)]
    lines = [json.loads(x.communicate(timeout=30)[0]) for x in both]
    assert sorted(x.returncode for x in both) == [0, 75, 75, 75]
    assert sum("pid" in x for x in lines) == 1
    assert len(list(home.instances.iterdir())) == 1


def test_a_folder_is_used_once(home: Yard) -> None:
    folder = home.folder()
    home.start(folder, home.spec("true"))
    exit_of(folder)
    until(lambda: not held(folder))
    code, line = home.start(folder, home.spec("true"))
    assert code == 76 and line["kind"] == "used"


def test_an_empty_folder_may_be_there_already(home: Yard) -> None:
    home.folder().mkdir()
    home.up(home.folder(), home.spec("echo up; sleep 100"))


def test_secrets_are_files_of_ours_alone_and_nowhere_else(home: Yard) -> None:
    folder, secret = home.folder(), uuid.uuid4().hex
    env = home.env(WORKER_KEY=secret)
    line = home.up(folder, home.spec("echo up; sleep 100", files={"key": secret}, env=env))
    assert (folder / "key").read_text() == secret
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert secret not in (folder / "state.json").read_text()
    for pid in (line["pid"], line["shim"]):
        assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert secret.encode() not in Path(f"/proc/{line['shim']}/environ").read_bytes()


@pytest.mark.parametrize("name", ["../key", "/tmp/key", "lock", "state.json", ".key"])
def test_a_secret_cannot_be_written_elsewhere(home: Yard, name: str) -> None:
    code, line = home.start(home.folder(), home.spec("true", files={name: "x"}))
    assert code == 64 and line["kind"] == "spec"
    assert not home.folder().exists()


def test_an_engine_never_runs_when_its_state_cannot_be_written(home: Yard) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))

    folder, proof = home.folder(), home.root / "ran"
    code, line = home.start(folder, home.spec(f"mkdir {proof}"), preexec_fn=small_files)
    assert code == 74 and line["kind"] == "disk"
    assert not proof.exists() and not folder.exists()
    assert home.everything() == []


def test_a_path_longer_than_a_socket_address_works(home: Yard) -> None:
    folder = home.instances / ("d" * 120) / ("e" * 120) / "nbgpu-t-w-1"
    home.up(folder, home.spec("echo up; sleep 100"))
    assert ask(folder, op="status")["lease_s"] > 0
    assert ask(folder, op="stop", grace_s=5)["signal"] == signal.SIGTERM


def test_stop_lets_the_engine_clean_up_and_answers_with_the_record(home: Yard) -> None:
    folder, segment = home.folder(), Path(f"/dev/shm/nbgpu-test-{uuid.uuid4().hex}")
    script = (
        f"trap 'rm {segment}; exit 0' TERM; : > {segment}; echo up; while :; do sleep 0.05; done"
    )
    home.up(folder, home.spec(script))
    assert segment.exists()
    record = ask(folder, op="stop", grace_s=10)
    assert (record["code"], record["reason"]) == (0, "asked")
    assert record == exit_of(folder)
    assert not segment.exists()
    assert home.engines() == []


def test_wait_is_answered_at_the_end(home: Yard) -> None:
    folder = home.folder()
    home.up(folder, home.spec("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"))
    with Line(folder) as waiting:
        waiting.send(b'{"op": "wait"}\n')
        record = ask(folder, op="stop", grace_s=10)
        assert waiting.read() == record
    assert record["code"] == 5


def test_a_stopped_group_can_be_stopped_for_good(home: Yard) -> None:
    folder = home.folder()
    line = home.up(folder, home.spec("trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done"))
    os.killpg(line["pid"], signal.SIGSTOP)
    until(lambda: any(x.state == "T" and x.group == line["pid"] for x in procfs.processes()))
    record = ask(folder, op="stop", grace_s=10)
    assert record["code"] == 4


def test_kill_follows_the_grace(home: Yard) -> None:
    folder = home.folder()
    home.up(folder, home.spec("trap '' TERM; echo up; while :; do sleep 0.05; done"))
    start = time.monotonic()
    record = ask(folder, op="stop", grace_s=0.3)
    assert record["signal"] == signal.SIGKILL
    assert 0.3 <= time.monotonic() - start < 3


def test_a_second_stop_may_be_less_patient(home: Yard) -> None:
    folder = home.folder()
    home.up(folder, home.spec("trap '' TERM; echo up; while :; do sleep 0.05; done"))
    with Line(folder) as patient:
        patient.send(b'{"op": "stop", "grace_s": 100}\n')
        until(lambda: ask(folder, op="status")["stopping"] == "asked")
        assert "error" in ask(folder, op="renew", ttl_s=60)
        assert ask(folder, op="stop", grace_s=0) == patient.read()


def test_a_stubborn_tree_is_gone_at_the_end_of_the_lease(home: Yard) -> None:
    folder = home.folder()
    home.up(folder, home.spec(STUBBORN_TREE, ttl_s=1.0, grace_s=0.3))
    until(lambda: len(home.engines()) >= 9)
    record = exit_of(folder)
    assert home.engines() == []
    assert (record["reason"], record["signal"]) == ("lease", signal.SIGKILL)
    assert record["escaped"] >= 4


def test_what_a_dead_first_process_leaves_gets_term_and_then_kill(home: Yard) -> None:
    folder, told = home.folder(), home.root / "told"
    script = f"""
        sh -c 'trap "touch {told}; exit" TERM; echo up; while :; do sleep 0.05; done' &
        (trap '' TERM; exec sleep 1000) &
        (setsid sh -c 'trap "" TERM; sleep 1001' &)
        while ! grep -q up log; do sleep 0.02; done
        exit 9"""
    home.start(folder, home.spec(script, grace_s=0.5))
    record = exit_of(folder)
    assert home.engines() == []
    assert told.exists()
    assert (record["code"], record["reason"]) == (9, "exit")


def test_a_renewal_extends_the_lease(home: Yard) -> None:
    folder = home.folder()
    home.up(folder, home.spec("echo up; sleep 100", ttl_s=1.0))
    start = time.monotonic()
    assert ask(folder, op="renew", ttl_s=2.0) == {"lease_s": 2.0}
    assert exit_of(folder)["reason"] == "lease"
    assert time.monotonic() - start >= 2.0


def test_term_to_the_shim_ends_the_instance(home: Yard) -> None:
    folder = home.folder()
    line = home.up(folder, home.spec("echo up; sleep 100"))
    os.kill(line["shim"], signal.SIGTERM)
    assert exit_of(folder)["reason"] == "shim-term"
    assert home.engines() == []


def test_clients_cannot_hurt_it(home: Yard) -> None:
    folder = home.folder()
    line = home.up(folder, home.spec("echo up; sleep 100"))
    for raw in (
        b"\xff\xfe\n", b"null\n", b"[]\n", b"{}\n", b'{"op": 3}\n', b'{"op": "renew"}\n', b"\n",
        b'{"op": "renew", "ttl_s": NaN}\n', b'{"op": "stop", "grace_s": "x"}\n',
        b"[" * 30000 + b"\n",
    ):  # fmt: skip
        with Line(folder) as client:
            client.send(raw)
            assert "error" in client.read()
    with Line(folder) as client:
        client.send(b'{"op": "sta')  # and never the rest
        with Line(folder) as other:
            other.send(b'{"op": "wait"}\n')
        assert ask(folder, op="status")["pid"] == line["pid"]
    with Line(folder) as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(100):
            client.send(b"x" * 65536)  # no newline ever
    with Line(folder) as deaf:
        deaf.socket.settimeout(0.2)
        with pytest.raises((TimeoutError, BrokenPipeError, ConnectionResetError)):
            while True:
                deaf.send(b'{"op": "status"}\n' * 100)
    answer = ask(folder, op="status")
    assert answer["stopping"] is None and answer["pid"] == line["pid"]


def test_many_requests_on_one_connection_are_answered_in_order(home: Yard) -> None:
    folder = home.folder()
    home.up(folder, home.spec("echo up; sleep 100"))
    with Line(folder) as client:
        client.send(b'{"op": "renew", "ttl_s": 30}\n{"op": "status"}\n{"op": "renew",')
        assert client.read() == {"lease_s": 30.0}
        assert client.read()["lease_s"] <= 30
        client.send(b' "ttl_s": 40}\n')
        assert client.read() == {"lease_s": 40.0}


def test_the_log_is_cut_to_its_tail(home: Yard) -> None:
    folder = home.folder()
    limit = 64 * 1024
    script = f"""
        i=0; while [ $i -lt 4000 ]; do echo "$i 0123456789012345678901234567890123456789"; i=$((i+1)); done
        while [ $(stat -c %s log) -gt {limit} ]; do sleep 0.02; done
        echo last; sleep 100"""
    home.up(folder, home.spec(script, log_limit=limit))
    log = folder / "log"
    until(lambda: log.read_text().endswith("last\n"))
    lines = log.read_text().splitlines()
    assert log.stat().st_size < limit
    assert lines[0].startswith("[earlier lines were cut")
    assert lines[-2].startswith("3999 ")
    numbers = [int(x.split()[0]) for x in lines[1:-1]]
    assert numbers == list(range(numbers[0], 4000))


def test_the_launcher_may_die(home: Yard) -> None:
    folder = home.folder()
    launcher = home.begin(folder, home.spec("echo up; sleep 100"))
    assert launcher.stdout is not None
    launcher.stdout.close()
    until(lambda: child_of(launcher.pid) or launcher.poll() is not None)
    launcher.kill()
    launcher.wait()
    until(lambda: (folder / "log").exists() and (folder / "log").stat().st_size)
    assert ask(folder, op="status")["stopping"] is None
    assert len(home.engines()) >= 1


def test_a_killed_shim_takes_the_first_process_along(home: Yard) -> None:
    folder = home.folder()
    line = home.up(folder, home.spec("echo up; exec sleep 100"))
    os.kill(line["shim"], signal.SIGKILL)
    until(lambda: home.engines() == [])
    assert not held(folder)


def test_only_the_shim_holds_the_lock(home: Yard) -> None:
    folder = home.folder()
    home.up(folder, home.spec(STUBBORN_TREE))
    shim = ask(folder, op="status")["shim"]
    os.kill(shim, signal.SIGKILL)
    until(lambda: not held(folder), 2)


ZYGOTE = """
import ctypes, json, os, sys
shim, folder, python = sys.argv[1:]
go_read, go_write = os.pipe()
parent = os.getpid()
child = os.fork()
if child == 0:
    os.setsid()
    ctypes.CDLL(None).prctl(1, 9)
    os.close(go_write)
    if os.getppid() != parent or not os.read(go_read, 1):
        os._exit(1)
    os.execve("/bin/sh", ["sh", "-c", "cd %s; cat state.json > seen; exec sleep 100" % folder],
              dict(os.environ))
os.close(go_read)
os.set_inheritable(go_write, True)
spec = os.memfd_create("spec")
os.write(spec, json.dumps({"child": child, "go_fd": go_write, "generation": 3, "ttl_s": 60,
                           "argv": [], "env": {}}).encode())
os.lseek(spec, 0, 0)
os.dup2(spec, 0)
os.setsid()
os.execve(python, [python, "-I", "-S", "-E", shim, folder], {"NBGPU_HOME": os.environ["HOME_OF"]})
"""


def test_it_takes_over_an_engine_that_its_caller_forked(home: Yard) -> None:
    folder = home.folder()
    zygote = subprocess.Popen(
        [sys.executable, "-c", ZYGOTE, str(SHIM), str(folder), PYTHON],
        stdout=subprocess.PIPE,
        env={**home.env(), "PATH": PATH, "HOME_OF": str(home.root)},
    )
    assert zygote.stdout is not None
    with zygote.stdout as out:
        line = json.loads(out.readline())
    assert line["shim"] == zygote.pid and line["generation"] == 3
    assert line["pid"] in home.engines()
    until(lambda: (folder / "seen").exists() and (folder / "seen").stat().st_size)
    assert json.loads((folder / "seen").read_bytes()) == line  # it ran only after state.json
    assert ask(folder, op="stop", grace_s=5)["signal"] == signal.SIGTERM
    assert zygote.wait(10) == 0
    assert line["pid"] not in home.engines()


# --- limits


def test_it_ends_at_its_instant_whatever_it_does(home: Yard) -> None:
    folder = home.folder()
    until_us = int((time.time() + 1.0) * 1e6)
    home.up(folder, home.spec("echo up; while :; do :; done", until_us=until_us))
    record = exit_of(folder)
    assert record["reason"] == "until"
    assert record["ended_us"] >= until_us


def test_its_instant_is_put_off_by_a_renewal(home: Yard) -> None:
    folder = home.folder()
    soon = int((time.time() + 1.0) * 1e6)
    home.up(folder, home.spec("echo up; exec sleep 1000", until_us=soon))
    ask(folder, op="renew", ttl_s=60, until_us=soon + 60_000_000)
    time.sleep(1.3)  # past what it was
    assert ask(folder, op="status")["stopping"] is None
    ask(folder, op="renew", ttl_s=60, until_us=soon)
    assert exit_of(folder)["reason"] == "until"


def test_a_lease_waits_for_what_works_and_ends_what_does_not(home: Yard) -> None:
    folder, busy = home.folder(), home.root / "busy"
    busy.touch()
    home.up(folder, home.spec("echo up; exec sleep 1000", ttl_s=0.5, busy_file=str(busy)))
    time.sleep(1.0)  # past its lease
    status = ask(folder, op="status")
    assert status["stopping"] is None and status["lease_s"] > 0
    os.utime(busy, (1, 1))
    ask(folder, op="renew", ttl_s=0.2)
    assert exit_of(folder)["reason"] == "lease"


def test_a_lease_with_a_busy_file_that_is_not_there_ends_it(home: Yard) -> None:
    folder = home.folder()
    home.up(folder, home.spec("echo up; exec sleep 1000", ttl_s=0.3, busy_file="/nowhere/busy"))
    assert exit_of(folder)["reason"] == "lease"


GREEDY = "import time; held = bytearray(200 << 20); print('up', flush=True); time.sleep(1000)"


def test_what_holds_more_memory_than_it_may_is_killed_with_the_sums(home: Yard) -> None:
    folder = home.folder()
    spec = home.spec("", memory_bytes=100 << 20)
    home.begin(folder, {**spec, "argv": [sys.executable, "-c", GREEDY]})
    record = exit_of(folder)
    assert record["reason"] == "memory" and record["signal"] in (signal.SIGTERM, signal.SIGKILL)
    assert record["error"] == "it held 0.2 GB of memory, and 0.1 GB are allowed"


def test_memory_that_is_shared_counts_once(home: Yard) -> None:
    folder = home.folder()
    forks = (
        "import os, time; held = bytearray(120 << 20)\n"
        "for _ in range(4):\n"
        "    if not os.fork(): time.sleep(1000)\n"
        "print('up', flush=True); time.sleep(1000)"
    )
    spec = home.spec("", memory_bytes=250 << 20)
    home.begin(folder, {**spec, "argv": [sys.executable, "-c", forks]})
    until(lambda: "up" in (folder / "log").read_text() if (folder / "log").exists() else False)
    time.sleep(1.2)  # a look at its limits, at least
    assert ask(folder, op="status")["stopping"] is None
    ask(folder, op="stop", grace_s=0)


def test_a_fork_bomb_is_bounded(home: Yard) -> None:
    folder = home.folder()
    home.up(folder, home.spec(BOMB, process_limit=60, grace_s=0.2))
    record = exit_of(folder)
    assert record["reason"] == "processes"
    assert "and 60 are allowed" in record["error"]
    assert home.engines() == []


BOMB = "echo up; grow() { while :; do sleep 0.02; setsid sleep 1000 & done; }; grow"


def test_term_spares_the_leader_and_reaches_the_others(home: Yard) -> None:
    folder = home.folder()
    inner = "trap 'echo cleaned; exit 3' TERM; echo up; while :; do sleep 0.05; done"
    outer = f'trap "echo hit; exit 9" TERM; sh -c "{inner}"; exit 5'
    home.up(folder, home.spec(outer, spare_leader=True, grace_s=10))
    record = ask(folder, op="stop", grace_s=10)
    assert record["code"] == 5
    assert "cleaned" in record["tail"] and "hit" not in record["tail"]
