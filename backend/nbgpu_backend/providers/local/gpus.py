"""The NVIDIA GPUs of this machine, as nvidia-smi lists them."""

from __future__ import annotations

import shutil

from nbgpu_backend.providers.base import Gpu
from nbgpu_backend.providers.local.commands import ask

ASK_S = 10.0  # a driver that hangs must not hold up what needs no GPU
QUERY = ("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")


async def probe() -> list[Gpu]:
    """None where there is no nvidia-smi, or it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    answer = await ask(program, *QUERY, within_s=ASK_S)
    return parse(answer.text) if answer.code == 0 else []


def parse(text: str) -> list[Gpu]:
    """Lines such as `0, GPU-5f…, NVIDIA H100 80GB HBM3, 81559` (MiB); others are left out."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[0].isdecimal():
            size = int(fields[3]) << 20 if fields[3].isdecimal() else None
            found.append(Gpu(int(fields[0]), fields[1], short_name(fields[2]), size))
    return found


def short_name(name: str) -> str:
    """`NVIDIA H100 80GB HBM3` is H100, `NVIDIA GeForce RTX 4090` RTX 4090, `NVIDIA A100-SXM4-80GB` A100."""
    words = name.replace("NVIDIA", "").replace("GeForce", "").replace("Tesla", "").split()
    if words and words[0] == "RTX":
        return " ".join(words[:2] if len(words) < 3 or words[2] not in ("Ada", "Ti") else words[:3])
    return words[0].partition("-")[0] if words else name
