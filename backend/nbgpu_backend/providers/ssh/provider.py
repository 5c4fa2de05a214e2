"""SshHost: instances on a host that is reached over SSH, each under a shim there.

A WorkerHost with pods. It remembers nothing but what it last saw of the host's memory, how far its clock is
off, and what it knows to have brought there: what exists is read there. Where the link is down, `wait` waits
on and everything else raises HostUnreachable or LinkCut.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbgpu_backend import relay
from nbgpu_backend.domain.placement import Offer
from nbgpu_backend.errors import Conflict, DiskError, NbgpuError, NotFound, Unavailable
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
from nbgpu_backend.providers.local.parents import Forked
from nbgpu_backend.providers.local.records import State, parse_exit
from nbgpu_backend.providers.local.relay_client import RelayClient, read_spool
from nbgpu_backend.providers.ssh.errors import AWAY, PortRefused
from nbgpu_backend.providers.ssh.link import Link
from nbgpu_backend.providers.ssh.parents import SshParents
from nbgpu_backend.providers.ssh.pods import SshPods
from nbgpu_backend.providers.ssh.supplies import SshSupplies

ANSWER_S = 10.0  # a shim answers in milliseconds; the link may take its time
AGAIN_S = 1.0  # between tries, while the link is down
STEADY_US = 1_000_000  # a clock that is off by less is taken for right
NO_ANSWER = ("no_answer", "late")


class SshHost:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.pods: PodHost | None = SshPods(link)
        self.supplies: SupplyHost | None = SshSupplies(link)
        self._parents = SshParents(link)
        self._available = 0
        self._offset_us: int | None = None  # of its clock, as last seen

    async def away(self) -> str:
        """Why it is not heard just now, a sentence without its stop; "" while it is."""
        status = await self.link.status()
        if status["state"] == "connected":
            return ""
        return str(status["sentence"]).rstrip(".") or f"{self.link.name} is being connected"

    async def launch(self, spec: LaunchSpec) -> Launched:
        """As the provider of this machine does it. LinkCut: it may have come up."""
        ahead = await self._ahead()
        document: dict[str, Any] = {
            "argv": list(spec.argv), "env": dict(spec.env), "generation": spec.generation,
            "ttl_s": spec.ttl_s, "grace_s": spec.grace_s, "cwd": spec.cwd,
            "files": dict(spec.secrets), "meta": dict(spec.meta),
            "oom_score_adj": spec.oom_score_adj, "until_us": _there(spec.until_us, ahead),
            "busy_file": spec.busy_file, "memory_bytes": spec.memory_bytes,
            "process_limit": spec.process_limit, "spare_leader": spec.spare_leader,
        }  # fmt: skip
        forked = await self._forked(spec, document)
        line = forked.line
        if line is None:
            request = {"op": "launch", "folder": _folder(spec.name), "document": document}
            line = (await self.link.call(request))["line"]
        if "error" in line:
            await self.link.leave(spec.name)
            raise _refused(spec.name, self.link.name, line)
        return Launched(
            spec.name,
            line["pid"],
            line["shim"],
            line["started_us"] - ahead,
            tier="plain" if forked.line is None else "preimported",
            fell_back=forked.fell_back,
            parent_s=forked.waited_s,
        )

    async def observe(self, name: str) -> Observed:
        look = await self.link.call({"op": "look", "folder": _folder(name)})
        return _seen(name, look, await self._ahead())

    async def wait(self, name: str) -> Exit:
        """Through links that break. Raises NotFound where nothing is left that says how it ended."""
        while True:
            try:
                seen = await self.observe(name)
                if seen.state == "gone":
                    raise _unknown(name, self.link.name)
                if seen.exit is not None:
                    return seen.exit
                return await self._exit(await self._ask(name, {"op": "wait"}, None))
            except NotFound:
                raise
            except NbgpuError as error:
                # not heard is not ended
                await asyncio.sleep(AGAIN_S / 20 if error.code in NO_ANSWER else AGAIN_S)

    async def renew(self, name: str, ttl_s: float, until_us: int | None = None) -> bool:
        until_us = _there(until_us, await self._ahead())
        request = {"op": "renew", "ttl_s": ttl_s, "until_us": until_us}
        return await self._does(name, request, "its lease was not extended")

    async def pause(self, name: str, oom_score_adj: int) -> bool:
        request = {"op": "pause", "oom_score_adj": oom_score_adj}
        return await self._does(name, request, "it runs on")

    async def resume(self, name: str, oom_score_adj: int) -> bool:
        request = {"op": "resume", "oom_score_adj": oom_score_adj}
        return await self._does(name, request, "it stays paused")

    async def stop(self, name: str, grace_s: float) -> Exit:
        while True:
            seen = await self.observe(name)
            if seen.state == "gone":
                raise _unknown(name, self.link.name)
            if seen.exit is not None:
                return seen.exit
            try:
                question = {"op": "stop", "grace_s": grace_s}
                return await self._exit(await self._ask(name, question, None))
            except NbgpuError as error:
                if error.code not in NO_ANSWER:
                    raise
                await asyncio.sleep(AGAIN_S / 20)

    async def memory(self, names: Sequence[str]) -> Mapping[str, int]:
        folders = {_folder(name): name for name in names}
        answer = await self.link.call({"op": "memory", "folders": list(folders)})
        self._available = int(answer["available"])
        return {folders[folder]: int(size) for folder, size in answer["memory"].items()}

    def available_memory(self) -> int:
        """As last seen."""
        return self._available

    def offers(self) -> Sequence[Offer]:
        """None besides the cards of that machine, which `pods.gpus` lists."""
        return ()

    async def parents(self) -> Sequence[ParentSeen]:
        return await self._parents.list()

    async def stop_parent(self, key: str) -> None:
        await self._parents.stop(key)

    async def free_port(self, more: int = 0) -> int:
        return int((await self.link.call({"op": "free_port", "more": more}))["port"])

    async def reach(self, name: str, port: int) -> int:
        """Through the tunnel, which listens on it; also while the link is down."""
        return await self.link.reach(name, port)

    async def read_secret(self, name: str, file: str) -> str | None:
        path = f"{_folder(name)}/{Path(file).name}"
        try:
            answer = await self.link.call({"op": "read", "path": path})
        except NotFound:
            return None
        text = answer.get("data")
        return str(text) if text is not None else base64.b64decode(answer["data64"]).decode()

    async def relay(self, name: str) -> Relay | None:
        try:
            streams = await self.link.connect(unix=f"{_folder(name)}/{relay.SOCKET}")
        except PortRefused:
            return None
        return RelayClient.over(*streams)

    async def spool(self, name: str) -> Sequence[Post]:
        with tempfile.TemporaryDirectory(dir=self.link.folder, prefix=".spool-") as folder:
            with suppress(NotFound):  # it had taken nothing
                await self.link.get(
                    f"{_folder(name)}/{relay.SPOOL}", Path(folder) / relay.SPOOL, resume=False
                )
            return (await asyncio.to_thread(read_spool, Path(folder))).posts

    async def logs(self, name: str, tail: int = 100) -> list[str]:
        answer = await self.link.call({"op": "logs", "folder": _folder(name), "tail": tail})
        return [str(line) for line in answer["lines"]]

    async def follow(self, name: str, tail: int) -> AsyncGenerator[list[str], None]:
        at: int | None = None  # None: nothing has come yet
        while True:
            request = {"op": "follow", "folder": _folder(name), "tail": tail, "at": at}
            try:
                async with aclosing(self.link.stream(request)) as parts:
                    async for part in parts:
                        if "lines" in part:
                            at = int(part["at"])
                            yield part["lines"]
                return
            except AWAY:
                await asyncio.sleep(AGAIN_S)
            except NotFound:
                if at is None:
                    raise
                return

    async def forget(self, name: str) -> None:
        await self.link.call({"op": "remove", "path": _folder(name), "locked": True})
        await self.link.leave(name)

    async def list_owned(self, installation: str) -> list[Observed]:
        prefix = f"nbgpu-{installation}-"
        answer = await self.link.call({"op": "list", "prefix": prefix, "look": True})
        ahead = await self._ahead()
        found = [_seen(name, look, ahead) for name, look in answer["found"].items()]
        return [seen for seen in found if seen.state != "gone"]

    async def _ahead(self) -> int:
        """Microseconds that its clock is ahead of ours: everything there is judged by its own.

        While the link is down, as it was last seen; before that it is waited for.
        """
        status = await self.link.status()
        if "clock_offset_us" not in status and self._offset_us is None:
            await self.link.call({"op": "stat", "path": "instances"})
            status = await self.link.status()
        ahead = self._offset_us = int(status.get("clock_offset_us", self._offset_us or 0))
        return ahead if abs(ahead) > STEADY_US else 0

    async def _exit(self, record: Mapping[str, Any]) -> Exit:
        return _exit(record, await self._ahead())

    async def _forked(self, spec: LaunchSpec, document: dict[str, Any]) -> Forked:
        if spec.parent is None:
            return Forked()
        try:
            return await self._parents.fork(spec.parent, spec.name, document)
        except TimeoutError:
            raise Unavailable(
                f"The start of {spec.name} on {self.link.name} was not confirmed in time.",
                "It may still come up; see whether the disk or the memory there is exhausted.",
                code="launch_timeout",
            ) from None

    async def _does(self, name: str, question: dict[str, Any], lost: str) -> bool:
        """False when the instance is ending or gone."""
        for _ in range(2):
            try:
                return "error" not in await self._ask(name, question, ANSWER_S)
            except NbgpuError as error:
                if error.code not in NO_ANSWER:
                    raise
            if (await self.observe(name)).state != "running":
                return False
        raise Unavailable(
            f"The shim of {name} on {self.link.name} does not answer, so {lost}.",
            "See with `ps` there whether that process was stopped; `kill -CONT` lets it go on.",
        )

    async def _ask(
        self, name: str, question: dict[str, Any], timeout_s: float | None
    ) -> dict[str, Any]:
        request = {"op": "ask", "folder": _folder(name), "request": question}
        answer: dict[str, Any] = (await self.link.call({**request, "timeout_s": timeout_s}))[
            "answer"
        ]
        return answer


def _folder(name: str) -> str:
    return f"instances/{name}"


def _there(at_us: int | None, ahead_us: int) -> int | None:
    return None if at_us is None else at_us + ahead_us


def _exit(record: Mapping[str, Any], ahead_us: int) -> Exit:
    ended = parse_exit(record)
    return replace(ended, ended_us=ended.ended_us - ahead_us)


def _seen(name: str, look: Mapping[str, Any], ahead_us: int) -> Observed:
    if look["state"] == "gone":
        return Observed(name, "gone")
    state = State.parse(look["record"]) if look.get("record") else None
    known: dict[str, Any] = {}
    if state is not None:
        known = {
            "generation": state.generation,
            "pid": state.pid,
            "started_us": state.started_us - ahead_us,
            "meta": state.meta,
        }
    if look["state"] == "ended":
        return Observed(name, "ended", exit=_exit(look["exit"], ahead_us), **known)
    status = look.get("status") or {}
    return Observed(
        name, "running", lease_s=status.get("lease_s"), paused=bool(status.get("paused")), **known
    )


def _unknown(name: str, host: str) -> NotFound:
    return NotFound(f"There is no instance {name!r} on {host}.", instance=name)


def _refused(name: str, host: str, line: Mapping[str, Any]) -> NbgpuError:
    kind, text = line.get("kind"), str(line["error"]).strip().rstrip(".")
    if kind in ("held", "used"):
        return Conflict(
            f"The name {name} is taken on {host}: {text}.", "Launch the next generation."
        )
    if kind == "disk":
        return DiskError(f"{host} cannot write its folder ({text}).", "Free some space there.")
    if kind == "exec":
        return Unavailable(
            f"On {host} it could not be started: {text}.",
            f"See what the host lacks with: nbgpu host check {host}",
            code="exec_failed",
        )
    return Unavailable(f"On {host} it could not be started: {text}.", code="launch_failed")
