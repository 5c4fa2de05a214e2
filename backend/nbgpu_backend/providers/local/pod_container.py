"""A pod from an image: its environment made in a container of the image, and the command of its own one.

The image brings Python; the environment is a small one in the pod's home, which sees what the image has.
Both containers get the agent's code and the pod's folders at the paths that they have in a sandbox, too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.environments.pip import progress, trouble
from nbgpu_backend.environments.pip_failures import cause
from nbgpu_backend.errors import DiskError, EngineMissing, NbgpuError, Unavailable
from nbgpu_backend.providers import containers
from nbgpu_backend.providers.base import PodCommand, PodPlan, Separation
from nbgpu_backend.providers.containers import Box, Engine
from nbgpu_backend.providers.local.commands import follow
from nbgpu_backend.providers.local.container_engine import Containers
from nbgpu_backend.providers.local.pod_environment import KERNEL, OURS

CHILD = Path(__file__).with_name("container_child.py")
HOME, RUN, CODE, WORK = "/home/pod", "/run/nbgpu", "/run/agent", "/workspace"
VENV = f"{HOME}/venv"
NO_PROGRAM = 127
NOT_FOR_IMAGES = ("LANG", "LC_")  # an image has other locales
PYTHON = "docker.io/library/python:3.12"  # what is named where an image does not do


@dataclass(frozen=True, slots=True)
class Folders:
    """Of one pod, on this machine; `settings` are files that are shown where they are."""

    home: Path
    run: Path
    work: Path
    code: Path
    settings: Sequence[str] = ()

    @property
    def shown(self) -> list[tuple[str, str]]:
        return [(str(self.code), CODE), *((path, path) for path in self.settings)]


class ContainerPods:
    def __init__(self) -> None:
        self._containers = Containers()

    async def why_not(self) -> str:
        return (await self._containers.find()).why

    async def separation(self, image: str) -> Separation:
        engine = (await self._containers.find()).engine
        kind = f"a container ({engine.name})" if engine else "a container"
        return Separation(
            "container",
            f"{kind} of {image}: it sees its own files and processes and the image's programs, not your files",
        )

    async def prepare(
        self,
        plan: PodPlan,
        folders: Folders,
        env: Mapping[str, str],
        told: Callable[[str], None],
    ) -> None:
        """Raises Unavailable, EngineMissing, DiskError."""
        image = str(plan.image)
        engine = await self._containers.engine()
        named = any(OURS.match(line) for line in plan.requirements)
        wanted = {"kernel": "" if named else KERNEL, "requirements": list(plan.requirements)}
        whole = json.dumps({**wanted, "image": await self._containers.image(engine, image, told)})
        if _text(folders.home / "venv" / "furnished") == whole:
            return
        box = Box(
            name=plan.container,
            installation=plan.installation,
            image=image,
            hostname=plan.name,
            shown=folders.shown,
            owned=[(str(folders.home), HOME)],
        )
        given = {**wanted, "venv": VENV, "env": {**env, "HOME": HOME}, "whole": whole}
        await self._furnish(engine, box, given, told)

    async def _furnish(
        self, engine: Engine, box: Box, given: Mapping[str, Any], told: Callable[[str], None]
    ) -> None:
        last: dict[str, Any] = {}
        pip: list[str] = []

        def heard(line: str) -> None:
            with suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict) and "pip" in value:
                    pip.append(str(value["pip"]))
                    if words := progress(pip[-1]):
                        told(words)
                elif isinstance(value, dict):
                    last.update(value)

        argv = containers.run(engine, box, ["python3", f"{CODE}/furnish.py"])
        told("a look into the image")
        await self._containers.remove(box.name)  # of a machine that went down meanwhile
        try:
            code, tail = await follow(*argv, heard=heard, given=json.dumps(given).encode() + b"\n")
        except BaseException:
            with suppress(NbgpuError):
                await self._containers.remove(box.name)
            raise
        if not last.get("done"):
            raise _unfurnished(engine, box.image, code, tail, pip, last)

    def command(
        self,
        engine: Engine,
        plan: PodPlan,
        folders: Folders,
        config: Mapping[str, Any],
        env: Mapping[str, str],
    ) -> PodCommand:
        box = Box(
            name=plan.container,
            installation=plan.installation,
            image=str(plan.image),
            hostname=plan.name,
            shown=folders.shown,
            owned=[(str(folders.home), HOME), (str(folders.run), RUN), (str(folders.work), WORK)],
            network=plan.network == "host",
            gpus=[gpu.uuid for gpu in plan.gpus],
            memory=plan.memory_bytes,
            processes=plan.processes,
            cwd=RUN,
        )
        agent = {**config, "run": RUN, "workspace": WORK, "tether": True}
        given = {
            "argv": [f"{VENV}/bin/python", f"{CODE}/agent.py"],
            "env": {**env, "HOME": HOME, "VIRTUAL_ENV": VENV, "NBGPU_AGENT": json.dumps(agent)},
            "path": [f"{VENV}/bin"],
        }
        task = {
            "run": containers.run(engine, box, ["python3", f"{CODE}/contained.py"]),
            "remove": containers.removal(engine, box.name),
            "given": json.dumps(given),
        }
        return PodCommand(
            argv=(sys.executable, "-I", "-S", "-E", str(CHILD)),
            # the engine's client is the user's own, with the user's settings
            env={**os.environ, "NBGPU_CONTAINER": json.dumps(task)},
            cwd=str(folders.run),
            spare_leader=False,
            busy_file=str(folders.run / "busy"),
        )

    async def engine(self) -> Engine:
        return await self._containers.engine()

    async def clear(self, instance: str) -> None:
        await self._containers.remove(instance)

    async def clear_others(self, installation: str, alive: Callable[[], Collection[str]]) -> None:
        await self._containers.remove_others(installation, alive)


def for_images(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Of the variables that pods are passed: those that mean something in an image, and the files that they
    name, which are to be shown there."""
    kept = {k: v for k, v in env.items() if not k.startswith(NOT_FOR_IMAGES)}
    return kept, sorted({v for v in kept.values() if v.startswith("/") and Path(v).exists()})


def _unfurnished(
    engine: Engine,
    image: str,
    code: int,
    tail: Sequence[str],
    pip: list[str],
    last: Mapping[str, Any],
) -> NbgpuError:
    if last.get("refused"):
        return Unavailable(
            f"The image {image} cannot be a pod: {last['refused']}.",
            f"Take one with Python 3.9 or newer and pip, such as {PYTHON}.",
            code="image",
        )
    if any("No space left on device" in line for line in (*pip, *tail)):
        return DiskError(
            "The disk is full: the pod's environment could not be installed.",
            "Free some space on it, or set NBGPU_HOME to a folder on another disk.",
        )
    if last.get("failed"):
        return trouble(pip, "the pod's environment", "some space") or EngineMissing(
            f"The pod's environment could not be installed: {cause(pip)}.",
            "Correct the requirements, then open it again.",
            code="environment",
        )
    if code == NO_PROGRAM:
        return Unavailable(
            f"The image {image} cannot be a pod: it has no python3.",
            f"Take one with Python 3.9 or newer and pip, such as {PYTHON}.",
            code="image",
        )
    return Unavailable(
        f"{engine.name} could not run the image {image}: {containers.last(tail)}.", code="image"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
