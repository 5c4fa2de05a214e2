"""Ten minutes of random requests while workers, shims, the pre-imported parent and the backend are killed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.bench import report, stand
from tests.bench.report import Report
from tests.support.soak_run import ANSWERED, Plan
from tests.support.soak_run import run as run_plan

MINUTES, RATE, PAUSE_S, SEED = 10.0, 6.0, 4.0, 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second, on average")
    parser.add_argument("--soak-seed", type=int, default=SEED)


def run(given: argparse.Namespace) -> Report:
    found = Report("soak: what became of requests while what answers them was killed")
    environment = stand.engine()
    model = stand.tiny_llama(environment) if environment is not None else None
    if model is None:
        found.notes.append("without vLLM workers: the engine is not installed (make engine)")
    plan = Plan(given.minutes * 60, given.rate, PAUSE_S, given.soak_seed, model)
    with tempfile.TemporaryDirectory(prefix="nbgpu-soak-") as scratch:
        outcome = run_plan(
            Path(scratch), plan, lambda text: print(text, file=sys.stderr, flush=True)
        )
    total = sum(outcome.ends.values())
    for what, number in outcome.ends.most_common():
        found.add(f"requests {what}", number, "")
    found.add("share answered", outcome.ends[ANSWERED] / max(1, total), "")
    for what, number in outcome.killed.most_common():
        found.add(f"kills of {what}", number, "")
    for tier, number in outcome.tiers.most_common():
        found.add(f"requests that waited for a cold start, {tier}", number, "")
    found.add("workers launched", outcome.launches, "")
    for reason, number in outcome.reasons.most_common(8):
        found.notes.append(f"{number} x {reason}")
    found.wrong += outcome.wrong
    found.notes.append(f"seed {plan.seed}, {outcome.seconds:.0f} s, {stand.machine()}")
    return found


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
