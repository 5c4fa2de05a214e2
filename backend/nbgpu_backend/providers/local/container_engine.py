"""The container engine of this machine: which one works, found out by running it; its images and containers."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from nbgpu_backend.errors import Unavailable
from nbgpu_backend.providers import containers
from nbgpu_backend.providers.containers import Engine, Pulling
from nbgpu_backend.providers.local.commands import Answer, ask, follow

PROBE_S = 10.0
ACT_S = 60.0  # to end and remove containers
KNOWN_S = 60.0  # its daemon may end meanwhile
SOON_S = 5.0  # one may be installed or started, and then it is tried again


@dataclass(frozen=True, slots=True)
class Found:
    """`why` there is none, without a full stop."""

    engine: Engine | None
    why: str = ""


class Containers:
    def __init__(self) -> None:
        self._found = Found(None)
        self._until = 0.0

    async def find(self) -> Found:
        """Podman before docker. What was found holds for a while."""
        if time.monotonic() >= self._until:
            self._found = await _probe()
            self._until = time.monotonic() + (KNOWN_S if self._found.engine else SOON_S)
        return self._found

    async def engine(self) -> Engine:
        """Raises Unavailable where none works."""
        found = await self.find()
        if found.engine is None:
            raise Unavailable(
                f"No container image can be run here: {found.why}.",
                "Install podman, or start docker's daemon.",
                code="no_images",
            )
        return found.engine

    async def image(self, engine: Engine, name: str, told: Callable[[str], None]) -> str:
        """Its id; one that is not here is pulled. Raises Unavailable, DiskError."""
        if found := await self._id(engine, name):
            return found
        pulling = Pulling()
        told(f"the image {name} is pulled")

        def heard(line: str) -> None:
            if words := pulling.heard(line):
                told(f"the image {name} is pulled: {words}")

        code, tail = await follow(engine.program, "pull", name, heard=heard)
        if code == 0 and (found := await self._id(engine, name)):
            return found
        raise containers.no_image(name, tail)

    async def remove(self, *names: str) -> None:
        """End and remove them; one that is not there is no error. Raises Unavailable."""
        engine = await self.engine()
        answer = await ask(*containers.removal(engine, *names), within_s=ACT_S)
        if answer.code is None:
            raise Unavailable(f"{engine.name} did not remove a container: {answer.error}.")

    async def remove_others(self, installation: str, alive: Callable[[], Collection[str]]) -> None:
        """All of this installation but those, which are asked for last. Raises Unavailable."""
        engine = await self.engine()
        label = f"label={containers.LABEL}={installation}"
        argv = (engine.program, "ps", "--all", "--filter", label, "--format", "{{.Names}}")
        answer = await ask(*argv, within_s=PROBE_S)
        if names := [name for name in answer.text.split() if name not in alive()]:
            await self.remove(*names)

    async def _id(self, engine: Engine, name: str) -> str:
        argv = (engine.program, "image", "inspect", "--format", "{{.Id}}", name)
        answer = await ask(*argv, within_s=PROBE_S)
        return answer.text.strip() if answer.code == 0 else ""


async def _probe() -> Found:
    tried = []
    if (program := shutil.which("podman")) is not None:
        answer = await ask(program, "info", "--format", "json", within_s=PROBE_S)
        try:
            return Found(containers.podman(program, _well(answer)))
        except ValueError as error:
            tried.append(f"podman is installed, but does not work: {_first(error)}")
    if (program := shutil.which("docker")) is not None:
        answer = await ask(program, "info", "--format", "{{json .}}", within_s=PROBE_S)
        try:
            user = f"{os.geteuid()}:{os.getegid()}"
            return Found(containers.docker(program, _well(answer), user))
        except ValueError as error:
            tried.append(f"docker is installed, but its daemon does not answer: {_first(error)}")
    return Found(None, "; ".join(tried) or "neither podman nor docker is installed")


def _first(error: ValueError) -> str:
    """Its first sentence, without its end: advice and questions of theirs follow."""
    return re.split(r"\.\s", str(error))[0].rstrip(".? ")


def _well(answer: Answer) -> str:
    if answer.code != 0:
        raise ValueError(containers.last([answer.error]))
    return answer.text
