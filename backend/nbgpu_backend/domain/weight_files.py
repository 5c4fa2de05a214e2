"""Which files of a hub repository an engine needs. Pure.

Repositories often hold the same weights several times: safetensors beside pytorch_model.bin, the
publisher's original layout, ONNX, GGUF. Only one of them is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

# Copies for other programs, and pictures.
OTHER_FORMATS = frozenset(
    {".h5", ".msgpack", ".onnx", ".ot", ".tflite", ".gguf", ".ggml", ".mlmodel", ".mlpackage",
     ".nemo", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".mp4", ".webp"}
)  # fmt: skip
TORCH_FORMATS = frozenset({".bin", ".pt", ".pth"})
OTHER_FOLDERS = frozenset({"original", "onnx", "coreml", "openvino", "metal", "gguf", "flax", "tf"})


def needed(names: Iterable[str]) -> list[str]:
    """The names to fetch, sorted; [] if the repository holds no weights that vLLM can load."""
    kept = [name for name in names if _plain(name)]
    tensors = [name for name in kept if name.endswith(".safetensors")]
    if tensors:
        kept = [name for name in kept if PurePosixPath(name).suffix not in TORCH_FORMATS]
        # Mistral publishes its own layout (consolidated*) beside the common one
        if any(not _consolidated(name) for name in tensors):
            kept = [name for name in kept if not _consolidated(name)]
    elif not any(PurePosixPath(name).suffix in TORCH_FORMATS for name in kept):
        return []
    return sorted(kept)


def _plain(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        not path.name.startswith(".git")
        and path.suffix.lower() not in OTHER_FORMATS
        and OTHER_FOLDERS.isdisjoint(part.lower() for part in path.parts[:-1])
    )


def _consolidated(name: str) -> bool:
    return PurePosixPath(name).name.startswith("consolidated") and name.endswith(".safetensors")
