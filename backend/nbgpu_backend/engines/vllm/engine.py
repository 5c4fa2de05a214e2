"""vLLM's CPU edition as an engine: `vllm serve` on loopback, one process tree a worker."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nbgpu_backend.domain.parents import PARENT, ParentSpec
from nbgpu_backend.domain.supplies import KEPT, Premises
from nbgpu_backend.engines.base import EngineCommand, PhaseMarker, WorkerSpec
from nbgpu_backend.engines.vllm import failures, options, sizing
from nbgpu_backend.engines.vllm.environment import VERSION, Environment
from nbgpu_backend.errors import BadRequest
from nbgpu_backend.home import Home

CONCURRENCY = 30  # what RunPod's vLLM workers take at a time
DRAIN_S = 30

# Log lines of vLLM 0.32 that end a phase of its start.
PHASES = (
    PhaseMarker("import", re.compile(r"non-default args: ")),
    PhaseMarker("engine", re.compile(r"Starting to load model ")),
    PhaseMarker("weights", re.compile(r"Loading weights took ")),
    PhaseMarker("kv", re.compile(r"init engine \(.*\) took ")),
)


PARENT_IDLE_S = 1800.0
OF_A_WORKER = frozenset({"HOME", "OMP_NUM_THREADS"})
# Read when the threads of OpenMP and OpenBLAS are made: a forked process cannot make up for that.
THREADS = ("OMP_", "GOMP_", "KMP_", "OPENBLAS_NUM_")


class VllmEngine:
    """An Engine (see engines/base.py) over the environment that the installer builds.

    The caller adds the worker's key as VLLM_API_KEY. HOME is `spec.env["HOME"]` where the caller
    gives one (it knows the instance's folder), else a folder under NBGPU_HOME that is nobody's:
    all of vLLM's caches are named by variables of their own, so little looks for it. The caches
    are shared by the workers, because a cached look at the model's class saves 7 s a start.
    """

    name = "vllm"
    release = VERSION
    pull = False
    phases: Sequence[PhaseMarker] = PHASES
    drain_s = float(DRAIN_S)
    park_s = 600.0

    def __init__(self, home: Home, version: str = VERSION) -> None:
        self._home = home
        self._environment = Environment.of(home, version)
        self._table: options.Table | None = None

    def version(self) -> str:
        return str(self._environment.engine_json()["version"])

    def check_options(
        self, given: Sequence[str], *, balanced: bool = False, here: bool = True
    ) -> None:
        options.check(given, self.table())

    def table(self) -> options.Table:
        """Every option of the installed version. Raises EngineMissing."""
        if self._table is None:
            self._table = options.Table.of(self._environment.options_json())
        return self._table

    def concurrency(self, given: Sequence[str], *, balanced: bool = False) -> int:
        asked = options.value(given, "--max-num-seqs")
        return int(asked) if asked and asked != "None" else CONCURRENCY

    def sleeps(self, given: Sequence[str]) -> bool:
        return False  # vLLM refuses it on a processor

    def memory(
        self, model: Path | None, given: Sequence[str], premises: Premises | None = None
    ) -> int:
        if premises is not None:
            return sizing.worker_bytes(premises.weights, given, premises.flags)
        weights = None if model is None else sizing.weights(model)
        return sizing.worker_bytes(weights, given, sizing.cpu_flags())

    def command(self, spec: WorkerSpec) -> EngineCommand:
        if spec.model is None:
            raise BadRequest(
                "The engine vllm needs a model.", "Name a folder, or org/name of the model hub."
            )
        if spec.premises is None:
            self._environment.engine_json()  # raises EngineMissing
        premises = spec.premises or self._here()
        argv = [
            f"{premises.environment}/bin/vllm",
            "serve",
            str(spec.model),
            "--served-model-name",
            spec.served_name,
            "--host",
            "127.0.0.1",
            "--port",
            str(spec.port),
            *_defaults(spec.options, premises),
            *spec.options,
        ]
        return EngineCommand(argv, _env(spec, premises), key_variable="VLLM_API_KEY")

    def parent(self, spec: WorkerSpec) -> ParentSpec | None:
        """One for each installed vLLM and each set of variables.

        Whatever the user sets may be read at import, so that it belongs to the parent's environment
        and to its key. A worker's own are HOME and its number of threads, which preimport.py sets.
        """
        if any(_needs_exec(name, value) for name, value in spec.env.items()):
            return None
        shared = {key: value for key, value in spec.env.items() if key not in OF_A_WORKER}
        programs = (PARENT, Path(__file__).with_name("preimport.py"))
        if (premises := spec.premises) is None:
            premises, paths = self._here(), [str(program) for program in programs]
            installed: object = self._environment.engine_json()
        else:  # its environment is named by its version, and its code by its hash
            paths, installed = [f"{premises.code}/{program.name}" for program in programs], None
        env = {**_env(replace(spec, env=shared), premises), "OMP_NUM_THREADS": "1"}
        argv = [f"{premises.environment}/bin/python", *paths]
        digest = hashlib.sha256(json.dumps([argv, env, installed], sort_keys=True).encode())
        for program in programs:
            digest.update(program.read_bytes())
        return ParentSpec(f"vllm-{digest.hexdigest()[:16]}", argv, env, PARENT_IDLE_S)

    def explain(self, tail: Sequence[str]) -> str:
        return failures.explain(tail)

    def _here(self) -> Premises:
        return Premises(
            environment=str(self._environment.folder),
            python=str(self._environment.python),
            code=str(PARENT.parent),
            home=str(self._home.root),
            hub=str(self._home.hub_cache.parent),
            flags=sizing.cpu_flags(),
            env={name: os.environ[name] for name in KEPT if name in os.environ},
        )


def _env(spec: WorkerSpec, premises: Premises) -> dict[str, str]:
    cache = f"{premises.home}/cache"
    env = {
        "PATH": f"{premises.environment}/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": f"{cache}/home",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "VLLM_CONFIG_ROOT": f"{cache}/vllm-config",
        "XDG_CACHE_HOME": cache,
        "HF_HOME": premises.hub,
        "HF_HUB_OFFLINE": "1",  # the weights are there before the worker starts
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # the worker inside of EngineCore: two processes instead of three, 6 s less
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # workers share the cores: binding would put all of them on the same ones
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, spec.cpu)),
        "OPENBLAS_NUM_THREADS": "1",
    }
    if coretype := premises.env.get("OPENBLAS_CORETYPE"):
        env["OPENBLAS_CORETYPE"] = coretype
    return {**env, **spec.env}


def _needs_exec(name: str, value: str) -> bool:
    """Whether this variable of the user's has its effect only in a process of its own."""
    if name == "VLLM_CPU_OMP_THREADS_BIND":
        return value != "nobind"
    threads = name.startswith(THREADS) and name not in OF_A_WORKER
    return threads or name == "VLLM_WORKER_MULTIPROC_METHOD"


def _defaults(given: Sequence[str], premises: Premises) -> list[str]:
    """What a CPU needs and the user did not say."""
    chosen: list[str] = []
    for flag, setting in (
        ("--dtype", sizing.dtype_for(premises.flags)),
        ("--kv-cache-memory-bytes", sizing.KV_CACHE),
        # the longest context that fits into the KV cache, at most the model's
        ("--max-model-len", "auto"),
        ("--shutdown-timeout", str(DRAIN_S)),
        # one health check a second would fill the log, and its end tells why an engine failed
        ("--disable-access-log-for-endpoints", "/health,/metrics,/load"),
    ):
        if not options.given(given, flag):
            chosen += [flag, setting]
    # compiling takes two minutes at every start on a CPU
    if not options.given(given, "--enforce-eager", "--compilation-config", "--optimization-level"):
        chosen.append("--enforce-eager")
    return chosen
