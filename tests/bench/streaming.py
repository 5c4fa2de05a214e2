"""What the gateway adds to a stream: the same stream through it and directly from the worker.

The tiny upstream writes into each chunk when it was made; the lag of a chunk is when it was here,
minus that. Streams through the gateway and direct ones take turns. With the real engine, where it
is installed: the same greedy answer on both ways.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.bench import report, stand
from tests.bench.report import Report, percentile
from tests.support.backend import BackendProcess

STREAMS = 20
AT_ONCE = 8
CHUNKS = 64
DELAY_MS = 20
TOKENS = 64
ROUTE = "/v1/chat/completions"
END = b"\n\n"
Json = dict[str, Any]


@dataclass(frozen=True)
class Way:
    url: str
    key: str


@dataclass(frozen=True)
class Stream:
    """Events that carry content, with the time.time_ns() at which they were complete here."""

    pieces: list[tuple[int, str]]
    events: int
    finished: bool
    tokens: int

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    def lags_ms(self) -> list[float]:
        return [(at - int(made)) / 1e6 for at, made in self.pieces]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=STREAMS, help="streams one by one, each way")
    parser.add_argument("--no-engine", action="store_true", help="leave the real engine out")


def run(given: argparse.Namespace) -> Report:
    found = Report("streaming: what the gateway adds to a chunk's way")
    with stand.backend() as process:
        ways = both_ways(process, "tiny")
        lone = asyncio.run(_rounds(ways, "tiny", given.streams, 1))
        _lags(found, "one by one", lone)
        _lags(found, f"{AT_ONCE} at once", asyncio.run(_rounds(ways, "tiny", 3, AT_ONCE)))
    found.notes.append(
        f"{CHUNKS} chunks, {DELAY_MS} ms apart; {given.streams} streams each way one by one, "
        f"3 x {AT_ONCE} at once; {stand.machine()}"
    )
    environment = None if given.no_engine else stand.engine()
    if environment is None:
        found.notes.append("the real engine was left out")
        return found
    with stand.backend() as process:
        _real(found, process, str(stand.tiny_llama(environment)))
    return found


def both_ways(process: BackendProcess, name: str, **extras: Any) -> dict[str, Way]:
    """Deploy, wake, and return both ways to the same worker."""
    process.deploy(name, workers={"min": 1, "max": 1}, nbgpu=extras)
    process.wait_state(name, "ready", 180)
    worker = process.worker(name, "idle")
    backend = process.backend
    return {
        "direct": Way(
            f"http://127.0.0.1:{worker['port']}{ROUTE}", stand.worker_key(process, worker["id"])
        ),
        "gateway": Way(f"{backend.url}/v2/{name}/openai{ROUTE}", backend.token),
    }


async def _rounds(
    ways: dict[str, Way], model: str, rounds: int, at_once: int
) -> dict[str, list[Stream]]:
    """The ways take turns; a warm-up on each is not counted."""
    body = {
        "model": model, "messages": [{"role": "user", "content": "hi"}],
        "stream": True, "stream_options": {"include_usage": True},
        "nbgpu_test": {"chunks": CHUNKS, "delay_ms": DELAY_MS},
    }  # fmt: skip
    streams: dict[str, list[Stream]] = {name: [] for name in ways}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
        for number in range(rounds + 1):
            for name, way in ways.items():
                one = {**body, "nbgpu_test": {"chunks": 2}} if not number else body
                some = await asyncio.gather(*(stream(session, way, one) for _ in range(at_once)))
                if number:
                    streams[name] += some
    return streams


async def stream(session: aiohttp.ClientSession, way: Way, body: Json) -> Stream:
    """Nothing is parsed before the end, so that the client's own work delays no chunk."""
    arrived: list[tuple[int, bytes]] = []
    headers = {"Authorization": f"Bearer {way.key}"}
    async with session.post(way.url, json=body, headers=headers) as answer:
        if answer.status != 200:
            raise SystemExit(f"{way.url}: {answer.status} {(await answer.text())[:500]}")
        async for some in answer.content.iter_any():
            arrived.append((time.time_ns(), some))
    return parse(arrived)


def parse(arrived: Sequence[tuple[int, bytes]]) -> Stream:
    pieces: list[tuple[int, str]] = []
    events, finished, tokens, rest = 0, False, 0, b""
    for at, some in arrived:
        *whole, rest = (rest + some).split(END)
        for event in whole:
            if not event.startswith(b"data: "):
                continue
            if event[6:] == b"[DONE]":
                finished = True
                continue
            events += 1
            found = json.loads(event[6:])
            if found.get("usage"):
                tokens = found["usage"]["completion_tokens"]
            if found["choices"] and (text := found["choices"][0]["delta"].get("content")):
                pieces.append((at, text))
    return Stream(pieces, events, finished, tokens)


def _lags(found: Report, what: str, streams: dict[str, list[Stream]]) -> None:
    lags: dict[str, list[float]] = {}
    for way, some in streams.items():
        counts = {len(one.pieces) for one in some}
        found.check(counts == {CHUNKS}, f"{what}, {way}: {counts} chunks instead of {CHUNKS}")
        found.check(all(one.finished for one in some), f"{what}, {way}: a stream has no [DONE]")
        # made in order and passed on as made: the first is here before the last exists
        found.check(
            all(one.pieces[0][0] < int(one.pieces[-1][1]) for one in some if one.pieces),
            f"{what}, {way}: the first chunk came after the last was made",
        )
        lags[way] = [lag for one in some for lag in one.lags_ms()]
    events = {one.events for some in streams.values() for one in some}
    found.check(len(events) == 1, f"{what}: the ways differ in their events: {sorted(events)}")
    for percent in (50, 99):
        values = {way: percentile(lags[way], percent) for way in ("direct", "gateway")}
        for way, value in values.items():
            found.add(f"{what}, {way}, p{percent}", value, "ms")
        found.add(f"{what}, added p{percent}", values["gateway"] - values["direct"], "ms")


def _real(found: Report, process: BackendProcess, model: str) -> None:
    """The same prompt and seed, greedy: the same text and tokens. The counts of chunks are shown only:
    vLLM itself puts tokens that are ready together into one, also for a direct client."""
    ways = both_ways(process, "llama", engine={"name": "vllm"}, model=model)
    body = {
        "model": "llama", "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": TOKENS, "temperature": 0, "seed": 7, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip

    async def both() -> dict[str, list[Stream]]:
        async with aiohttp.ClientSession(trust_env=False) as session:
            return {
                way: [await stream(session, at, body) for _ in range(5)] for way, at in ways.items()
            }

    streams = asyncio.run(both())
    everything = [one for some in streams.values() for one in some]
    found.check(len({one.text for one in everything}) == 1, "vLLM: the texts differ")
    found.check({one.tokens for one in everything} == {TOKENS}, f"vLLM: not {TOKENS} tokens each")
    found.check(all(one.finished for one in everything), "vLLM: a stream has no [DONE]")
    counts = {way: sorted(len(one.pieces) for one in some) for way, some in streams.items()}
    for way, some in counts.items():
        found.add(f"vLLM, {way}, chunks of an answer", some[0], "chunks")


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
