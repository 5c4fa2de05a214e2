"""GGUF to a folder of bfloat16 safetensors. Runs with an engine environment's Python.

python convert_gguf.py FILE.gguf FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # type: ignore[import-not-found]


def convert(source: Path, target: Path) -> None:
    given = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**given)
    model = AutoModelForCausalLM.from_pretrained(
        **given, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # the weights are plain bfloat16 now: an engine must not look for GGUF
    model.config.__dict__.pop("quantization_config", None)
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
