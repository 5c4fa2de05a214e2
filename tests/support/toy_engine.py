"""What a pre-imported parent imports in tests: instead of an engine, something that shows where it runs.

TOY_FAULT in the parent's environment: raise, exit, threads, slow. The argv of an instance is a word and
what it wants: `say`, `exit N`, `raise`, `sleep`, `child` (leaves a process behind), `threads`.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

IMPORTED = {"pid": 0}


def prepare() -> None:
    fault = os.environ.get("TOY_FAULT", "")
    if fault == "raise":
        raise ImportError("no module named vllm_of_tomorrow")
    if fault == "exit":
        os._exit(3)
    if fault == "slow":
        time.sleep(float(os.environ["TOY_SLOW_S"]))
    if fault == "threads":
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    IMPORTED["pid"] = os.getpid()


def run(argv: list[str]) -> int:
    word = argv[1]
    if word == "say":
        print(json.dumps(situation(argv)), flush=True)
    elif word == "exit":
        atexit.register(print, "at exit", flush=True)
        sys.exit(int(argv[2]))
    elif word == "raise":
        raise RuntimeError("the engine found no weights")
    elif word == "child" and os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    print("up", flush=True)
    while word in ("sleep", "child"):
        time.sleep(1000)
    return 0


def situation(argv: list[str]) -> dict[str, object]:
    fds = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            fds[path.name] = str(path.readlink())
        except OSError:
            continue
    status = Path("/proc/self/status").read_text().splitlines()
    return {
        "argv": argv,
        "sys.argv": sys.argv,
        "env": dict(os.environ),
        "cwd": str(Path.cwd()),
        "imported by": IMPORTED["pid"],
        "ppid": os.getppid(),
        "leads": os.getpid() == os.getsid(0) == os.getpgid(0),
        "fds": fds,
        "signals": {
            line[:6]: line[8:] for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))
        },
        "oom": int(Path("/proc/self/oom_score_adj").read_text()),
        "umask": os.umask(0o077),
    }
