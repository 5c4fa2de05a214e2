"""A real vLLM worker behind nbgpu, and asked directly at its own port with its own key, in turns.

The models are tiny-llama, whose tokens cost next to nothing, and SmolLM2-135M-Instruct where it is there
(tests.bench.coldstart makes it).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import aiohttp
from nbgpu_backend.engines.vllm.environment import Environment
from nbgpu_backend.home import Home

from demo.model import NAME as SMOLLM2
from tests.bench import stand
from tests.bench.report import Report
from tests.bench.streaming import Stream, Way, both_ways, stream

AT_ONCE = 8
TOKENS = 64


def run(rounds: int) -> Report:
    found = Report(f"gateway: before a real vLLM worker, {AT_ONCE} streams at once")
    environment = stand.engine()
    if environment is None:
        found.notes.append("skipped: the engine is not installed (make engine)")
        return found
    for name, folder in models(environment):
        with stand.backend() as process:
            both = both_ways(process, name, engine={"name": "vllm"}, model=str(folder))
            _model(found, name, both, rounds)
    found.notes.append(f"{rounds} rounds, {TOKENS} tokens a stream, {stand.machine()}")
    return found


def models(environment: Environment) -> Iterator[tuple[str, Path]]:
    yield "tiny-llama", stand.tiny_llama(environment)
    smollm2 = Home(environment.folder.parent / "bench").models / SMOLLM2
    if (smollm2 / "config.json").is_file():
        yield "smollm2", smollm2


def _model(found: Report, name: str, both: dict[str, Way], rounds: int) -> None:
    rates: dict[str, list[float]] = {way: [] for way in both}
    asyncio.run(_turns(found, name, both, rounds, rates))
    for way, some in rates.items():
        found.add(f"{name}, {way}, median", median(some), "tokens/s")
        found.add(f"{name}, {way}, least", min(some), "tokens/s")
        found.add(f"{name}, {way}, most", max(some), "tokens/s")
    shares = [g / d for g, d in zip(rates["gateway"], rates["direct"], strict=True)]
    found.add(f"{name}, through nbgpu / direct, median of the rounds", median(shares), "times")
    found.more[f"{name}_tokens_per_s"] = {
        way: round(median(some), 2) for way, some in rates.items()
    }


async def _turns(
    found: Report, name: str, both: dict[str, Way], rounds: int, rates: dict[str, list[float]]
) -> None:
    """Which way begins changes with the round; a first one is not counted."""
    body = {
        "model": name, "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
        for number in range(rounds + 1):
            turn = list(both.items())[:: 1 if number % 2 else -1]
            for way, at in turn:
                began = time.perf_counter()
                some = await asyncio.gather(*(stream(session, at, body) for _ in range(AT_ONCE)))
                seconds = time.perf_counter() - began
                _check(found, f"{name}, {way}", some)
                if number:
                    rates[way].append(sum(one.tokens for one in some) / seconds)


def _check(found: Report, what: str, some: list[Stream]) -> None:
    found.check({one.tokens for one in some} == {TOKENS}, f"{what}: not {TOKENS} tokens each")
    found.check(all(one.finished for one in some), f"{what}: a stream has no [DONE]")
