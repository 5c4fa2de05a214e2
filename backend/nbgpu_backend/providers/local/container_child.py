"""The shim's child where a pod is a container: it runs the engine's client, and removes the container.

NBGPU_CONTAINER is {"run": the client's command line, "remove": that of a removal, "given": one line for the
container's standard input}; all other variables are the client's. That input stays open while this process
lives: where it is killed, or its client, the container sees the end of it and ends (pod/contained.py).
TERM is for the client, which hands it on; it leads no group of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress

REMOVE_S = 30.0


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: None)
    task = json.loads(os.environ.pop("NBGPU_CONTAINER"))
    client = subprocess.Popen(task["run"], stdin=subprocess.PIPE)
    assert client.stdin is not None
    with suppress(BrokenPipeError):  # what it said is in the log
        client.stdin.write(task["given"].encode() + b"\n")
        client.stdin.flush()
    code = client.wait()
    quiet = subprocess.DEVNULL
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            task["remove"], stdin=quiet, stdout=quiet, stderr=quiet, timeout=REMOVE_S, check=False
        )
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main())
