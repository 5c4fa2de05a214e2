"""`/v2/pods` in the shape of RunPod's REST v2, and what a pod's inside answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from nbgpu_backend.schema.common import Dollars, Micros, Model, Origin, Reason, Request
from nbgpu_backend.schema.endpoints import Change, Place, SkippedPlace
from nbgpu_backend.schema.secrets import secret_name

PodStatus = Literal["PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED"]
PodActionName = Literal["start", "stop", "restart", "terminate"]
Network = Literal["host", "none"]
Isolation = Literal["bubblewrap", "container", "process"]
WORKSPACE = "/workspace"
WEEK_S = 604_800


class PersistentMount(Request):
    """A disk of the pod's own: it stays through stop and failure, and goes with the pod."""

    size: int = Field(20, ge=1, description="GB; not enforced on this machine")
    path: str = WORKSPACE


class NetworkMount(Request):
    volume_id: str
    path: str = WORKSPACE


class Mounts(Request):
    persistent: PersistentMount | None = None
    network: list[NetworkMount] = Field([], max_length=1)


class CreateCpu(Request):
    """`id` is RunPod's flavor; here any."""

    id: str = "cpu"
    vcpu_count: int = Field(1, ge=1)


class CreateGpu(Request):
    """`ids` is an ordered list of what will do."""

    ids: list[str] = Field(min_length=1)
    count: int = Field(1, ge=1)


class PodLimits(Request):
    """When a pod ends by itself, whether somebody thinks of it or not. null: never by this."""

    idle_stop_s: int | None = Field(
        1800,
        ge=10,
        le=WEEK_S,
        description="without a cell, a terminal, traffic, or use of processor or GPU",
    )
    until_us: Micros | None = None
    max_cost: Dollars | None = Field(None, description="since it was last started")
    memory_bytes: int | None = Field(
        None, ge=64_000_000, description="null: what is free, less a floor"
    )
    processes: int = Field(1024, ge=16, le=32_768)
    grace_s: float = Field(10.0, ge=0, le=600, description="for `before_stop` and the kernel")


class PodExtras(Request):
    """Our part of a create request."""

    place: Place = Place()
    limits: PodLimits = PodLimits()
    requirements: list[str] = Field([], description="lines of a requirements file")
    volume: str | None = Field(
        None,
        description="the name or id of a network volume for /workspace, made if it is not there",
    )
    network: Network = "host"
    before_stop: str | None = Field(
        None, description="a shell command, run in the pod before it ends"
    )
    secrets: list[str] = Field(
        [], description="names of stored secrets, each a variable in the pod"
    )
    origin: Origin = Origin()
    tags: dict[str, str] = {}
    converge: bool = Field(False, description="attach to, or change, the pod of this name")
    take: bool = Field(
        False, description="with converge: change it even if another notebook made it"
    )


def _env(env: dict[str, str]) -> dict[str, str]:
    for name in env:
        if secret_name(name):
            raise ValueError(
                f"{name} looks like a secret: its value would be stored readable. "
                f"Store it with `nbgpu secret add {name}`, and name it with --secret {name}"
            )
    return env


class CreatePod(Request):
    name: str
    image: str | None = None
    args: str | None = None
    env: dict[str, str] = {}
    ports: list[str] = Field([], max_length=10, description="as in 8888/http or 22/tcp")
    mounts: Mounts = Mounts()
    cpu: CreateCpu | None = None
    gpu: CreateGpu | None = None
    nbgpu: PodExtras = PodExtras()

    _no_secrets = field_validator("env")(_env)


class UpdatePodExtras(Request):
    limits: PodLimits | None = None
    before_stop: str | None = None
    tags: dict[str, str] | None = None


class UpdatePod(Request):
    """PATCH: what is left out stays. A change of `env` holds from the next start."""

    env: dict[str, str] | None = None
    nbgpu: UpdatePodExtras = UpdatePodExtras()

    _no_secrets = field_validator("env")(lambda env: None if env is None else _env(env))


class PodAction(Request):
    action: PodActionName


