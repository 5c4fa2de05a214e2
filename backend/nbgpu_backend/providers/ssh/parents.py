"""The pre-imported parents of a host, below ~/.nbgpu/parents there.

They belong to the account on that host: whoever's backend needs one of the same engine finds it. Started and
ended they are by nursery.py there; asked to fork directly, so that a warm start costs no process more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.errors import NbgpuError, Unavailable
from nbgpu_backend.providers.base import ParentSeen
from nbgpu_backend.providers.local.parents import KILLED_RETRY_S, READY_S, RETRY_S, Forked
from nbgpu_backend.providers.ssh import programs
from nbgpu_backend.providers.ssh.link import Link

PROGRAM = "nursery.py"
FORK_S = 90.0  # above the shim's own patience
STATUS_S = 5.0
GONE = ("no_answer",)
# what shims have there that host.py starts itself; see host.launch
SHIM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SshParents:
    """What it remembers is which ones failed, so as not to wait for them again."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._starting: dict[str, asyncio.Lock] = {}
        self._failures: dict[str, tuple[str, float]] = {}  # why, and until when

    async def fork(self, spec: ParentSpec, name: str, document: Mapping[str, Any]) -> Forked:
        """Have an instance forked; a parent that is not there is started first.

        Raises TimeoutError when a fork was begun and not confirmed, and what a link that breaks raises.
        """
        facts = await self._link.call({"op": "hello", "tools": False})
        folder = f"instances/{name}"
        request = {
            "op": "fork", "python": facts["executable"], "shim": f"{facts['code']}/shim.py",
            "env": {"NBGPU_HOME": facts["root"], "PATH": SHIM_PATH},
            "folder": f"{facts['root']}/{folder}", "spec": document,
        }  # fmt: skip
        began, waited = time.monotonic(), 0.0
        for _ in range(2):  # it is not there; or it came to its idle end just now
            try:
                line = await self._ask(spec.key, request, FORK_S)
            except NbgpuError as error:
                if error.code == "late":
                    raise TimeoutError from None
                if error.code not in GONE:
                    raise
                look = await self._link.call({"op": "look", "folder": folder})
                if look["state"] != "gone":  # a shim began and died
                    return Forked({"error": "the shim died at once", "kind": "fault"})
                why = await self._start(spec)
                waited = time.monotonic() - began
                if why:
                    return Forked(None, why, waited)
                continue
            if line.get("kind") == "parent":
                return Forked(None, f"The pre-imported parent refused: {line['error']}.", waited)
            return Forked(line, "", waited)
        return Forked(None, "The pre-imported parent died before it forked anything.", waited)

    async def list(self) -> Sequence[ParentSeen]:
        """Those that live. What a dead one has left is removed."""
        listing = {"op": "list", "folder": "parents", "prefix": ""}
        keys = [str(name) for name in (await self._link.call(listing))["names"]]
        if not keys:
            return []
        folders = {_folder(key): key for key in keys}
        held = (await self._link.call({"op": "memory", "folders": list(folders)}))["memory"]
        seen = []
        for folder, key in folders.items():
            if folder not in held:
                continue  # it has only begun
            if not held[folder]:
                await self._link.call({"op": "remove", "path": folder, "locked": True})
                continue
            if (found := await self._look(key, int(held[folder]))) is not None:
                seen.append(found)
        return seen

    async def stop(self, key: str) -> None:
        """Return when it has ended. Raises Unavailable where it does not."""
        self._failures.pop(key, None)  # that it ended was wanted
        why = (await self._run({"do": "stop", "key": key}))["why"]
        if why:
            raise Unavailable(
                f"The pre-imported parent {key} on {self._link.name}: {why}.",
                "A process in a blocked system call (a hung disk) ends only with it.",
            )

    async def _start(self, spec: ParentSpec) -> str:
        """Return when the parent answers; or why it does not, a sentence."""
        async with self._starting.setdefault(spec.key, asyncio.Lock()):
            why, until = self._failures.get(spec.key, ("", 0.0))
            left = until - time.monotonic()
            if left > 0:
                soon = f"{left / 60:.0f} min" if left >= 60 else f"{left:.0f} s"
                return f"{why} It is tried again in {soon}."
            done = await self._run(
                {
                    "do": "start", "key": spec.key, "argv": list(spec.argv), "env": dict(spec.env),
                    "idle_s": spec.idle_s, "ready_s": READY_S,
                }
            )  # fmt: skip
            if not done["why"]:
                self._failures.pop(spec.key, None)
                return ""
            retry_s = KILLED_RETRY_S if done["killed"] else RETRY_S
            self._failures[spec.key] = f"{done['why']}.", time.monotonic() + retry_s
            return f"{done['why']}."

    async def _look(self, key: str, pss: int) -> ParentSeen | None:
        ready = True
        try:
            state = await self._ask(key, {"op": "status"}, STATUS_S)
        except NbgpuError as error:
            if error.code not in (*GONE, "late"):
                raise
            ready, state = False, {}
        return ParentSeen(
            key=key, pid=int(state.get("pid", 0)), started_us=int(state.get("started_us", 0)),
            ready=ready, ready_s=state.get("ready_s"), idle_s=float(state.get("idle_s", 0.0)), pss=pss,
        )  # fmt: skip

    async def _ask(self, key: str, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        asked = {"op": "ask", "folder": _folder(key), "request": request, "timeout_s": timeout_s}
        answer: dict[str, Any] = (await self._link.call(asked))["answer"]
        return answer

    async def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        async with aclosing(programs.lines(self._link, PROGRAM, request)) as lines:
            async for line in lines:
                return line
        raise Unavailable(f"{PROGRAM} on {self._link.name} ended without a result.", "Try again.")


def _folder(key: str) -> str:
    return f"parents/{key}"
