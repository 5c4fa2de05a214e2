"""SshPods: the folders, environments and agents of pods on a host that is reached over SSH.

~/.nbgpu/ there:    pods/ID/{home,run,tmp}, volumes/ID, engines/pods/KEY, instances/NAME, code/HASH
here:               NBGPU_HOME/hosts/NAME/k/ID/k-1 … k-5, sockets that lead to the kernel's
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from nbgpu_backend.errors import NbgpuError, UpstreamError
from nbgpu_backend.providers import sandbox
from nbgpu_backend.providers.base import Gpu, PodCommand, PodPlan, Separation
from nbgpu_backend.providers.local.gpus import short_name
from nbgpu_backend.providers.sandbox import LOOKED_AT, Layout, Room
from nbgpu_backend.providers.ssh.errors import AWAY
from nbgpu_backend.providers.ssh.link import Link
from nbgpu_backend.providers.ssh.programs import LONG_S, lines

INSIDE_HOME, INSIDE_RUN, INSIDE_CODE = "/home/pod", "/run/nbgpu", "/run/agent"
INSIDE_WORK, INSIDE_PIP = "/workspace", "/run/pip.conf"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOCKETS = range(1, 6)
SHORT_S = 2.0  # of what is asked again a second later
PROGRAM = "room.py"


class SshPods:
    """A PodHost. What the host looks like is asked for once, and again after `forget`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._separation: Separation | None = None
        self._look: dict[str, Any] = {}
        self._made: dict[str, dict[str, Any]] = {}  # pod id -> where its room is

    async def separation(self, image: str | None = None) -> Separation:
        if self._separation is None:
            facts = await self._link.hello()
            why = (facts.get("tools") or {}).get("bwrap", "it was not looked for")
            if why is None:
                text = (
                    f"a sandbox (bubblewrap) on {self._link.name}: it sees its own files and processes "
                    "and the system's programs, not that user's files"
                )
                self._separation = Separation("bubblewrap", text)
            else:
                text = (
                    f"no sandbox on {self._link.name}, since bubblewrap does not work there ({why}): "
                    "it runs as that user, and can read what that user can"
                )
                self._separation = Separation("process", text)
        return self._separation

    async def gpus(self) -> Sequence[Gpu]:
        found = []
        for row in (await self._link.hello()).get("gpus") or ():
            size = row.get("memory_total_mib")
            memory = int(size) << 20 if isinstance(size, int) else None
            found.append(Gpu(int(row["index"]), str(row["uuid"]), short_name(row["name"]), memory))
        return found

    async def no_images(self) -> str:
        return f"pods from images are not supported on {self._link.name} yet"

    async def prepare(self, plan: PodPlan, told: Callable[[str], None]) -> None:
        sandboxed = (await self.separation()).level == "bubblewrap"
        inside = f"{INSIDE_HOME}/venv" if sandboxed else ""
        request = {
            "do": "make", "pod": plan.id, "volume": plan.volume, "inside": inside,
            "requirements": list(plan.requirements),
        }  # fmt: skip
        async with aclosing(lines(self._link, PROGRAM, request)) as said:
            async for line in said:
                if line["kind"] == "done":
                    self._made[plan.id] = line
                    return
                told(line["text"])
        raise UpstreamError(f"Making room for {plan.name} ended without a result.", "Try again.")

    async def command(
        self, plan: PodPlan, config: Mapping[str, Any], env: Mapping[str, str]
    ) -> PodCommand:
        here, made = await self._looked(), self._made[plan.id]
        sandboxed = (await self.separation()).level == "bubblewrap"
        home, run, work = f"{made['pod']}/home", f"{made['pod']}/run", str(made["volume"])
        code, temporary, pip = str(here["code"]), f"{made['pod']}/tmp", str(here["pip"])
        if sandboxed:
            home, run, work, code = INSIDE_HOME, INSIDE_RUN, INSIDE_WORK, INSIDE_CODE
            temporary, pip = "/tmp", INSIDE_PIP if pip else ""
        whole = {
            **here["env"],
            "PATH": f"{home}/venv/bin:{PATH}",
            "HOME": home,
            "USER": "pod",
            "VIRTUAL_ENV": f"{home}/venv",
            "SHELL": str(here["shell"]),
            "TMPDIR": temporary,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **({"PIP_CONFIG_FILE": pip} if pip else {}),
            **env,
            "NBGPU_AGENT": json.dumps({**config, "run": run, "workspace": work}),
        }
        if plan.gpus:
            whole["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in plan.gpus)
        argv = [f"{home}/venv/bin/python", f"{code}/agent.py"]
        if sandboxed:
            argv = sandbox.wrap(_layout(here), self._sandbox(plan, here, made), argv)
        return PodCommand(
            argv=tuple(argv),
            env=whole,
            cwd=f"{made['pod']}/run",
            spare_leader=sandboxed,
            busy_file=f"{made['pod']}/run/busy",
        )

    async def clear(self, instance: str) -> None:
        """There are no containers."""

    async def clear_others(self, installation: str, alive: Callable[[], Collection[str]]) -> None:
        """There are no containers."""

    async def connect(self, pod_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await self._link.connect(unix=f"pods/{pod_id}/run/agent", patience_s=SHORT_S)
        except AWAY:
            raise
        except NbgpuError as error:  # nobody listens there yet, or any more
            raise ConnectionError(str(error)) from error

    async def kernel_sockets(self, pod_id: str) -> str:
        folder = self._sockets(pod_id)
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        for number in SOCKETS:
            there = f"pods/{pod_id}/run/k-{number}"
            await self._link.expose(folder / f"k-{number}", unix=there)
        return str(folder / "k")

    def workspace(self, volume: str) -> str:
        return f"{self._link.name}:~/.nbgpu/volumes/{volume}"

    async def erase(self, pod_id: str) -> None:
        folder = self._sockets(pod_id)
        for number in SOCKETS:
            with suppress(NbgpuError):
                await self._link.unexpose(folder / f"k-{number}")
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._made.pop(pod_id, None)
        await self._link.call({"op": "remove", "path": f"pods/{pod_id}"}, patience_s=LONG_S)

    async def erase_volume(self, volume: str) -> None:
        await self._link.call({"op": "remove", "path": f"volumes/{volume}"}, patience_s=LONG_S)

    async def volume_bytes(self, volume: str) -> int:
        answer = await self._link.call({"op": "size", "path": f"volumes/{volume}"})
        return int(answer["bytes"])

    # --- below

    def _sockets(self, pod_id: str) -> Path:
        return self._link.folder / "k" / pod_id

    async def _looked(self) -> dict[str, Any]:
        if not self._look:
            async with aclosing(
                lines(self._link, PROGRAM, {"do": "look", "paths": LOOKED_AT})
            ) as said:
                async for line in said:
                    self._look = line
        return self._look

    def _sandbox(self, plan: PodPlan, here: dict[str, Any], made: dict[str, Any]) -> Room:
        shown = [(made["shared"], made["shared"]), (here["code"], INSIDE_CODE)]
        if not made["base"].startswith("/usr/") and made["base"] != "/usr":
            shown.insert(0, (made["base"], made["base"]))
        if here["pip"]:
            shown.append((here["pip"], INSIDE_PIP))
        owned = [
            (f"{made['pod']}/home", INSIDE_HOME),
            (f"{made['pod']}/run", INSIDE_RUN),
            (f"{made['pod']}/tmp", "/tmp"),
            (made["volume"], INSIDE_WORK),
        ]
        indices = [gpu.index for gpu in plan.gpus]
        return Room(plan.name, shown, owned, plan.network == "host", indices, cwd=INSIDE_RUN)


def _layout(here: Mapping[str, Any]) -> Layout:
    return Layout(
        here["links"], frozenset(here["folders"]), frozenset(here["files"]), bool(here["root"])
    )