class Extend(Request):
    """Later ends. `seconds` puts idle stop and `until` off by at least so long from now."""

    seconds: int = Field(1800, ge=1, le=WEEK_S)


class PodDelete(Request):
    keep_volume: bool = False


# --- the kernel and what runs in it


KernelState = Literal["none", "starting", "idle", "busy", "dead"]


class KernelConnection(Model):
    """As a Jupyter connection file, over `ipc`: `ip` is an absolute path, and the socket of `shell_port` 1
    is `ip`-1."""

    transport: Literal["ipc"] = "ipc"
    ip: str
    key: str
    signature_scheme: str = "hmac-sha256"
    shell_port: int
    iopub_port: int
    stdin_port: int
    control_port: int
    hb_port: int


class Kernel(Model):
    """`generation` grows by one with each process of it."""

    state: KernelState
    generation: int = 0
    instance: str | None = Field(None, description="another one after each start of its pod")
    pid: int | None = Field(None, description="in the pod's own numbering")
    started_us: Micros | None = None
    connection: KernelConnection | None = None


class KernelAction(Request):
    """`start` finds it running or starts it; `restart` keeps its sockets and key."""

    action: Literal["start", "restart", "interrupt", "stop", "signal"]
    signum: int | None = Field(None, ge=1, le=64, description="of `signal`")


class CreateRun(Request):
    """Code for the pod's kernel. The same `id` twice is one run."""

    code: str
    id: str | None = Field(None, pattern=r"^run-[a-z0-9]{6,40}$")
    label: str = Field("", max_length=200)
    store_history: bool = True


class Run(Model):
    """One cell that the kernel was given, by whomever. `n` is the number of its first output."""

    id: str
    n: int
    label: str
    state: Literal["queued", "running", "ok", "error", "interrupted", "aborted", "died"]
    asked_us: Micros
    began_us: Micros | None
    ended_us: Micros | None
    by: Literal["run", "notebook"]


class RunList(Model):
    runs: list[Run]


class Output(Model):
    """One line of `output`: a message of the kernel (`content` and `metadata` are Jupyter's), or one of ours:
    `run_started`, `run_ended` {status, seconds}, `input_request` {prompt, password}, `kernel` {state, text},
    `gap` {first, last}: those were dropped."""

    n: int
    run: str
    at_us: Micros
    type: str
    content: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    buffers: list[str] = Field([], description="base64")


class Input(Request):
    run: str
    value: str


class Sent(Model):
    """Names that were set in the kernel."""

    names: list[str]
    size: int


class Wanted(Request):
    """`limit` bytes: a larger one stays in the pod."""

    name: str
    limit: int = Field(256_000_000, ge=0)


class KeptThere(Model):
    """The answer where a value was not handed over."""

    name: str
    type: str
    size: int | None
    text: str


class FileInfo(Model):
    """`path` is relative to /workspace unless it was asked for from the root. `part` bytes of a transfer
    that broke off are there."""

    path: str
    exists: bool
    folder: bool = False
    size: int = 0
    mode: int = 0
    mtime_us: Micros = 0
    sha256: str | None = None
    part: int = 0


class FileList(Model):
    files: list[FileInfo]
    truncated: bool = False


class OpenPort(Request):
    port: int = Field(ge=1, le=65535)


class Port(Model):
    """`url` leads to it from this machine."""

    port: int
    local_port: int
    url: str


# --- a pod as it is


class Gauge(Model):
    """Percent."""

    util: int


class GpuGauge(Model):
    util: int
    memory_util: int


class RuntimePort(Model):
    private: int
    public: int | None
    type: str
    ip: str | None


class PodRuntime(Model):
    uptime: int = Field(description="seconds")
    gpus: list[GpuGauge] = []
    cpu: Gauge
    memory: Gauge
    ports: list[RuntimePort] = []


class PodGpu(Model):
    id: str
    count: int


class PodCpu(Model):
    id: str
    vcpu_count: int
    memory: int = Field(description="GB")


class PodSsh(Model):
    proxy: None = None
    direct: None = None


class GlobalNetworking(Model):
    enabled: bool = False


