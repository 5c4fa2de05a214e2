"""How a container engine is asked to run a pod: the command lines of podman and docker, and what is made of
their answers. Pure: what the machine looks like is given.

A container gets the folders that bubblewrap would give (see sandbox.py), at the same paths; all else in it
is the image's. Nothing secret is on its command line or in what the engine keeps of it: the environment goes
through its standard input (see pod/contained.py), and so does the order to end, as the end of that input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nbgpu_backend.errors import DiskError, NbgpuError, Unavailable

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
LABEL = "nbgpu.installation"
LAYER = re.compile(
    r"(?:Copying blob (?:sha256:)?(?P<copied>\w+)|(?P<id>[0-9a-f]{12}): (?P<what>.+))"
)
HERE = ("Pull complete", "Already exists")
DENIED = re.compile(
    r"manifest unknown|repository does not exist|not found|access to the resource is denied|unauthorized",
    re.IGNORECASE,
)
UNHEARD = re.compile(
    r"connection refused|no such host|i/o timeout|timeout|certificate|network is unreachable",
    re.IGNORECASE,
)
SHORT = "did not resolve to an alias"
FULL = "no space left on device"
PREFIX = re.compile(r"^(?:Error(?: response from daemon)?|docker): *", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Engine:
    """`user` is who in a container is this user outside. `near`: a container's processes come from the one
    who starts it, so that a shim counts them; others come from a daemon. `limits`: what it can enforce."""

    name: Literal["podman", "docker"]
    program: str
    user: str
    near: bool
    limits: frozenset[str] = frozenset()  # of memory, pids


@dataclass(frozen=True, slots=True)
class Box:
    """`shown`: (here, inside), read only; `owned`: (here, inside), to be written. `gpus` are UUIDs, `memory`
    is bytes; 0: no limit."""

    name: str
    installation: str
    image: str
    hostname: str
    shown: Sequence[tuple[str, str]] = ()
    owned: Sequence[tuple[str, str]] = ()
    network: bool = True
    gpus: Sequence[str] = ()
    memory: int = 0
    processes: int = 0
    cwd: str = "/"


def podman(program: str, said: str) -> Engine:
    """`said` by `podman info --format json`. Raises ValueError where that is no answer."""
    host = _object(said).get("host")
    if not isinstance(host, dict):
        raise ValueError("it says nothing of its host")
    known = frozenset(host.get("cgroupControllers") or ())
    # its root is this user, be it root or not
    return Engine("podman", program, "0:0", True, known & {"memory", "pids"})


def docker(program: str, said: str, user: str) -> Engine:
    """`said` by `docker info --format '{{json .}}'`; `user` as in 1000:1000. Raises ValueError where its
    daemon does not answer."""
    info = _object(said)
    if not info.get("ServerVersion"):
        errors = info.get("ServerErrors") or ["it does not say why"]
        raise ValueError(str(errors[0]))
    rootless = "name=rootless" in (info.get("SecurityOptions") or ())
    able = {"memory": info.get("MemoryLimit"), "pids": info.get("PidsLimit")}
    limits = frozenset(name for name, yes in able.items() if yes)
    return Engine("docker", program, "0:0" if rootless else user, False, limits)


def run(engine: Engine, box: Box, argv: Sequence[str]) -> list[str]:
    """The command line of one in the foreground that is removed at its end; `argv` is run in place of the
    image's own program."""
    words = [engine.program, "run", "--rm", "--interactive", "--pull", "never"]
    # who removes it has waited before
    words += ["--stop-timeout", "0", "--name", box.name, "--label", f"{LABEL}={box.installation}"]
    words += ["--hostname", box.hostname, "--network", "host" if box.network else "none"]
    # its output is in the log of its instance
    words += ["--user", engine.user, "--log-driver", "none"]
    # without relabelling the user's files where SELinux guards them
    words += ["--security-opt", "no-new-privileges", "--security-opt", "label=disable"]
    if box.memory:
        words += ["--shm-size", f"{box.memory // 2}b"]  # 64 MB by default, too few for data loaders
    if box.memory and "memory" in engine.limits:
        # what the shim sees it ends before, and says why
        words += ["--memory", f"{box.memory * 5 // 4 if engine.near else box.memory}b"]
    if box.processes and "pids" in engine.limits:
        words += ["--pids-limit", str(box.processes)]
    if box.gpus and engine.name == "podman":
        for uuid in box.gpus:
            words += ["--device", f"nvidia.com/gpu={uuid}"]
    elif box.gpus:
        words += ["--gpus", f'"device={",".join(box.gpus)}"']  # the quotes keep its commas together
    mounts = [(inside, f"type=bind,source={here},target={inside}") for here, inside in box.owned]
    mounts += [
        (inside, f"type=bind,source={here},target={inside},readonly") for here, inside in box.shown
    ]
    for _, mount in sorted(mounts, key=lambda mount: mount[0].count("/")):  # the inner ones later
        words += ["--mount", mount]
    return [*words, "--workdir", box.cwd, "--entrypoint", argv[0], box.image, *argv[1:]]


def removal(engine: Engine, *names: str) -> list[str]:
    """Whether they run, have ended or are not there."""
    patient = ["--ignore"] if engine.name == "podman" else []  # docker's --force is
    return [engine.program, "rm", "--force", "--volumes", *patient, *names]


class Pulling:
    """A few words of how far a pull is, from its lines."""

    def __init__(self) -> None:
        self._layers: dict[str, bool] = {}  # those that are known, and whether they are here

    def heard(self, line: str) -> str:
        """ "" where it tells nothing new."""
        found = LAYER.match(line.strip())
        if found is None:
            return ""
        if found["copied"]:  # podman does not say how many there will be
            self._layers[found["copied"]] = False
            return f"layer {len(self._layers)}"
        self._layers[found["id"]] = self._layers.get(found["id"], False) or found["what"] in HERE
        return f"{sum(self._layers.values())} of {len(self._layers)} layers"


def no_image(image: str, tail: Sequence[str]) -> NbgpuError:
    """What the failure of a pull means, by its last lines."""
    said = last(tail)
    if FULL in said:
        return DiskError(
            f"The disk is full: the image {image} could not be pulled.",
            "Free some space where the container engine keeps its images.",
        )
    if SHORT in said:
        return Unavailable(
            f"It is not known which registry has the image {image}.",
            f"Write its whole name, as in: docker.io/library/{image}",
            code="image",
        )
    if UNHEARD.search(said):
        return Unavailable(
            f"The image {image} is not here, and its registry cannot be reached: {said}.",
            "Check the name and the network, then start it again.",
            code="image",
        )
    if DENIED.search(said):
        return Unavailable(
            f"There is no image {image}, or it is for those who are logged in: {said}.",
            "Check its name, or log in to its registry with the engine's own `login`.",
            code="image",
        )
    return Unavailable(f"The image {image} could not be pulled: {said}.", code="image")


def last(tail: Sequence[str]) -> str:
    """The last line of an engine that failed, without what it is headed by, and without a full stop."""
    said = [line.strip() for line in tail if line.strip()]
    errors = [line for line in said if PREFIX.match(line)]
    return PREFIX.sub("", (errors or said or ["it said nothing"])[-1]).rstrip(".")


def _object(said: str) -> dict[str, Any]:
    value = json.loads(said)
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value
