"""What a provider is: capabilities, each a small protocol. What a provider lacks is absent.

A provider runs instances (a pod's or a worker's process tree) and reports on them. It keeps no
memory of its own: what exists is read from the place itself, so that a restarted backend sees the
same as the one before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.domain.placement import Offer
from nbgpu_backend.domain.supplies import Need, Premises, Supplying


@dataclass(frozen=True, slots=True)
class ParentSeen:
    """A pre-imported parent as it is now. `ready`: it has imported all; `idle_s`: since it last forked."""

    key: str
    pid: int
    started_us: int
    ready: bool
    ready_s: float | None  # from its start to ready
    idle_s: float
    pss: int  # bytes


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What to start. `name` is `nbgpu-<installation>-<worker id>-<generation>`."""

    name: str
    generation: int
    argv: Sequence[str]
    env: Mapping[str, str]  # replaces the environment; it is not inherited
    ttl_s: float  # the lease: without a renewal the instance ends after this
    grace_s: float = 10.0  # between TERM and KILL
    cwd: str | None = None  # None: the instance's own folder
    secrets: Mapping[str, str] = field(default_factory=dict)  # file name -> content, written 0600
    meta: Mapping[str, object] = field(default_factory=dict)  # stored in state.json
    gpu: str | None = (
        None  # the type, and how many of it; Unavailable `no_capacity` where none is free
    )
    gpu_count: int = 0
    oom_score_adj: int = 0  # what the kernel ends first when memory is out; see proc(5)
    until_us: int | None = None  # UTC: the end, whatever it does
    busy_file: str | None = None  # touched while it works: an expired lease waits for that
    memory_bytes: int | None = None  # of all its processes; above it they are killed
    process_limit: int | None = None
    spare_leader: bool = False  # TERM is for what runs in the sandbox, not for the sandbox
    parent: ParentSpec | None = None  # fork it from there; where that fails `argv` is exec'ed


@dataclass(frozen=True, slots=True)
class Launched:
    """`tier` is `plain` or `preimported`; `fell_back` says why a parent was asked for and did not serve."""

    name: str
    pid: int  # the engine's first process = its process group = its session
    shim_pid: int
    started_us: int
    tier: str = "plain"
    fell_back: str = ""
    parent_s: float = 0.0  # spent waiting for the parent to be ready


@dataclass(frozen=True, slots=True)
class Exit:
    """How an instance ended. `reason` is `exit` (by itself), `asked`, `lease`, `until`, `memory`,
    `processes`, `exec`, `lost` …"""

    code: int | None
    signal: int | None
    reason: str
    ended_us: int
    tail: Sequence[str] = ()  # the last lines of its log
    estimated: bool = False  # the end was not seen by the shim


@dataclass(frozen=True, slots=True)
class Observed:
    """One instance as it is now. `gone`: nothing of it is left and no record says why."""

    name: str
    state: Literal["running", "ended", "gone"]
    generation: int = 0
    pid: int | None = None
    started_us: int | None = None
    lease_s: float | None = None
    paused: bool = False
    exit: Exit | None = None
    meta: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a relay says: `header` is the whole JSON object; the ops are in relay.py."""

    op: str
    header: dict[str, Any]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Post:
    """What a handler posted; `body` as it sent it. `stream`: it says that chunks went before."""

    n: int
    kind: str
    job: str
    stream: bool
    body: bytes


class Relay(Protocol):
    """The stream to the relay of one handler (see relay.py). The methods write and return."""

    def frames(self) -> AsyncIterator[Frame]: ...

    def jobs(self, poll: int, jobs: Iterable[tuple[str, bytes]]) -> None: ...

    def stop(self, ids: Iterable[str]) -> None: ...

    def forget(self, ids: Iterable[str]) -> None: ...

    def ack(self, n: int) -> None: ...

    def drain(self, on: bool) -> None: ...

    def close(self) -> None: ...


class RelayHost(Protocol):
    """The part of WorkerHost that talks to relays."""

    async def relay(self, name: str) -> Relay | None: ...

    async def spool(self, name: str) -> Sequence[Post]: ...


class ParentHost(Protocol):
    """The part of WorkerHost that keeps pre-imported parents."""

    async def parents(self) -> Sequence[ParentSeen]:
        """Those that live."""
        ...

    async def stop_parent(self, key: str) -> None:
        """Return when it has ended. The workers that it forked live on."""
        ...


@dataclass(frozen=True, slots=True)
class Gpu:
    """`name` is the type, as one asks for it."""

    index: int
    uuid: str
    name: str
    memory: int | None  # bytes


@dataclass(frozen=True, slots=True)
class PodPlan:
    """What a host must know of a pod to make room for it and to start it."""

    id: str
    name: str
    volume: str  # the id of what /workspace is
    requirements: tuple[str, ...] = ()
    network: Literal["host", "none"] = "host"
    gpus: tuple[Gpu, ...] = ()
    image: str | None = None
    container: str = (
        ""  # its name, where there is an image: that of the instance, or of what makes its room
    )
    installation: str = ""
    memory_bytes: int = 0  # that it may hold; 0: not known yet
    processes: int = 0


@dataclass(frozen=True, slots=True)
class PodCommand:
    """How its agent is started. `spare_leader`: inside of a sandbox."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    spare_leader: bool
    busy_file: str


@dataclass(frozen=True, slots=True)
class Separation:
    """`text` says in words what keeps a pod from the rest of the machine, or why so little does."""

    level: Literal["bubblewrap", "container", "process"]
    text: str


