"""Verbs about one pod: open it, move files, reach its ports, put off its end."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

from nbgpu.errors import UsageProblem
from nbgpu.verbs import knobs
from nbgpu.verbs.call import Call, Context, part, verb
from nbgpu.verbs.endpoints import check_env
from nbgpu.verbs.spec import Arg

PodName = Annotated[str, Arg("the pod", metavar="NAME", complete="pod")]
LEAST_IDLE_S = 10
HOST_NAMES = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)i?B?", re.IGNORECASE)
PORT = re.compile(r"(\d{1,5})(?:/(http|tcp))?")


@verb(
    "open train --cpu 2",
    "open train --gpu H100,A100 --until 8h --idle-stop 30m --requirements requirements.txt",
    "open train --cpu 4 --secret HF_TOKEN --volume data --before-stop 'cp -r runs /workspace'",
    overview=1,
    name="open",
)
def open_pod(
    name: PodName,
    *,
    gpu: Annotated[
        list[str] | None,
        Arg("GPUs that will do, in order; any for whichever, H100:2 for two", metavar="GPU,…"),
    ] = None,
    cpu: Annotated[
        int | None, Arg("no GPU: this many processors, which is the default, with 1", metavar="N")
    ] = None,
    on: Annotated[
        str | None,
        Arg("where it runs; by default where `use` says", metavar="WHERE", complete="place"),
    ] = None,
    until: Annotated[
        int | None, Arg("it ends after so long, whatever it does", metavar="TIME", kind="duration")
    ] = None,
    max_cost: Annotated[
        float | None, Arg("it ends when it has cost so many dollars", metavar="DOLLARS")
    ] = None,
    idle_stop: Annotated[
        str | None,
        Arg("it ends after so long without use, or never; by default 30m", metavar="TIME|never"),
    ] = None,
    image: Annotated[
        str | None, Arg("a container image, where docker or podman runs", metavar="IMAGE")
    ] = None,
    volume: Annotated[
        str | None,
        Arg("a volume for /workspace that outlives the pod, made if it is not there",
            metavar="VOLUME", complete="volume"),
    ] = None,
    env: Annotated[dict[str, str] | None, Arg("a variable in the pod", metavar="K=V")] = None,
    secret: Annotated[
        list[str] | None,
        Arg("a stored secret, as a variable of its name in the pod", metavar="NAME,…", kind="words",
            complete="secret"),
    ] = None,
    requirements: Annotated[
        str | None, Arg("a requirements file: its packages are installed first", metavar="FILE")
    ] = None,
    network: Annotated[
        str,
        Arg("none: it reaches nothing and nothing reaches it", metavar="NETWORK",
            choices=("host", "none")),
    ] = "host",
    before_stop: Annotated[
        str | None, Arg("a shell command, run in the pod before it ends", metavar="COMMAND")
    ] = None,
    memory: Annotated[
        str | None, Arg("it may use so much; by default what is free", metavar="SIZE")
    ] = None,
    port: Annotated[
        list[str] | None,
        Arg("a port that something in it will listen on, as in 6006/http", metavar="PORT",
            kind="words"),
    ] = None,
    take: Annotated[bool, Arg("change it even if another notebook made it")] = False,
) -> Call:  # fmt: skip
    """Open a pod: a private place to work, with a kernel, a /workspace, a terminal and ports.

    Running it again is normal: the same settings find the pod as it is, changed settings change it.
    It ends by itself when it is not used (--idle-stop); /workspace stays.
    """
    from nbgpu_backend.schema.pods import CreatePod

    if not HOST_NAMES.fullmatch(name):
        raise UsageProblem(
            f"{name} cannot be the name of a pod.",
            "A name is small letters, digits and hyphens, at most 63.",
        )
    if gpu and cpu is not None:
        raise UsageProblem("--gpu and --cpu exclude each other.", "Leave one of them out.")
    check_env(env or {})
    place: dict[str, Any] = {"cpu": None if gpu else cpu or 1, "gpu": []}
    if on is not None:
        place["on"] = on
    extras: dict[str, Any] = {
        "place": place, "limits": _limits(until, max_cost, idle_stop, memory), "network": network,
        "secrets": secret or [], "converge": True, "take": take,
    }  # fmt: skip
    body: dict[str, Any] = {"name": name, "env": env or {}, "ports": _ports(port), "nbgpu": extras}
    if gpu:
        ids, count = gpus(gpu)
        place["gpu"] = ids
        body["gpu"] = {"ids": ids, "count": count}
    else:
        body["cpu"] = {"vcpuCount": knobs.count("--cpu", cpu or 1, 1, 1024)}
    if image is not None:
        body["image"] = image
    if volume is not None:
        extras["volume"] = volume
    if requirements is not None:
        extras["requirements"] = _requirements(requirements)
    if before_stop is not None:
        extras["beforeStop"] = before_stop
    checked = CreatePod.model_validate(body).model_dump(
        mode="json", by_alias=True, exclude_unset=True
    )
    return Call("POST", "/v2/pods", "Pod", checked, again=True, stamp=True, folder=False, follow="open",
                view="pod", about=name)  # fmt: skip


def gpus(given: list[str]) -> tuple[list[str], int]:
    """`["H100:2", "A100:2"]` is two of either. Raises UsageProblem."""
    ids, counts = [], set()
    for text in given:
        id_, sign, count = text.partition(":")
        if not id_ or (sign and not (count.isdigit() and int(count))):
            raise UsageProblem(f"{text!r} is no GPU.", "Write it as in: H100, H100:2, any")
        ids.append(id_)
        counts.add(int(count) if sign else 1)
    if len(counts) > 1:
        raise UsageProblem(
            "--gpu asks for different numbers of GPUs.", "Write the same behind each: H100:2,A100:2"
        )
    return ids, counts.pop()


def _limits(
    until: int | None, max_cost: float | None, idle_stop: str | None, memory: str | None
) -> dict[str, Any]:
    from nbgpu import formats

    found: dict[str, Any] = {}
    if until is not None:
        seconds = int(knobs.time("--until", until, 10, knobs.WEEK_S))
        found["untilUs"] = time.time_ns() // 1000 + seconds * 1_000_000
    if max_cost is not None:
        if max_cost <= 0:
            raise UsageProblem("--max-cost is a sum of dollars above 0.", "As in: --max-cost 5")
        found["maxCost"] = f"{max_cost:f}".rstrip("0").rstrip(".")
    if idle_stop == "never":
        found["idleStopS"] = None
    elif idle_stop is not None:
        try:
            seconds = formats.seconds(str(idle_stop))
        except ValueError as error:
            raise UsageProblem(f"--idle-stop: {error}", "Or write: --idle-stop never") from None
        found["idleStopS"] = int(knobs.time("--idle-stop", seconds, LEAST_IDLE_S, knobs.WEEK_S))
    if memory is not None:
        found["memoryBytes"] = bytes_of(memory)
    return found


def bytes_of(text: str) -> int:
    """`8GB`, `512M`, as bytes. Raises UsageProblem."""
    match = MEMORY.fullmatch(text.strip())
    if match is None:
        raise UsageProblem(f"{text!r} is no size.", "Write it as in: 512MB, 8GB")
    return int(float(match[1]) * 1000 ** ("kmgt".index(match[2].lower()) + 1 if match[2] else 0))


def _ports(given: list[str] | None) -> list[str]:
    found = []
    for text in given or []:
        match = PORT.fullmatch(text)
        if match is None or not 1 <= int(match[1]) <= 65535:
            raise UsageProblem(f"{text!r} is no port.", "Write it as in: 6006/http, 5432/tcp")
        found.append(f"{match[1]}/{match[2] or 'http'}")
    return found


def _requirements(path: str) -> list[str]:
    from pathlib import Path

    try:
        lines = Path(path).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageProblem(
            f"The requirements file {path} cannot be read: {reason}.", "Give its path from here."
        ) from None
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


@verb("extend train", "extend train --for 2h")
def extend(
    name: PodName,
    *,
    for_: Annotated[int, Arg("from now on", metavar="TIME", kind="duration")] = 1800,
) -> Call:
    """Put off the end of a pod: idle stop and --until come no sooner than that."""
    seconds = int(knobs.time("--for", for_, 1, knobs.WEEK_S))
    return Call("POST", f"/nbgpu/v1/pods/{part(name)}/extend", "Pod", {"seconds": seconds},
                again=True, follow="extend", view="pod", about=name)  # fmt: skip


@verb("port train 6006")
def port(
    name: PodName,
    number: Annotated[int, Arg("the port in the pod", metavar="PORT")],
) -> Call:
    """Make a port of the pod reachable from here, and say where."""
    if not 1 <= number <= 65535:
        raise UsageProblem(f"{number} is no port.", "It goes from 1 to 65535.")
    return Call("POST", f"/nbgpu/v1/pods/{part(name)}/ports", "Port", {"port": number}, again=True,
                view="port", about=name)  # fmt: skip


@verb("kernel train", local=True)
def kernel(context: Context, name: PodName) -> object:
    """Give this notebook to the pod's kernel: its cells run there from then on."""
    from nbgpu import podkernel

    return podkernel.switch(context, name)


@verb("put train data.csv", "put train ./src code", local=True)
def put(
    context: Context,
    name: PodName,
    source: Annotated[str, Arg("a file or folder here", metavar="SRC")],
    target: Annotated[
        str | None, Arg("where to in the pod; by default its name, in /workspace", metavar="DST")
    ] = None,
) -> object:
    """Copy a file or a folder to the pod. What broke off goes on where it was; what is there stays."""
    from nbgpu import podfiles

    return podfiles.put(context, name, source, target)


@verb("get train runs/model.pt", "get train runs ./results", local=True)
def get(
    context: Context,
    name: PodName,
    source: Annotated[str, Arg("a file or folder in the pod", metavar="SRC")],
    target: Annotated[
        str | None, Arg("where to here; by default its name, in this folder", metavar="DST")
    ] = None,
) -> object:
    """Copy a file or a folder from the pod. What broke off goes on where it was; what is there stays."""
    from nbgpu import podfiles

    return podfiles.get(context, name, source, target)


@verb("ssh train", faces=("magic", "cli"), local=True)
def ssh(context: Context, name: PodName) -> object:
    """A terminal in the pod."""
    from nbgpu import podterminal

    return podterminal.ssh(context, name)
