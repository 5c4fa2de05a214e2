"""nbgpu while its machine and its backend have other things to do, beside itself when they have not.

Other things: a process that computes and holds as much memory as the backend, in the background as such
work is run (the lowest priority, in a session of its own), and PANELS open panels that are told TOLD_PER_S
events a second between them (as many as the machine has time for). Each event is asked for by a request of
its own: that an endpoint with no worker be kept warm no longer, which is a row of state.db and a line to
every panel. Quiet and busy turns alternate.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

from tests.bench.gateway.figures import Figures
from tests.bench.gateway.peers import Lineup
from tests.bench.gateway.rounds import REQUESTS, STREAMS, Rounds, Tell
from tests.bench.report import Report
from tests.support.backend import BackendProcess

PANELS = 5
TOLD_PER_S = 200
CALM = "calm"
EVENT = "endpoint.cooled"
CONNECTIONS = (1, 16)
JOIN_S = 30.0
QUIET, BUSY = "nbgpu", "nbgpu, busy"
COMPUTE = """
import os, sys
os.nice(19)
try:
    open("/proc/self/autogroup", "w").write("19")
except OSError:
    pass  # sessions share the processor by their threads alone
held = bytearray(int(sys.argv[1]))
while True:
    for at in range(0, len(held), 4096):
        held[at] = (held[at] + at) & 255
"""


class Business:
    """What was going on, counted."""

    def __init__(self) -> None:
        self.made = self.seen = 0
        self.seconds = 0.0


def measure(lineup: Lineup, found: Report, rounds: int, seconds: float, tell: Tell) -> Figures:
    """nbgpu must be in the line-up."""
    peer, process = lineup.peers["nbgpu"], lineup.nbgpu
    assert process is not None
    alone = Rounds(
        Lineup({QUIET: peer}, {}, process), found, seconds, tell, CONNECTIONS, (REQUESTS, STREAMS)
    )
    process.deploy(CALM, workers={"max": 0})
    business = Business()
    for number in range(rounds):
        alone.one(peer, number, QUIET)
        with _busy(process, peer.tree.rss_mb(), business):
            alone.one(peer, number, BUSY)
        tell(f"round {number + 1}: quiet and busy")
    found.check(
        business.seen == business.made * PANELS,
        f"busy: {business.made} events were made, and {PANELS} panels were told {business.seen}",
    )
    found.notes.append(
        f"busy: {business.seen / max(business.seconds, 0.1):.0f} events a second told to {PANELS} panels, and "
        f"a process in the background that computes and holds {peer.tree.rss_mb():.0f} MB"
    )
    return Figures(alone.all, (QUIET, BUSY))


@contextlib.contextmanager
def _busy(process: BackendProcess, size_mb: float, business: Business) -> Iterator[None]:
    stop = threading.Event()
    child = subprocess.Popen(
        [sys.executable, "-c", COMPUTE, str(int(size_mb * 1e6))], start_new_session=True
    )
    try:
        with _panels(process, business), _maker(process, business, stop):
            began = time.monotonic()
            try:
                yield
            finally:
                stop.set()
                business.seconds += time.monotonic() - began
    finally:
        child.kill()
        child.wait()


@contextlib.contextmanager
def _panels(process: BackendProcess, business: Business) -> Iterator[None]:
    """Each reads its stream as it comes, until what was made is here."""
    there, seen = threading.Barrier(PANELS + 1), [0] * PANELS
    before, last = business.made, sys.maxsize

    def read(number: int) -> None:
        waits = True
        with (
            process.client() as http,
            http.stream("GET", "/nbgpu/v1/events", timeout=60) as answer,
        ):
            for line in answer.iter_lines():
                if waits:
                    there.wait(JOIN_S)
                    waits = False
                seen[number] += line == f"event: {EVENT}"
                if seen[number] >= last:
                    return

    threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(PANELS)]
    for thread in threads:
        thread.start()
    there.wait(JOIN_S)
    try:
        yield
    finally:
        with _events(process) as make:  # one more, so that the readers look up
            last = business.made - before + 1
            business.made += make()
        for thread in threads:
            thread.join(JOIN_S)
        business.seen += sum(seen)


@contextlib.contextmanager
def _maker(process: BackendProcess, business: Business, stop: threading.Event) -> Iterator[None]:
    def work() -> None:
        due = time.monotonic()
        with _events(process) as make:
            while not stop.is_set():
                business.made += make()
                due += PANELS / TOLD_PER_S
                stop.wait(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(JOIN_S)


@contextlib.contextmanager
def _events(process: BackendProcess) -> Iterator[Callable[[], bool]]:
    """A function that makes one, and says whether it did."""
    backend = process.backend
    host, port = backend.url.removeprefix("http://").split(":")
    headers = {"Authorization": f"Bearer {backend.token}", "Content-Type": "application/json"}
    http = HTTPConnection(host, int(port), timeout=JOIN_S)

    def make() -> bool:
        http.request("POST", f"/nbgpu/v1/warm/{CALM}", b'{"seconds": 0}', headers)
        answer = http.getresponse()
        answer.read()
        return answer.status == 200

    try:
        yield make
    finally:
        http.close()
