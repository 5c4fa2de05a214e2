"""The whole bench: a table, out/bench/gateway.json and out/bench/gateway.png."""

from __future__ import annotations

import argparse
import json
import sys

from tests.bench.gateway import real
from tests.bench.gateway.run import TARGET, Plan, keep, run
from tests.support.backend import CLONE

ROUNDS, SECONDS = 5, 2.0
BUSY = "nbgpu beside itself with other things going on (the processor time of events counts to it)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one load")
    parser.add_argument("--only", default="", help="peers, separated by commas")
    parser.add_argument("--real", action="store_true", help="before a real vLLM worker instead")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    only = tuple(name for name in given.only.split(",") if name)
    plan = Plan(given.rounds, given.seconds, only)
    found, figures = (real.run(given.rounds), []) if given.real else run(plan)
    if figures:
        keep(found, figures[0])
    if given.json:
        print(json.dumps(found.dump(), indent=1))
    else:
        for some, title in zip(figures, ("", BUSY), strict=False):
            print(some.table(title))
        print(found.table())
        if figures:
            print(f"-> {(TARGET / 'gateway.json').relative_to(CLONE)}, gateway.png")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
