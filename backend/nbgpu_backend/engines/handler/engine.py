"""A handler as an engine: the relay beside its shim, and behind it the user's own program."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nbgpu_backend.domain.supplies import Premises
from nbgpu_backend.engines.base import EngineCommand, PhaseMarker, WorkerSpec
from nbgpu_backend.engines.handler import failures
from nbgpu_backend.engines.handler.environment import Environment
from nbgpu_backend.errors import BadOption, BadRequest, EngineMissing
from nbgpu_backend.home import Home

RELAY = Path(__file__).parents[2] / "relay.py"
# PSS of a handler that imports nothing but the SDK, with its process for pings and the relay
MEMORY_BYTES = 192 << 20
# of the backend's own environment; all else stays with it
KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "OPENBLAS_CORETYPE")
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
# options of the SDK that make a program answer by itself, instead of asking for jobs
LOCAL = ("--rp_serve_api", "--test_input")


class HandlerEngine:
    """An Engine (see engines/base.py). The worker takes its jobs itself, through the relay, which
    gives it the addresses, the key and the ids (see relay.py).

    HOME is `spec.env["HOME"]`, the instance's own folder: the SDK prefers the key in
    ~/.runpod/config.toml to the worker's, and would send a user's cloud key along. Caches that are
    worth keeping lie under NBGPU_HOME, for all workers.
    """

    name = "handler"
    release = "1"
    pull = True
    phases: Sequence[PhaseMarker] = (
        PhaseMarker("import", re.compile(r"Starting Serverless Worker")),
    )
    drain_s = 15.0  # jobs have ended by then; the SDK ends with its polls, which the relay answers
    park_s = 0.0  # it asks for jobs itself: a stopped one would lose its polls

    def __init__(self, home: Home) -> None:
        self._home = home

    def version(self) -> str:
        return "1"  # of the way of starting; the SDK's is a matter of each environment

    def check_options(self, options: Sequence[str], *, balanced: bool = False) -> None:
        for word in options:
            flag = word.partition("=")[0]
            # argparse, which reads them, takes what they begin with, too
            if len(flag) > len("--rp_") and any(known.startswith(flag) for known in LOCAL):
                raise BadOption(
                    f"{flag} makes the program answer by itself, and it would never ask for a job.",
                    "Leave it out: jobs come through the endpoint.",
                    option=flag,
                )

    def concurrency(self, options: Sequence[str], *, balanced: bool = False) -> int:
        return 1  # what is offered is what its polls ask for

    def sleeps(self, options: Sequence[str]) -> bool:
        return False

    def memory(
        self, model: Path | None, options: Sequence[str], premises: Premises | None = None
    ) -> int:
        return MEMORY_BYTES

    def command(self, spec: WorkerSpec) -> EngineCommand:
        """Raises EngineMissing where the environment is not there, BadRequest without a file."""
        if spec.model is None:
            raise BadRequest("The engine handler needs a file.", "Name it, such as handler.py.")
        place = Environment.beside(self._home, spec.model)
        if not place.complete:
            raise EngineMissing(
                f"The environment of {spec.model} is not installed.", "Deploy it again."
            )
        argv = [
            *(sys.executable, "-I", "-S", "-E", str(RELAY)),
            *("--endpoint", spec.endpoint, "--worker", spec.worker),
            *("--cwd", str(spec.model.parent), "--"),
            *(str(place.python), "-u", str(spec.model), *spec.options),
        ]
        return EngineCommand(argv, self._env(spec, place), key_variable=None)

    def parent(self, spec: WorkerSpec) -> None:
        return None

    def explain(self, tail: Sequence[str]) -> str:
        return failures.explain(tail)

    def _env(self, spec: WorkerSpec, place: Environment) -> dict[str, str]:
        cache = self._home.root / "cache"
        threads = str(max(1, spec.cpu))
        env = {
            "LANG": "C.UTF-8",
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            "PATH": f"{place.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(place.folder),
            "HOME": str(cache / "home"),
            "XDG_CACHE_HOME": str(cache),
            "HF_HOME": str(self._home.hub_cache.parent),
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "NUMEXPR_MAX_THREADS": threads,
            # they want 4 GB of memory, a tenth of the disk and a way to the internet, or end it
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_LOG_LEVEL": "INFO",
        }
        if not any(Path(device).exists() for device in GPU_DEVICES):
            env["RUNPOD_SKIP_GPU_CHECK"] = "true"
        return {**env, **spec.env}
