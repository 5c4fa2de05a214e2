"""Set everything up, run the quickstart notebook for real, say what it took."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nbgpu_backend import runtime
from nbgpu_backend.engines.vllm.environment import Environment
from nbgpu_backend.engines.vllm.installer import install
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.home import Home

from demo.model import NAME, ensure_smollm2
from demo.notebook import execute
from demo.report import report

ROOT = Path(__file__).resolve().parents[1]
ENDPOINT = "smol"
RATE = "0.10"  # dollars an hour: a demo that costs nothing would chart nothing


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    os.environ.setdefault("NBGPU_HOME", str(ROOT / ".nbgpu"))
    home = Home.default()
    try:
        home.prepare()
        say(f"1/4  the engine, in {Environment.of(home).folder}")
        install(home, report=lambda line: say(f"     {line}"))
        say(f"2/4  a small real model, {NAME}")
        ensure_smollm2(home, Environment.of(home).python, lambda line: say(f"     {line}"))
        return run(home)
    except NbgpuError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def run(home: Home) -> int:
    import nbgpu
    from nbgpu.verbs.call import Call

    ours = runtime.locate(home) is None
    client = nbgpu.connect()
    known = set(client.ls())
    try:
        rate = client.settings().settings.rates["local"]
        if rate == "0":
            change = {"rates": {"local": RATE}, "source": "set by make demo"}
            client.send(Call("PATCH", "/nbgpu/v1/settings", "Settings", change))
            say(f"3/4  the rate of this machine is set to ${RATE} an hour, for the demo's sake")
        else:
            say(f"3/4  the rate of this machine is ${rate} an hour, as you set it")
        say("4/4  notebooks/quickstart.ipynb")
        done = execute(
            ROOT / "notebooks" / "quickstart.ipynb", ROOT / "out", lambda line: say(f"     {line}")
        )
        say("")
        say(report(client, ENDPOINT, done))
        say("")
        say(f"The notebook as it ran: {done.html.relative_to(ROOT)} (and .ipynb beside it)")
        return 0
    finally:
        if ours:
            subprocess.run(
                [sys.executable, "-m", "nbgpu", "shutdown", "--all", "--yes"], check=True
            )
        elif ENDPOINT not in known:
            client.stop(ENDPOINT)
            client.start(ENDPOINT)
        client.close()


sys.exit(main())
