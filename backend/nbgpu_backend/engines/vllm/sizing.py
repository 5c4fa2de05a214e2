"""Number format and memory of a worker on a CPU.

A CPU without bfloat16 instructions converts every value: on an AVX2-only machine SmolLM2-135M
gave 26 tokens/s in bfloat16 and 83 in float32 (8 requests at a time, one thread). float32 costs
twice the memory, so it is chosen there only.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from nbgpu_backend.domain.supplies import Weights
from nbgpu_backend.engines.vllm import options

KV_CACHE = "256M"  # without an explicit size vLLM wants 92 % of the machine's memory
# Two processes with torch and vLLM imported: PSS 1.27 GB beside weights and KV cache, measured.
ENGINE_BYTES = 1_500_000_000
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # Intel and AMD; ARM
WIDTHS = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


def dtype_for(cpu_flags: Collection[str]) -> str:
    """The faster format on a CPU with these flags (/proc/cpuinfo)."""
    return "float32" if BF16_FLAGS.isdisjoint(cpu_flags) else "bfloat16"


@functools.cache
def cpu_flags() -> frozenset[str]:
    """This machine's; empty where /proc/cpuinfo does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(found.partition(":")[2].split())


def worker_bytes(found: Weights | None, given: Sequence[str], flags: Collection[str]) -> int:
    """Weights as they lie in memory, KV cache and the engine itself."""
    kv = options.value(given, "--kv-cache-memory-bytes")
    total = options.size(kv or KV_CACHE) + ENGINE_BYTES
    if found is None:
        return total
    dtype = options.value(given, "--dtype") or dtype_for(flags)
    if dtype in WIDTHS and found.dtype in WIDTHS:
        return total + found.bytes * WIDTHS[dtype] // WIDTHS[found.dtype]
    return total + found.bytes


def weights(model: Path) -> Weights:
    """Of a directory here."""
    return Weights(weight_bytes(model), stored_dtype(model))


def weight_bytes(model: Path) -> int:
    """Size of the files that vLLM loads: safetensors, or else PyTorch's."""
    for pattern in ("*.safetensors", "*.bin", "*.pt"):
        if found := sum(file.stat().st_size for file in model.glob(pattern)):
            return found
    return 0


def stored_dtype(model: Path) -> str:
    """The format of the weight files from config.json; "" if it does not say (or is quantised)."""
    try:
        config = json.loads((model / "config.json").read_text())
    except (OSError, ValueError):
        return ""
    if not isinstance(config, dict) or "quantization_config" in config:
        return ""
    return str(config.get("dtype") or config.get("torch_dtype") or "")
