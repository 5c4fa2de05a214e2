"""Whether the pod is in use: the instant of the last sign of it, and what its processes take.

All of the pod's processes are descendants of the agent, which is their subreaper.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List

    from nbgpu_backend.pod.children import Children, signal_group, within
    from nbgpu_backend.pod.spool import log, now_us

    Json = Dict[str, Any]
else:
    from children import signal_group, within
    from spool import log, now_us

SAMPLE_S = 5.0
CPU_SHARE = 0.05  # of one core
GPU_PERCENT = 5
BUSY_S = 2.0  # how often the file `busy` is touched
GPU_S = 10.0
FRESH_S = 0.25
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
QUERY = [
    "--query-gpu=utilization.gpu,memory.used,memory.total",
    "--format=csv,noheader,nounits",
]


def stat(pid: str) -> List[int]:
    """[parent, own ticks, ticks of children that it waited for, resident pages]. Raises OSError."""
    with open("/proc/%s/stat" % pid, "rb") as file:
        raw = file.read()
    f = raw[raw.rindex(b")") + 2 :].split()
    return [int(f[1]), int(f[11]) + int(f[12]), int(f[13]) + int(f[14]), int(f[21])]


def family() -> Dict[int, List[int]]:
    """stat() of this process and all of its descendants."""
    table, below = {}, {}  # type: ignore[var-annotated]
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                table[int(name)] = row = stat(name)
            except (OSError, ValueError, IndexError):
                continue  # it went while we looked
            below.setdefault(row[0], []).append(int(name))
    found, left = {}, [os.getpid()]
    while left:
        pid = left.pop()
        if pid in table:
            found[pid] = table.pop(pid)
            left += below.get(pid, ())
    return found


class Activity:
    """`active_us` is the last sign of use. `busy` asks whether the kernel has work."""

    def __init__(self, children: Children, busy: Callable[[], bool]) -> None:
        self.children, self.busy = children, busy
        self.loop = asyncio.get_running_loop()
        self.active_us = now_us()
        self.was_busy = False
        self.processes, self.rss, self.cpu_s, self.others_s = 1, 0, 0.0, 0.0
        self.sampled = -FRESH_S
        self.gpus: List[Json] = []

    def used(self) -> None:
        self.active_us = now_us()

    def changed(self) -> None:
        """The kernel began or ended to work."""
        self.used()
        busy = self.busy()
        if busy and not self.was_busy:
            self.touch()
        self.was_busy = busy

    def touch(self) -> None:
        """Tell whoever looks at the file `busy` that the kernel has work."""
        try:
            fd = os.open("busy", os.O_WRONLY | os.O_CREAT, 0o600)
            os.close(fd)
            os.utime("busy")
        except OSError:
            pass  # a full disk: the file was made at the start

    def sample(self) -> None:
        """What the processes have taken; at most once in FRESH_S."""
        now = self.loop.time()
        if now - self.sampled < FRESH_S:
            return
        self.sampled = now
        found = family()
        me = found.get(os.getpid(), [0, 0, 0, 0])
        ours = me[1]
        total = sum(row[1] + row[2] for row in found.values())
        self.processes = len(found)
        self.rss = sum(row[3] for row in found.values()) * PAGE
        # a process that nobody waits for takes its times with it
        self.cpu_s = max(self.cpu_s, total / TICKS)
        self.others_s = max(self.others_s, (total - ours) / TICKS)

    async def watch(self) -> None:
        """For ever."""
        self.touch()
        try:
            os.utime("busy", (0, 0))
        except OSError:
            pass
        await asyncio.gather(self.watch_busy(), self.watch_processes(), self.watch_gpus())

    async def watch_busy(self) -> None:
        while True:
            await asyncio.sleep(BUSY_S)
            if self.busy():
                self.used()
                self.touch()

    async def watch_processes(self) -> None:
        self.sample()
        before, at, began_us = self.others_s, self.loop.time(), now_us()
        while True:
            await asyncio.sleep(SAMPLE_S)
            self.sampled = -FRESH_S
            self.sample()
            now = self.loop.time()
            # a cell's own work would be told again up to SAMPLE_S after its end
            known = self.active_us >= began_us
            if not known and self.others_s - before > CPU_SHARE * (now - at):
                self.used()
            before, at, began_us = self.others_s, now, now_us()

    async def watch_gpus(self) -> None:
        program = shutil.which("nvidia-smi")
        while program:
            try:
                self.gpus = await self.ask_gpus(program)
            except (OSError, ValueError) as error:
                log("nvidia-smi is not asked any more: %s" % error)
                self.gpus = []
                return
            if any(gpu["util"] > GPU_PERCENT for gpu in self.gpus):
                self.used()
            await asyncio.sleep(GPU_S)

    async def ask_gpus(self, program: str) -> List[Json]:
        said, its_said = os.pipe()
        try:
            pid, ended = self.children.spawn(
                [program, *QUERY],
                stdin=subprocess.DEVNULL,
                stdout=its_said,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(its_said)
        with os.fdopen(said, "rb") as file:
            if not await within(ended, GPU_S):
                signal_group(pid, 9)
                raise ValueError("no answer within %d s" % GPU_S)
            lines = file.read().decode("utf-8", "replace").splitlines()
        found = []
        for line in lines:
            util, used, total = (float(one) for one in line.split(","))
            found.append({"util": int(util), "memory_util": int(100 * used / max(1.0, total))})
        return found