class PodHost(Protocol):
    """The capability to run pods: their folders, their environments, the way to their agents."""

    async def separation(self, image: str | None) -> Separation:
        """Of a pod without an image it is found out by trying, once."""
        ...

    async def gpus(self) -> Sequence[Gpu]:
        """Those that a pod could have; who has one is the caller's to know."""
        ...

    async def no_images(self) -> str:
        """Why no image can be run here, without a full stop; "" where one can."""
        ...

    async def prepare(self, plan: PodPlan, told: Callable[[str], None]) -> None:
        """Make its folders and its environment; `told` gets a few words on what is done.

        Cancelling ends all that was started. Raises EngineMissing (pip), DiskError; of an image Unavailable.
        """
        ...

    async def command(
        self, plan: PodPlan, config: Mapping[str, Any], env: Mapping[str, str]
    ) -> PodCommand:
        """`config` is for the agent, `env` for the kernel and what it starts."""
        ...

    async def clear(self, instance: str) -> None:
        """Remove the container that an instance from an image may have left. Raises Unavailable."""
        ...

    async def clear_others(self, installation: str, alive: Callable[[], Collection[str]]) -> None:
        """Remove this installation's containers, but those of these names. Raises Unavailable."""
        ...

    async def connect(self, pod_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to its agent. Raises OSError."""
        ...

    async def kernel_sockets(self, pod_id: str) -> str:
        """What the paths of its kernel's sockets begin with, on the machine of the backend."""
        ...

    def workspace(self, volume: str) -> str:
        """The folder of a volume, for a person."""
        ...

    async def erase(self, pod_id: str) -> None:
        """Its home and all that is kept for it; not its volume."""
        ...

    async def erase_volume(self, volume: str) -> None: ...

    async def volume_bytes(self, volume: str) -> int: ...


class InstanceHost(Protocol):
    """The capability to run instances. All calls are coroutines; none blocks the event loop.

    Errors: `Unavailable` when a launch fails, with the reason, or the host cannot be reached; `NotFound`
    for an unknown name.
    """

    @property
    def pods(self) -> PodHost | None:
        """None: it runs no pods."""
        ...

    async def launch(self, spec: LaunchSpec) -> Launched: ...

    async def observe(self, name: str) -> Observed: ...

    async def wait(self, name: str) -> Exit:
        """Return when the instance has ended, at once if it has already."""
        ...

    async def renew(self, name: str, ttl_s: float, until_us: int | None = None) -> bool:
        """Extend the lease, and say when it ends in any case; False when it is stopping or gone."""
        ...

    async def stop(self, name: str, grace_s: float) -> Exit:
        """TERM, CONT, after the grace KILL. Returns when no process of it is left."""
        ...

    async def memory(self, names: Sequence[str]) -> Mapping[str, int]:
        """Bytes that each of these running instances holds, shared pages counted in part (PSS)."""
        ...

    async def logs(self, name: str, tail: int = 100) -> list[str]: ...

    def follow(self, name: str, tail: int) -> AsyncGenerator[list[str], None]:
        """The last lines of its log, then each that is added, until it has ended; through links that
        break. Raises NotFound."""
        ...

    async def forget(self, name: str) -> None:
        """Remove the folder of an instance that has ended (its end is in the ledger)."""
        ...

    async def list_owned(self, installation: str) -> list[Observed]:
        """Every instance of this installation, running or ended. Never anybody else's."""
        ...

    def available_memory(self) -> int:
        """Bytes that a new instance could take now."""
        ...


class SupplyHost(Protocol):
    """The capability to get what workers need onto a host."""

    def here(self, need: Need) -> Premises | None:
        """What is known to be there; None: it must be brought, or looked for. It does not block."""
        ...

    async def bring(self, need: Need, told: Callable[[Supplying], None]) -> Premises:
        """At once where all is there. Once per host, whoever asks; what a cut left is gone on with.

        Cancelling ends what was started there. Raises EngineMissing, DiskError, UpstreamError, NotFound,
        and HostUnreachable or LinkCut while it is not heard.
        """
        ...

    def forget(self, need: Need) -> None:
        """Something of it was not there after all."""
        ...


class WorkerHost(InstanceHost, ParentHost, Protocol):
    """The capability to run workers."""

    @property
    def supplies(self) -> SupplyHost | None:
        """None: engines, weights and handlers lie where the backend has them."""
        ...

    async def away(self) -> str:
        """Why it is not heard just now, a sentence without its stop; "" while it is."""
        ...

    async def free_port(self, more: int = 0) -> int:
        """A port of that machine's loopback that was free a moment ago, and so were the next `more`."""
        ...

    async def reach(self, name: str, port: int) -> int:
        """A port of the backend's own loopback that leads to `port` of the instance's, until `forget`.

        Asked again it may be another one, where the first could not be kept.
        """
        ...

    async def pause(self, name: str, oom_score_adj: int) -> bool:
        """Stop all of its processes where they are; its memory stays. False when it is ending."""
        ...

    async def resume(self, name: str, oom_score_adj: int) -> bool:
        """Let a paused one go on. False when it is ending."""
        ...

    async def read_secret(self, name: str, file: str) -> str | None:
        """A file that the launch wrote (`LaunchSpec.secrets`), for a backend that adopts; None if not there."""
        ...

    async def relay(self, name: str) -> Relay | None:
        """A stream to the relay of a handler's instance; None while there is none."""
        ...

    async def spool(self, name: str) -> Sequence[Post]:
        """The posts that the relay of an ended instance had not handed on, in their order."""
        ...

    def offers(self) -> Sequence[Offer]:
        """GPUs that can be had by their type and how many are free, as last seen; it does not block. The
        cards of a machine, each with its index, are PodHost's."""
        ...
