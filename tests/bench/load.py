"""`%load_ext nbgpu` in fresh IPython processes: what a notebook waits for at its first cell."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tests.bench import report
from tests.bench.report import Report

RUNS = 10
HEAVY = ("pandas", "matplotlib", "ipywidgets", "fastapi", "sqlalchemy")  # only when they are used
CODE = f"""
import json, sys, time
before = set(sys.modules)
began = time.perf_counter()
get_ipython().run_line_magic("load_ext", "nbgpu")
took = time.perf_counter() - began
there = "gpu" in get_ipython().magics_manager.magics["line"]
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps([took * 1000, len(set(sys.modules) - before), heavy, there]))
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--load-runs", type=int, default=RUNS, help="fresh IPython processes")


def run(given: argparse.Namespace) -> Report:
    found = Report("load: %load_ext nbgpu in a fresh IPython")
    times, modules = [], []
    with tempfile.TemporaryDirectory(prefix="nbgpu-bench-") as folder:
        home = Path(folder) / "home"
        env = {**os.environ, "NBGPU_HOME": str(home), "IPYTHONDIR": str(Path(folder) / "ipython")}
        for _ in range(given.load_runs):
            done = subprocess.run(
                [sys.executable, "-m", "IPython", "--no-banner", "--quick", "-c", CODE],
                env=env, cwd=folder, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                found.wrong.append(f"IPython failed: {done.stderr.strip()[-300:]}")
                return found
            took, count, heavy, there = json.loads(done.stdout.splitlines()[-1])
            times.append(took)
            modules.append(count)
            found.check(not heavy, f"it imports {', '.join(heavy)}")
            found.check(there, "%gpu is not there afterwards")
        found.check(not home.exists(), "loading alone made NBGPU_HOME")
    found.add("load, median", median(times), "ms")
    found.add("load, slowest", max(times), "ms")
    found.add("modules imported", median(modules), "modules")
    found.notes.append(f"{given.load_runs} processes; none of {', '.join(HEAVY)} may be imported")
    return found


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
