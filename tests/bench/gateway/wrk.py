"""Debian's wrk, one thread: requests a second and latencies. It corrects its latencies for the requests that it
could not send while it waited, the same for every peer; first bytes it does not see (client.py does)."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench.gateway.peers import Peer

SCRIPT = Path(__file__).with_name("load.lua")
TIMEOUT_S = 60


@dataclass(frozen=True)
class Load:
    """What load.lua prints. `sent` counts those that were cut off at the end, too."""

    sent: int
    answered: int
    wrong: int  # 200, and not the answer that it ought to be
    statuses: int  # not 200
    seconds: float
    p50_ms: float
    p99_ms: float
    connect: int
    read: int
    write: int
    timeout: int
    first_wrong: str

    @property
    def rate(self) -> float:
        return self.answered / self.seconds

    @property
    def broken(self) -> int:
        """Errors of the connection."""
        return self.connect + self.read + self.write + self.timeout


def there() -> bool:
    return shutil.which("wrk") is not None


def run(peer: Peer, body: bytes, kind: str, connections: int, seconds: float) -> Load:
    """`kind`: whole or stream, which is how answers are looked at."""
    with tempfile.NamedTemporaryFile(prefix="nbgpu-wrk-") as file:
        file.write(body)
        file.flush()
        argv = [
            "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "--timeout", f"{TIMEOUT_S}s",
            "-s", str(SCRIPT), peer.url, "--", file.name, kind, peer.token,
        ]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 120)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines or not lines[-1].startswith("{"):
        raise ConnectionError(f"wrk on {peer.name}: {(done.stderr or done.stdout).strip()[-500:]}")
    return Load(**json.loads(lines[-1]))
