"""The part of the bench that `make bench` runs: a few rounds at 16 connections, without LiteLLM."""

from __future__ import annotations

import argparse

from tests.bench.gateway.peers import NAMES
from tests.bench.gateway.rounds import PACED_STREAMS, REQUESTS, STREAMS
from tests.bench.gateway.run import Plan
from tests.bench.gateway.run import run as run_plan
from tests.bench.report import Report

ROUNDS, SECONDS, CONNECTIONS = 2, 1.0, 16
PEERS = tuple(name for name in NAMES if name != "litellm")
SHOWN = (
    (REQUESTS, "rate", "requests", "/s"),
    (REQUESTS, "cpu_s_per_1000", "requests, processor for 1,000", "s"),
    (STREAMS, "rate", "streams", "/s"),
    (STREAMS, "cpu_s_per_1000", "streams, processor for 1,000", "s"),
    (PACED_STREAMS, "first_byte_p99_ms", "paced streams, first byte, p99", "ms"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gateway-rounds", type=int, default=ROUNDS)


def run(given: argparse.Namespace) -> Report:
    plan = Plan(given.gateway_rounds, SECONDS, PEERS, (CONNECTIONS,), busy=False)
    found, figures = run_plan(plan)
    for some in figures:
        for kind, name, words, unit in SHOWN:
            for peer in some.peers:
                spread = some.get((kind, CONNECTIONS), peer, name)
                if spread is not None and not (peer == "direct" and name == "cpu_s_per_1000"):
                    found.add(f"{words}, {peer}", spread.median, unit)
    found.notes.append("the whole of it: python -m tests.bench.gateway")
    return found
