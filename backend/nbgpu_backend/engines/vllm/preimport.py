"""What a pre-imported parent does for vLLM (see parent.py); runs under the engine's own Python.

`vllm serve` on a processor starts two processes, the API server and the engine core, and each imports
for some 7 s. Here both are forked from one that has imported. What vLLM 0.32 needs for that:

- it forces its children to be spawned on processors; that is undone, after it has set up the rest;
- OpenMP's environment comes too late for a runtime that is loaded: threads are set by a call, in the
  engine core alone (a forked process must not use a pool that its parent has used);
- the engine core has no notice of the API server's death: it asks the kernel for one;
- the kernel is asked for AMX once; children inherit the permission;
- it looks at a model's class in a process of its own, which imports for 7 s, lest CUDA be touched; on
  processors it can look where it is;
- the tracker of shared memory must be the API server's child: vLLM kills the engine core's whole tree.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
MODULES = [
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.engine.core_client",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.model_executor.model_loader.default_loader",
    "uvloop",
    "uvicorn",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.lifespan.on",
    "transformers.models.auto.tokenization_auto",
    "tokenizers",
]
# of the commonest models; one that is missing is imported when it is asked for
MODELS = [
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.qwen3",
    "vllm.model_executor.models.gemma3",
    "transformers.models.llama",
]


def prepare() -> None:
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    for name in MODULES:
        importlib.import_module(name)
    for name in MODELS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"{name} is not there: {error}", flush=True)
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    if hasattr(torch.cpu, "_init_amx"):
        torch.cpu._init_amx()
    _keep_forking()
    _wrap_engine_core()
    _look_at_models_here()


def run(argv: list[str]) -> int:
    """`argv` is that of the `vllm` command; sys.argv is set to it."""
    tracker = importlib.import_module("multiprocessing.resource_tracker")
    tracker.ensure_running()
    importlib.import_module("vllm.entrypoints.cli.main").main()
    return 0


def _keep_forking() -> None:
    """Undo the choice of spawn, and keep the rest of what is set up with it."""
    platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform
    original = platform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        original(cls, vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    platform.check_and_update_config = classmethod(check_and_update_config)


def _wrap_engine_core() -> None:
    process = importlib.import_module("vllm.v1.engine.core").EngineCoreProc
    original = process.run_engine_core

    def run_engine_core(*given: Any, **named: Any) -> Any:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)
        torch = importlib.import_module("torch")
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
        return original(*given, **named)

    process.run_engine_core = staticmethod(run_engine_core)


def _look_at_models_here() -> None:
    registry: Any = importlib.import_module("vllm.model_executor.models.registry")
    registry._run_in_subprocess  # noqa: B018  a vLLM without it is not the one that is known here
    registry._run_in_subprocess = lambda look: look()
