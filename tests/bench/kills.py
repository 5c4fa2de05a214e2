"""Kills at random instants: what became of every job, and whether any ran again that should not have."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.bench import report, stand
from tests.bench.report import Report
from tests.support.kill_run import Plan
from tests.support.kill_run import run as run_plan

JOBS, KILLS, PAUSE_S, SEED = 2_000, 100, 3.0, 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=JOBS, help="jobs that are acknowledged")
    parser.add_argument("--kills", type=int, default=KILLS, help="instants at which something dies")
    parser.add_argument("--pause", type=float, default=PAUSE_S, help="seconds between, on average")
    parser.add_argument("--seed", type=int, default=SEED, help="of instants, victims and jobs")
    parser.add_argument("--keep", default="", help="a new folder that is left there to look at")


def run(given: argparse.Namespace) -> Report:
    found = Report("kills: what became of the jobs of backends and workers that were killed")
    plan = Plan(given.jobs, given.kills, given.pause, given.seed)
    with tempfile.TemporaryDirectory(prefix="nbgpu-kills-") as scratch:
        folder = Path(given.keep or scratch)
        outcome = run_plan(folder, plan, lambda text: print(text, file=sys.stderr, flush=True))
    for state, number in sorted(outcome.states.items()):
        found.add(f"jobs that ended as {state}", number, "")
    for part, number in sorted(outcome.killed.items()):
        found.add(f"kills of {part}", number, "")
    found.add("jobs that got no answer to /run", outcome.unanswered, "")
    found.add("jobs that ran again after a worker's death", outcome.ran_again, "")
    found.add("time", outcome.seconds, "s")
    found.wrong += outcome.wrong
    found.notes.append(f"seed {plan.seed}, {stand.machine()}")
    return found


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
