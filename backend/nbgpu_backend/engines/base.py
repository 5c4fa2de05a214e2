"""How a worker is started and spoken to. One engine, one `Engine`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.domain.supplies import Premises


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What an engine needs to know to start one worker."""

    served_name: str  # what `model` is called in OpenAI requests
    model: Path | None  # a directory with weights, or a handler's file; None for a command
    port: int  # on 127.0.0.1, free a moment ago
    cpu: int  # threads it may use
    options: Sequence[str]  # the user's, as typed after `--`
    env: Mapping[str, str] = field(default_factory=dict)  # the user's variables
    endpoint: str = ""  # ids
    worker: str = ""
    health_port: int = 0  # of a load balancer; most often the same as `port`
    premises: Premises | None = None  # on another host, where `model` is a path of that host


@dataclass(frozen=True, slots=True)
class EngineCommand:
    argv: Sequence[str]
    env: Mapping[str, str]  # complete: nothing is inherited. The worker key is added by the caller.
    key_variable: str | None  # the variable through which the engine takes its API key


@dataclass(frozen=True, slots=True)
class PhaseMarker:
    """The log line that ends a phase of the start (`import`, `engine`, `weights`, `warmup` …)."""

    phase: str
    pattern: re.Pattern[str]


class Engine(Protocol):
    name: str
    release: str  # the version that is installed where there is none yet
    phases: Sequence[PhaseMarker]  # in order; what follows the last one until ready is `api`
    pull: bool  # its workers fetch jobs from a relay; they answer no HTTP
    drain_s: float  # how long a TERM may take to end a request in progress
    park_s: float  # how long an idle worker is kept parked by default; 0: it ends

    def version(self) -> str:
        """The installed version. Raises EngineMissing with the command that installs it."""
        ...

    def check_options(
        self, options: Sequence[str], *, balanced: bool = False, here: bool = True
    ) -> None:
        """Raise BadOption for what the engine would refuse, before anything starts. `balanced`: it serves
        a load balancer. `here`: it may start on this machine."""
        ...

    def concurrency(self, options: Sequence[str], *, balanced: bool = False) -> int:
        """Requests that one worker takes at a time."""
        ...

    def sleeps(self, options: Sequence[str]) -> bool:
        """Has it vLLM's sleep mode? Then it is parked by that, and gives up its GPU's memory."""
        ...

    def memory(
        self, model: Path | None, options: Sequence[str], premises: Premises | None = None
    ) -> int:
        """Bytes that one worker needs: weights, KV cache and the engine itself."""
        ...

    def command(self, spec: WorkerSpec) -> EngineCommand: ...

    def parent(self, spec: WorkerSpec) -> ParentSpec | None:
        """The pre-imported parent that can fork this worker; None: it starts plainly."""
        ...

    def explain(self, tail: Sequence[str]) -> str:
        """One sentence from the last log lines of an engine that failed; "" if it finds none."""
        ...
