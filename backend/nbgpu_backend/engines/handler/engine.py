"""A handler as an engine: the relay beside its shim, and behind it the user's own program."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nbgpu_backend.domain.supplies import KEPT, Premises
from nbgpu_backend.engines.base import EngineCommand, PhaseMarker, WorkerSpec
from nbgpu_backend.engines.handler import failures
from nbgpu_backend.engines.handler.environment import Environment
from nbgpu_backend.errors import BadOption, BadRequest, EngineMissing
from nbgpu_backend.home import Home

RELAY = Path(__file__).parents[2] / "relay.py"
# PSS of a handler that imports nothing but the SDK, with its process for pings and the relay
MEMORY_BYTES = 192 << 20
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

    def check_options(
        self, options: Sequence[str], *, balanced: bool = False, here: bool = True
    ) -> None:
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
        premises = spec.premises or self._here(spec.model)
        argv = [
            *(premises.python, "-I", "-S", "-E", f"{premises.code}/{RELAY.name}"),
            *("--endpoint", spec.endpoint, "--worker", spec.worker),
            *("--cwd", str(spec.model.parent), "--"),
            *(f"{premises.environment}/bin/python", "-u", str(spec.model), *spec.options),
        ]
        return EngineCommand(argv, _env(spec, premises), key_variable=None)

    def parent(self, spec: WorkerSpec) -> None:
        return None

    def explain(self, tail: Sequence[str]) -> str:
        return failures.explain(tail)

    def _here(self, handler: Path) -> Premises:
        """Raises EngineMissing."""
        place = Environment.beside(self._home, handler)
        if not place.complete:
            raise EngineMissing(
                f"The environment of {handler} is not installed.", "Deploy it again."
            )
        return Premises(
            environment=str(place.folder),
            python=sys.executable,
            code=str(RELAY.parent),
            home=str(self._home.root),
            hub=str(self._home.hub_cache.parent),
            has_gpu=any(Path(device).exists() for device in GPU_DEVICES),
            env={name: os.environ[name] for name in KEPT if name in os.environ},
        )


def _env(spec: WorkerSpec, premises: Premises) -> dict[str, str]:
    cache, threads = f"{premises.home}/cache", str(max(1, spec.cpu))
    env = {
        "LANG": "C.UTF-8",
        **premises.env,
        "PATH": f"{premises.environment}/bin:{premises.env.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": premises.environment,
        "HOME": f"{cache}/home",
        "XDG_CACHE_HOME": cache,
        "HF_HOME": premises.hub,
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "NUMEXPR_MAX_THREADS": threads,
        # they want 4 GB of memory, a tenth of the disk and a way to the internet, or end it
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_LOG_LEVEL": "INFO",
    }
    if not premises.has_gpu:
        env["RUNPOD_SKIP_GPU_CHECK"] = "true"
    return {**env, **spec.env}
