"""Reading /proc and the memory limits of cgroups."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from nbgpu_backend.providers.local import procfs

MEMINFO = "MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  4000 kB\n"


def line(comm: str, state: str = "S", threads: int = 1) -> bytes:
    head = f"42 ({comm}) {state} 1 42 40 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 {threads} 0 777 0 0"
    return head.encode()


@pytest.mark.parametrize("comm", ["sh", "a b", "a) Z 9 9 9", "((", ""])
def test_a_name_with_blanks_and_brackets_does_not_shift_the_fields(comm: str) -> None:
    row = procfs.parse_stat(line(comm))
    assert (row.pid, row.state, row.ppid, row.group, row.session) == (42, "S", 1, 42, 40)
    assert (row.threads, row.start) == (1, 777)


def test_a_zombie_counts_as_dead_unless_its_threads_go_on() -> None:
    assert procfs.parse_stat(line("x")).alive
    assert not procfs.parse_stat(line("x", "Z")).alive
    assert not procfs.parse_stat(line("x", "X", 0)).alive
    assert procfs.parse_stat(line("x", "Z", 2)).alive


def test_members_of_a_session_are_those_after_its_start() -> None:
    def row(pid: int, session: int, start: int, state: str = "S") -> procfs.Stat:
        return procfs.Stat(pid, state, 1, session, session, 1, start)

    rows = [row(10, 10, 5, "Z"), row(11, 10, 6), row(12, 10, 4), row(13, 13, 7)]
    assert [x.pid for x in procfs.session_members(rows, 10, 5)] == [11]
    reused = [row(10, 10, 9), row(11, 10, 9)]
    assert procfs.session_members(reused, 10, 5) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_we_find_ourselves() -> None:
    me = procfs.stat(os.getpid())
    assert me is not None and me.alive and me.ppid == os.getppid()
    assert me.session == os.getsid(0) and me.group == os.getpgid(0)
    assert os.getpid() in [row.pid for row in procfs.processes()]
    assert procfs.stat(2**22 + 1) is None
    size = procfs.pss(os.getpid())
    assert size is None or 1 << 20 < size < 1 << 34
    assert procfs.pss(2**22 + 1) is None


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def available(root: Path) -> int:
    return procfs.available_memory(root / "proc", root / "cgroup")


def test_without_a_limit_it_is_what_the_kernel_says(tmp_path: Path) -> None:
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/user\n"}
    files |= {"cgroup/user/memory.max": "max\n", "cgroup/user/memory.current": "5\n"}
    assert available(tree(tmp_path, files)) == 4000 * 1024
    (tmp_path / "proc/self/cgroup").unlink()
    assert available(tmp_path) == 4000 * 1024


def test_the_tightest_limit_above_us_counts_and_cache_is_free(tmp_path: Path) -> None:
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/user/pod\n"}
    files |= {"cgroup/user/pod/memory.max": "max", "cgroup/user/pod/memory.current": "1"}
    files |= {"cgroup/user/memory.max": "1000000", "cgroup/user/memory.current": "900000"}
    files |= {"cgroup/user/memory.stat": "anon 5\ninactive_file 300000\n"}
    assert available(tree(tmp_path, files)) == 400000


def test_version_one_limits_count_too(tmp_path: Path) -> None:
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "3:cpu:/x\n2:memory:/x\n"}
    files |= {"cgroup/memory/x/memory.limit_in_bytes": "2000"}
    files |= {"cgroup/memory/x/memory.usage_in_bytes": "2500"}
    assert available(tree(tmp_path, files)) == 0
