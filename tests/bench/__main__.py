"""All benches: a table, and out/bench/results.json."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time

from tests.bench import (
    coldstart,
    hosts,
    idle,
    jobs,
    kernel,
    kills,
    load,
    panel,
    soak,
    stand,
    streaming,
)
from tests.bench.gateway import short as gateway
from tests.support.backend import CLONE

BENCHES = (load, streaming, gateway, idle, jobs, kernel, hosts, panel, coldstart, kills, soak)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    for bench in BENCHES:
        bench.arguments(parser)
    given = parser.parse_args()
    began = time.time()
    print(f"{stand.machine()}, Python {platform.python_version()}\n")
    reports = []
    for bench in BENCHES:
        reports.append(bench.run(given))
        print(reports[-1].table() + "\n", flush=True)
    results = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "machine": stand.machine(),
        "benches": [found.dump() for found in reports],
    }
    target = CLONE / "out" / "bench" / "results.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n")
    print(f"-> {target.relative_to(CLONE)}")
    return 1 if any(found.wrong for found in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
