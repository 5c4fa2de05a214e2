"""LocalProvider: instances on this machine, each under a shim of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbgpu_backend
from nbgpu_backend.clock import Clock
from nbgpu_backend.domain.placement import Offer
from nbgpu_backend.errors import Conflict, DiskError, NbgpuError, NotFound, Unavailable
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import (
    Exit,
    Launched,
    LaunchSpec,
    Observed,
    ParentSeen,
    PodHost,
    Post,
    Relay,
    SupplyHost,
)
from nbgpu_backend.providers.local import procfs, records
from nbgpu_backend.providers.local.locks import probe
from nbgpu_backend.providers.local.parents import Forked, Parents
from nbgpu_backend.providers.local.pods import LocalPods
from nbgpu_backend.providers.local.ports import free_port
from nbgpu_backend.providers.local.records import State
from nbgpu_backend.providers.local.relay_client import RelayClient, read_spool
from nbgpu_backend.providers.local.shim_client import NoAnswer, ShimClient
from nbgpu_backend.providers.local.sweep import sweep
from nbgpu_backend.providers.ssh.host import Follower  # it imports nothing of ours

SHIM = Path(nbgpu_backend.__file__).with_name("shim.py")
LAUNCH_S = 90.0  # above the shim's own patience with an exec
SETTLE_S = 2.0  # between a shim's last sign and its lock being free
STOP_S = 60.0  # beyond the grace: processes in uninterruptible calls
FOLLOW_S = 0.25  # between looks at a log that is followed
STALE_S = 60.0  # the age at which a nameless folder is nobody's
MINIMAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LocalProvider:
    """A WorkerHost. It remembers nothing: a new object sees what the one before it saw."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._home = home
        self._clock = clock
        self._parents = Parents(home)
        self.pods: PodHost | None = LocalPods(home)
        self.supplies: SupplyHost | None = None

    async def away(self) -> str:
        return ""

    async def free_port(self, more: int = 0) -> int:
        return free_port(more)

    async def reach(self, name: str, port: int) -> int:
        return port

    async def launch(self, spec: LaunchSpec) -> Launched:
        """Return once the engine has been exec'ed, or forked by its pre-imported parent.

        Where a parent is asked for and cannot serve, it is exec'ed and `fell_back` says why.
        Raises Conflict for a name that exists, DiskError when its folder cannot be written, and
        Unavailable with the reason when the engine cannot be exec'ed. With the code
        `launch_timeout` the instance may still come up: look among `list_owned` before a retry.
        """
        folder = self._folder(spec.name)
        document = {
            "argv": list(spec.argv),
            "env": dict(spec.env),
            "generation": spec.generation,
            "ttl_s": spec.ttl_s,
            "grace_s": spec.grace_s,
            "cwd": spec.cwd,
            "files": dict(spec.secrets),
            "meta": dict(spec.meta),
            "oom_score_adj": spec.oom_score_adj,
            "until_us": spec.until_us,
            "busy_file": spec.busy_file,
            "memory_bytes": spec.memory_bytes,
            "process_limit": spec.process_limit,
            "spare_leader": spec.spare_leader,
        }
        forked, line = Forked(), None
        try:
            if spec.parent is not None:
                command = {"python": sys.executable, "shim": str(SHIM), "env": self._shim_env()}
                request = {"op": "fork", **command, "folder": str(folder), "spec": document}
                forked = await self._parents.fork(spec.parent, folder, request, LAUNCH_S)
                line = forked.line
            if line is None:
                data = json.dumps(document).encode()
                line = await asyncio.to_thread(self._run_shim, folder, data)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise Unavailable(
                f"The start of {spec.name} was not confirmed within {LAUNCH_S:.0f} s.",
                "It may still come up; see whether the disk or the memory is exhausted.",
                code="launch_timeout",
            ) from None
        except OSError as error:
            raise Unavailable(
                f"No process could be started for {spec.name}: {error.strerror}.",
                "Free some memory or end other processes.",
            ) from None
        if "error" in line:
            raise _launch_error(spec, folder, line)
        return Launched(
            spec.name,
            line["pid"],
            line["shim"],
            line["started_us"],
            tier="plain" if forked.line is None else "preimported",
            fell_back=forked.fell_back,
            parent_s=forked.waited_s,
        )

    async def parents(self) -> list[ParentSeen]:
        return await self._parents.list()

    async def stop_parent(self, key: str) -> None:
        await self._parents.stop(key)

    async def observe(self, name: str) -> Observed:
        """What the instance is now. Finds a killed shim, and ends what it left."""
        folder = self._folder(name)
        end = time.monotonic() + SETTLE_S
        pause = 0.005
        while True:
            seen = await asyncio.to_thread(self._look, name, folder)
            if seen is not None:
                return seen
            with suppress(NoAnswer):
                status = await ShimClient(folder).status()
                return _running(
                    name, State.parse(status), float(status["lease_s"]), bool(status["paused"])
                )
            # its lock is held: it starts, it has just ended, or it is stopped
            if time.monotonic() > end:
                return _running(name, records.read_state(folder), None)
            await asyncio.sleep(pause)
            pause = min(0.2, pause * 2)

    async def wait(self, name: str) -> Exit:
        while True:
            seen = await self._known(name)
            if seen.exit is not None:
                return seen.exit
            with suppress(NoAnswer):
                return records.parse_exit(await ShimClient(self._folder(name)).wait())
            await asyncio.sleep(0.02)

    async def renew(self, name: str, ttl_s: float, until_us: int | None = None) -> bool:
        return await self._ask(
            name, lambda shim: shim.renew(ttl_s, until_us), "its lease was not extended"
        )

    async def pause(self, name: str, oom_score_adj: int) -> bool:
        return await self._ask(name, lambda shim: shim.pause(True, oom_score_adj), "it runs on")

    async def resume(self, name: str, oom_score_adj: int) -> bool:
        return await self._ask(
            name, lambda shim: shim.pause(False, oom_score_adj), "it stays paused"
        )

    async def memory(self, names: Sequence[str]) -> Mapping[str, int]:
        folders = {name: self._folder(name) for name in names}
        return await asyncio.to_thread(_pss, folders)

    async def stop(self, name: str, grace_s: float) -> Exit:
        try:
            async with asyncio.timeout(grace_s + STOP_S):
                while True:
                    seen = await self._known(name)
                    if seen.exit is not None:
                        return seen.exit
                    with suppress(NoAnswer):
                        return records.parse_exit(
                            await ShimClient(self._folder(name)).stop(grace_s)
                        )
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Unavailable(
                f"{name} was killed but has not ended after {grace_s + STOP_S:.0f} s.",
                "A process in a blocked system call (a hung disk or GPU driver) ends only with it.",
            ) from None

    async def logs(self, name: str, tail: int = 100) -> list[str]:
        folder = self._folder(name)
        if not folder.is_dir():
            raise _unknown(name)
        return await asyncio.to_thread(records.tail, folder / "log", tail)

    async def follow(self, name: str, tail: int) -> AsyncGenerator[list[str], None]:
        try:
            log = await asyncio.to_thread(Follower, str(self._folder(name)), tail)
        except FileNotFoundError:
            raise _unknown(name) from None
        try:
            more = True
            while more:
                lines, more = await asyncio.to_thread(log.read)
                if lines:
                    yield lines
                elif more:
                    await asyncio.sleep(FOLLOW_S)
        finally:
            log.close()

    async def read_secret(self, name: str, file: str) -> str | None:
        try:
            return await asyncio.to_thread((self._folder(name) / Path(file).name).read_text)
        except OSError:
            return None

    async def forget(self, name: str) -> None:
        """Remove the folder. Raises Conflict while the instance runs; no folder is no error."""
        if (await self.observe(name)).state == "running":
            raise Conflict(f"{name} is running.", "Stop it first.")
        await asyncio.to_thread(self._remove, name)

    async def list_owned(self, installation: str) -> list[Observed]:
        prefix = f"nbgpu-{installation}-"
        names = await asyncio.to_thread(self._names, prefix)
        found = await asyncio.gather(*(self.observe(name) for name in names))
        return [seen for seen in found if seen.state != "gone"]

    async def relay(self, name: str) -> Relay | None:
        try:
            return await RelayClient.connect(self._folder(name))
        except NoAnswer:
            return None

    async def spool(self, name: str) -> Sequence[Post]:
        return (await asyncio.to_thread(read_spool, self._folder(name))).posts

    def available_memory(self) -> int:
        return procfs.available_memory()

    def offers(self) -> Sequence[Offer]:
        """None besides the cards of this machine, which `pods.gpus` lists."""
        return ()

    # below: what blocks, called in threads

    def _folder(self, name: str) -> Path:
        if not name or name.startswith(".") or Path(name).name != name:
            raise _unknown(name)
        return self._home.instances / name

    async def _ask(
        self, name: str, question: Callable[[ShimClient], Awaitable[bool]], lost: str
    ) -> bool:
        """False when the instance is ending or gone."""
        for _ in range(2):
            with suppress(NoAnswer):
                return await question(ShimClient(self._folder(name)))
            if (await self.observe(name)).state != "running":
                return False
        raise Unavailable(
            f"The shim of {name} does not answer, so {lost}.",
            "See with `ps` whether that process was stopped; `kill -CONT` lets it go on.",
        )

    async def _known(self, name: str) -> Observed:
        seen = await self.observe(name)
        if seen.state == "gone":
            raise _unknown(name)
        return seen

    def _shim_env(self) -> dict[str, str]:
        return {"NBGPU_HOME": str(self._home.root), "PATH": MINIMAL_PATH}

    def _run_shim(self, folder: Path, document: bytes) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-E", str(SHIM), str(folder)],
            input=document,
            capture_output=True,
            env=self._shim_env(),
            cwd="/",
            start_new_session=True,  # Ctrl-C in the backend's terminal is not for us
            timeout=LAUNCH_S,
            check=False,
        )
        try:
            line: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            said = done.stderr.decode("utf-8", "replace").strip()[-500:]
            return {"error": said or "no answer"}
        return line

    def _look(self, name: str, folder: Path) -> Observed | None:
        """None while the lock is held and there is no exit.json."""
        if not folder.is_dir():
            return Observed(name, "gone")
        if (ended := records.read_exit(folder)) is not None:
            return _ended(name, records.read_state(folder), ended)
        with probe(folder) as free:
            if not free:
                return None
            state = records.read_state(folder)
            ended = records.read_exit(folder)  # it may have been written before we had the lock
            if ended is None:
                if state is not None and not sweep(folder, state):
                    return _running(name, state, None)
                if not folder.is_dir():
                    return Observed(name, "gone")
                ended = records.lost(folder, self._clock.now())
                with suppress(OSError):  # a full disk: the next look says the same
                    records.write_exit(folder, ended)
            return _ended(name, state, ended)

    def _remove(self, name: str) -> None:
        folder = self._home.instances / name
        end = time.monotonic() + SETTLE_S
        while True:
            with probe(folder) as free:
                if free or not folder.is_dir():
                    away = folder.with_name(f".{name}.{os.getpid()}")
                    with suppress(FileNotFoundError):
                        folder.rename(away)  # at once, so that nobody sees half of it
                    shutil.rmtree(away, ignore_errors=True)
                    return
            if time.monotonic() > end:
                raise Conflict(f"The shim of {name} still holds its lock.", "Try again.")
            time.sleep(0.01)

    def _names(self, prefix: str) -> list[str]:
        try:
            entries = sorted(os.scandir(self._home.instances), key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        for entry in entries:
            # from a launch or a removal that was killed half-way
            if entry.name.startswith(f".{prefix}"):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > STALE_S:
                        with probe(Path(entry.path)) as free:
                            if free:
                                shutil.rmtree(entry.path, ignore_errors=True)
        return [entry.name for entry in entries if entry.name.startswith(prefix) and entry.is_dir()]


def _pss(folders: Mapping[str, Path]) -> dict[str, int]:
    """Blocks: the kernel walks every page table."""
    rows = procfs.processes()
    found = {}
    for name, folder in folders.items():
        if (state := records.read_state(folder)) is not None:
            members = procfs.session_members(rows, state.pid, state.start)
            found[name] = sum(procfs.pss(row.pid) or 0 for row in members)
    return found


def _running(
    name: str, state: State | None, lease_s: float | None, paused: bool = False
) -> Observed:
    if state is None:
        return Observed(name, "running", generation=_generation(name))
    return Observed(
        name,
        "running",
        generation=state.generation,
        pid=state.pid,
        started_us=state.started_us,
        lease_s=lease_s,
        paused=paused,
        meta=state.meta,
    )


def _ended(name: str, state: State | None, ended: Exit) -> Observed:
    if state is None:
        return Observed(name, "ended", generation=_generation(name), exit=ended)
    return Observed(
        name,
        "ended",
        generation=state.generation,
        pid=state.pid,
        started_us=state.started_us,
        exit=ended,
        meta=state.meta,
    )


def _generation(name: str) -> int:
    """The number a name ends in, for an instance that came to no state.json."""
    last = name.rpartition("-")[2]
    return int(last) if last.isdecimal() else 0


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no instance {name!r} on this machine.", instance=name)


def _launch_error(spec: LaunchSpec, folder: Path, line: dict[str, object]) -> NbgpuError:
    kind, text = line.get("kind"), str(line["error"]).strip().rstrip(".")
    if kind in ("held", "used"):
        return Conflict(
            f"The name {spec.name} is taken: {text}.",
            "Forget that instance if it has ended, or launch the next generation.",
        )
    if kind == "disk":
        return DiskError(
            f"{spec.name} was not started, because its folder {folder} cannot be written ({text}).",
            "Free some space, or set NBGPU_HOME to a folder on a local disk that you can write.",
        )
    if kind == "exec":
        return Unavailable(
            f"The engine of {spec.name} could not be started: {text}.",
            "See that the engine is installed and that the folder it starts in exists.",
            code="exec_failed",
        )
    return Unavailable(f"{spec.name} could not be started: {text}.", code="launch_failed")
