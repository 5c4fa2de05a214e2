"""One run of the bench: what it measures, and its report."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

from tests.bench import stand
from tests.bench.gateway import busy, environments, wrk
from tests.bench.gateway.figures import Figures
from tests.bench.gateway.peers import NAMES, lineup
from tests.bench.gateway.rounds import CONNECTIONS, KINDS, Rounds
from tests.bench.report import Report
from tests.support.backend import CLONE

TITLE = "gateway: nbgpu beside other gateways, before the same stand-in"
TARGET = CLONE / "out" / "bench"


@dataclass(frozen=True)
class Plan:
    rounds: int
    seconds: float  # of one load
    only: tuple[str, ...] = ()  # peers; all where there are none
    connections: tuple[int, ...] = CONNECTIONS
    kinds: tuple[str, ...] = KINDS
    busy: bool = True  # nbgpu beside itself with other things going on


def run(plan: Plan) -> tuple[Report, list[Figures]]:
    """The figures of the peers, and those of nbgpu quiet and busy. Raises SystemExit where wrk cannot be used."""
    found = Report(TITLE)
    if unknown := set(plan.only) - set(NAMES):
        raise SystemExit(f"There is no peer {', '.join(sorted(unknown))}: {', '.join(NAMES)}.")
    if not wrk.there():
        found.notes.append("skipped: wrk is not installed (tests/debian-packages.txt names it)")
        return found, []
    with lineup(set(plan.only)) as some:
        rounds = Rounds(some, found, plan.seconds, say, plan.connections, plan.kinds)
        rounds.run(plan.rounds)
        beside: Figures | None = None
        if plan.busy and some.nbgpu is not None:
            beside = busy.measure(some, found, plan.rounds, plan.seconds, say)
        if rounds.counted is not None:
            rounds.counted.records()
    for name, reason in some.absent.items():
        found.notes.append(f"{name} is absent: {reason}")
    figures = Figures(rounds.all)
    if beside is not None:
        found.more["busy"] = {**beside.keys(), "spread": beside.spreads()}
    found.more |= figures.keys()
    found.more["spread"] = figures.spreads()
    found.more["absent"] = dict(some.absent)
    found.more["versions"] = environments.VERSIONS
    found.notes.append(
        f"{plan.rounds} rounds, {plan.seconds:g} s a load, medians; added p50: the difference of the medians "
        f"of one round; {stand.machine()}"
    )
    return found, [figures] if beside is None else [figures, beside]


def keep(found: Report, figures: Figures) -> None:
    """out/bench/gateway.json and .png"""
    TARGET.mkdir(parents=True, exist_ok=True)
    results = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": stand.machine(),
        **found.dump(),
    }
    (TARGET / "gateway.json").write_text(json.dumps(results, indent=1) + "\n")
    figures.plot(TARGET / "gateway.png", f"{TITLE}; {stand.machine()}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
