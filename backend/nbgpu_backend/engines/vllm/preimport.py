"""vLLM's module for a pre-imported parent (see parent.py): runs with the engine's own Python.

Written for vLLM 0.32 on CPUs. What it relies on and does not find makes `prepare` fail, and with it
the parent: workers are then started plainly. Everything that vLLM imports beyond the list below it
imports later, as ever; that costs time and nothing else.

What a forked worker would otherwise lack, compared with `vllm serve` in a process of its own:

- The processes below the API server are forked too; CpuPlatform asks for spawn, which imports again.
- vLLM looks at a model's class in a process of its own, lest CUDA be touched, and that one imports
  for 7 s; on a processor it can look where it is.
- OpenMP has read OMP_NUM_THREADS when the parent was loaded (1, so that it has no threads to lose):
  EngineCore sets the worker's own number by a call. Earlier would be wrong: libgomp's threads do
  not survive the fork of EngineCore.
- The kernel grants AMX to a process that asks and to its children; vLLM's attention does not ask.
- EngineCore does not notice that the API server was killed. The kernel tells it.
- The tracker of shared memory must be a child of the API server: with EngineCore's tree it would be
  killed at the end, and leave segments in /dev/shm.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

PR_SET_PDEATHSIG = 1

# What API server, EngineCore and worker have imported once they are ready; the largest come first.
MODULES = """
torch transformers
vllm.entrypoints.cli.main
vllm.entrypoints.cli.openai vllm.entrypoints.cli.serve vllm.entrypoints.cli.launch
vllm.entrypoints.cli.benchmark.main vllm.entrypoints.cli.collect_env
vllm.entrypoints.cli.download_kernels vllm.entrypoints.cli.preload
vllm.entrypoints.cli.run_batch vllm.entrypoints.cli.snapshot
vllm.entrypoints.launchers.api_server.entry vllm.entrypoints.launchers.cli_args
vllm.v1.engine.async_llm vllm.v1.engine.core vllm.v1.engine.core_client
vllm.v1.executor.multiproc_executor vllm.v1.executor.uniproc_executor
vllm.v1.worker.cpu_worker vllm.v1.worker.cpu_model_runner
vllm.v1.attention.backends.cpu_attn vllm.model_executor.model_loader.default_loader
vllm.model_executor.models.llama vllm.model_executor.models.qwen2
vllm.model_executor.models.qwen3 vllm.model_executor.models.gemma3
transformers.models.llama transformers.models.auto.tokenization_auto tokenizers
uvloop uvicorn uvicorn.protocols.http.auto uvicorn.protocols.http.httptools_impl
uvicorn.lifespan.on uvicorn.protocols.websockets.auto
vllm.renderers.hf vllm.transformers_utils.chat_templates
vllm.entrypoints.launchers.run_batch vllm.v1.metrics.reader
vllm.entrypoints.serve.instrumentator.metrics vllm.entrypoints.serve.instrumentator.offline_docs
vllm.entrypoints.openai.models.api_router vllm.entrypoints.openai.chat_completion.api_router
vllm.entrypoints.openai.completion.api_router vllm.entrypoints.openai.responses.api_router
vllm.entrypoints.anthropic.api_router vllm.entrypoints.cohere.api_router
vllm.entrypoints.generate.api_router vllm.entrypoints.generate.generative_scoring.api_router
vllm.entrypoints.generate.structured_decisions.api_router
vllm.entrypoints.serve.lora.api_router vllm.entrypoints.serve.profile.api_router
vllm.entrypoints.serve.tokenize.api_router vllm.entrypoints.serve.elastic_ep.api_router
vllm.entrypoints.scale_out.derender.api_router vllm.entrypoints.scale_out.render.api_router
vllm.entrypoints.scale_out.token_in_token_out.api_router
vllm.plugins.lora_resolvers.filesystem_resolver vllm.plugins.lora_resolvers.hf_hub_resolver
vllm.triton_utils.dispatcher vllm.utils.cpu_triton_utils
vllm.distributed.elastic_ep.elastic_execute vllm.v1.pool.flash_maxsim.flash_maxsim_rerank
vllm.model_executor.layers.quantization.online.base vllm.v1.core.sched.scheduler
model_hosting_container_standards.sagemaker setproctitle
""".split()  # noqa: SIM905


def prepare() -> None:
    """Import, and change what stands in the way of forks. Raises what tells why it cannot."""
    for name in MODULES:
        importlib.import_module(name)
    torch: Any = sys.modules["torch"]
    torch.set_num_threads(1)
    _ask_for_amx(torch)
    _fork_again()
    _within_engine_core(torch)
    _look_at_models_here()


def run(argv: list[str]) -> int:
    """`vllm serve …`; the environment and sys.argv are the worker's already."""
    # these were drawn once, for all workers
    multiprocessing.current_process().authkey = os.urandom(32)
    sys.modules["numpy"].random.seed()
    resource_tracker.ensure_running()
    return int(sys.modules["vllm.entrypoints.cli.main"].main() or 0)


def _ask_for_amx(torch: Any) -> None:
    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()


def _fork_again() -> None:
    platform = sys.modules["vllm.platforms.cpu"].CpuPlatform
    check = platform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        check(cls, vllm_config)
        if os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn" and not _must_spawn(vllm_config):
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    platform.check_and_update_config = classmethod(check_and_update_config)


def _look_at_models_here() -> None:
    registry: Any = importlib.import_module("vllm.model_executor.models.registry")
    if not callable(registry._run_in_subprocess):
        raise AttributeError("_run_in_subprocess")
    registry._run_in_subprocess = lambda look: look()


def _must_spawn(vllm_config: Any) -> bool:
    """Several workers unlink what they share when their interpreters end, which forked ones skip.
    Of the models, vLLM refuses the one kind and warns of the other in forked processes.
    """
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    if parallel.world_size > 1 or parallel.data_parallel_size > 1:
        return True
    if model is None:
        return False
    shared = getattr(model.multimodal_config, "mm_tensor_ipc", "") == "torch_shm"
    return bool(shared or model.architecture == "WhisperForConditionalGeneration")


def _within_engine_core(torch: Any) -> None:
    core = sys.modules["vllm.v1.engine.core"].EngineCoreProc
    core.run_engine_core = staticmethod(
        _first(core.run_engine_core, lambda: _begin_engine_core(torch))
    )
    worker = sys.modules["vllm.v1.executor.multiproc_executor"].WorkerProc
    worker.worker_main = staticmethod(_first(worker.worker_main, lambda: _set_threads(torch)))


def _first(function: Callable[..., Any], begin: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(function)  # spawned processes find the original by its name
    def with_beginning(*args: Any, **kwargs: Any) -> Any:
        begin()
        return function(*args, **kwargs)

    return with_beginning


def _begin_engine_core(torch: Any) -> None:
    parent = multiprocessing.parent_process()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # it had died before the kernel knew
    _set_threads(torch)


def _set_threads(torch: Any) -> None:
    """As OpenMP reads OMP_NUM_THREADS: a number, or a list of which the first counts."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    torch.set_num_threads(int(first) if first.isdecimal() and int(first) else _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0))