class Preparation(Model):
    """The pod's environment being made. `text` says what is done just now."""

    state: Literal["none", "running", "done", "failed"]
    text: str = ""
    began_us: Micros | None = None
    error: str | None = None


class PodUse(Model):
    """What it uses now; bytes, and processor time as a share of one core."""

    memory_bytes: int = 0
    memory_limit: int = 0
    cpu: float = 0.0
    processes: int = 0
    terminals: int = 0


class PodState(Model):
    """All of ours about a pod."""

    state: str = Field(
        description="preparing, starting, idle, busy, stopping, stopped, failed, unreachable"
    )
    reason: Reason
    place: Place
    isolation: Isolation | None
    isolation_text: str = Field(description="what separates it from the rest, in words")
    network: Network
    limits: PodLimits
    requirements: list[str]
    secrets: list[str]
    before_stop: str | None
    volume_id: str
    volume_name: str | None = Field(description="of a network volume")
    workspace: str = Field(description="the folder of this machine that is /workspace")
    preparation: Preparation
    kernel: Kernel | None
    kernelspec: str | None = Field(description="its name in Jupyter's kernel picker, while it runs")
    run: Run | None = Field(description="the last one")
    active_us: Micros | None = Field(description="the last sign of use")
    stops_at_us: Micros | None = Field(description="the nearest instant at which it ends by itself")
    stops_why: str = ""
    use: PodUse
    skipped: list[SkippedPlace] = []
    rate_per_hour: Dollars
    rate_source: str
    cost_so_far: Dollars
    origin: Origin
    tags: dict[str, str]
    version: int
    created_us: Micros
    started_us: Micros | None
    tail: list[str] = Field([], description="of its log, where it failed")
    outcome: Literal["created", "attached", "changed"] | None = None
    changes: list[Change] = []


class Pod(Model):
    id: str
    name: str
    status: PodStatus
    actions: list[PodActionName]
    image: str | None
    args: str | None
    disk: int | None
    env: dict[str, str]
    ports: list[str]
    registry: None = None
    mounts: Mounts
    gpu: PodGpu | None = None
    cpu: PodCpu | None = None
    cloud: Literal["SECURE"] = "SECURE"
    data_center_id: str | None
    cuda_version: str | None = None
    ssh: PodSsh = PodSsh()
    template: None = None
    cost: float = Field(description="US dollars an hour, 0 while it does not run")
    locked: bool = False
    global_networking: GlobalNetworking = GlobalNetworking()
    runtime: PodRuntime | None
    created_at: str
    started_at: str | None
    nbgpu: PodState


class PodList(Model):
    pods: list[Pod]


class PodRow(Model):
    """A pod in the summary."""

    id: str
    name: str
    state: str
    status: PodStatus
    reason: str
    reason_since_us: Micros
    on: str
    gpu: str | None
    cpu: int | None
    isolation: str | None
    kernel: KernelState
    kernelspec: str | None
    use: PodUse
    rate_per_hour: Dollars
    cost_so_far: Dollars
    idle_but_billing: bool
    active_us: Micros | None
    stops_at_us: Micros | None
    stops_why: str
    volume_name: str | None
    origin: str | None
    created_us: Micros
    started_us: Micros | None


# --- volumes

VolumeType = Literal["STANDARD", "HIGH_PERFORMANCE"]
VolumeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")]


class CreateVolume(Request):
    """`size` GB, which this machine does not enforce."""

    name: VolumeName
    size: int = Field(20, ge=1, le=4096)
    data_center: str = "local"
    type: VolumeType = "STANDARD"


class UpdateVolume(Request):
    name: VolumeName | None = None
    size: int | None = Field(None, ge=1, le=4096)


class VolumeExtras(Model):
    path: str
    pods: list[str] = Field(description="names of those that use it")
    created_us: Micros
    bytes_used: int | None = None


class Volume(Model):
    id: str
    name: str
    size: int
    data_center: str
    type: VolumeType
    nbgpu: VolumeExtras


class VolumeList(Model):
    network_volumes: list[Volume]
