"""What a host over SSH (a server of loopback) costs beside the plain way, in turns: files beside scp's, tokens
of a real vLLM worker there through the tunnel beside the same worker asked directly, and the gateway's
requests while logs of the host are followed beside itself while none is.

A file of ours is read back on both ends (SHA-256) and on the disk before it counts, scp's is neither; scp logs in for
each file, and so does OpenSSH's client for our large ones.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import aiohttp
from nbgpu.formats import plural

from tests.bench import report, stand
from tests.bench.gateway import wrk
from tests.bench.gateway.peers import ROUTE, Peer, nbgpu_peer
from tests.bench.gateway.real import models
from tests.bench.gateway.rounds import request
from tests.bench.report import Report
from tests.bench.streaming import Stream, Way, stream
from tests.support.backend import BackendProcess
from tests.support.ssh_workers import HostsBackend, engines_there
from tests.support.sshd import SSHD, Sshd, linked, serving

ROUNDS = 5
SMALL, LARGE = 32_000_000, 400_000_000  # by our own connection; by OpenSSH's client
SMALL_GOAL, LARGE_GOAL, TOKENS_GOAL, LOGS_GOAL = 0.35, 0.9, 0.9, 0.95
AT_ONCE, TOKENS = (1, 8), 64
LOGS, LINES_PER_S = 20, 10
LOAD_S, CONNECTIONS = 3, 16
TALKER = f"""
import http.server, sys, threading, time
class Well(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Well)
threading.Thread(target=server.serve_forever, daemon=True).start()
n = 0
while True:
    n += 1
    print("line", n)
    time.sleep({1 / LINES_PER_S})
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host-rounds", type=int, default=ROUNDS)


def run(given: argparse.Namespace) -> Report:
    found = Report("hosts: over SSH beside the plain way")
    if SSHD is None:
        found.notes.append("skipped: there is no sshd (openssh-server)")
        return found
    rounds: int = given.host_rounds
    with tempfile.TemporaryDirectory(prefix="nbgpu-bench-") as folder:
        root = Path(folder)
        for part in (_files, _tokens, _logs):
            place = root / part.__name__
            with serving(Sshd(place / "server")) as server:
                part(found, server, place, rounds)
    found.notes.append(f"{rounds} rounds, {stand.machine()}")
    return found


# files


def _files(found: Report, server: Sshd, root: Path, rounds: int) -> None:
    asyncio.run(_copies(found, server, root, rounds))


async def _copies(found: Report, server: Sshd, root: Path, rounds: int) -> None:
    plain = ["scp", "-q", "-P", str(server.port), "-i", str(server.user_key)]
    plain += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={root / 'known'}"]
    user = server.hop().user
    async with linked(root / "hosts", server.settings()) as link:
        await link.hello()
        for name, size, goal in (("32 MB", SMALL, SMALL_GOAL), ("400 MB", LARGE, LARGE_GOAL)):
            source, back = root / "source", root / "back"
            source.write_bytes(os.urandom(1_000_000) * (size // 1_000_000))
            there = server.home / "there"
            sha = hashlib.sha256(source.read_bytes()).hexdigest()
            remote = f"{user}@{server.address}:{there}"
            for way in ("there", "back"):
                times: dict[str, list[float]] = {"scp": [], "nbgpu": []}
                for number in range(rounds + 1):
                    for who in ("scp", "nbgpu")[:: 1 if number % 2 else -1]:
                        (there if way == "there" else back).unlink(missing_ok=True)
                        began = time.perf_counter()
                        if who == "scp":
                            ends = [str(source), remote] if way == "there" else [remote, str(back)]
                            child = await asyncio.create_subprocess_exec(*plain, *ends)
                            found.check(await child.wait() == 0, f"scp failed {way}")
                        elif way == "there":
                            await link.put(source, str(there), resume=False)
                        else:
                            await link.get(str(there), back, resume=False)
                        if number:
                            times[who].append(time.perf_counter() - began)
                        arrived = there if way == "there" else back
                        found.check(
                            hashlib.sha256(arrived.read_bytes()).hexdigest() == sha,
                            f"{name} {way}, {who}: the file differs",
                        )
                for who, some in times.items():
                    found.add(f"{name} {way}, {who}, median", size / median(some) / 1e6, "MB/s")
                pairs = zip(times["scp"], times["nbgpu"], strict=True)
                _ratio(found, f"{name} {way}, nbgpu / scp", median(a / b for a, b in pairs), goal)


# tokens


def _tokens(found: Report, server: Sshd, root: Path, rounds: int) -> None:
    environment = stand.engine()
    if environment is None:
        found.notes.append("tokens: skipped, the engine is not installed (make engine)")
        return
    engines_there(server)
    with _hosts(root, server) as home:
        for name, folder in models(environment):
            both = _ways(home, server, name, folder)
            for at_once in AT_ONCE:
                rates = asyncio.run(_turns(found, name, both, at_once, rounds))
                what = f"{name}, {plural(at_once, 'stream')}"
                for way, some in rates.items():
                    found.add(f"{what}, {way}, median", median(some), "tokens/s")
                pairs = zip(rates["tunnel"], rates["direct"], strict=True)
                ratio = median(t / d for t, d in pairs)
                _ratio(found, f"{what}, tunnel / direct", ratio, TOKENS_GOAL)
            home.http.delete(f"/v2/serverless/{name}").raise_for_status()


def _ways(home: HostsBackend, server: Sshd, name: str, model: Path) -> dict[str, Way]:
    """Through gateway and tunnel, and to the same worker's own port, which is on this machine, too."""
    home.deploy_on(
        name, "lab1", workers={"min": 1, "max": 1},
        nbgpu={"engine": {"name": "vllm"}, "model": str(model)},
    )  # fmt: skip
    home.wait_state(name, "ready", 240)
    (worker,) = home.workers(name)
    (folder,) = (server.nbgpu / "instances").glob(f"*-{worker['id']}-*")
    key = (folder / "key").read_text().strip()
    return {
        "direct": Way(f"http://127.0.0.1:{worker['nbgpu']['port']}{ROUTE}", key),
        "tunnel": Way(f"{home.backend.url}/v2/{name}/openai{ROUTE}", home.backend.token),
    }


async def _turns(
    found: Report, name: str, both: dict[str, Way], at_once: int, rounds: int
) -> dict[str, list[float]]:
    body = {
        "model": name, "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    rates: dict[str, list[float]] = {way: [] for way in both}
    async with aiohttp.ClientSession(trust_env=False) as session:
        for number in range(rounds + 1):
            for way, at in list(both.items())[:: 1 if number % 2 else -1]:
                began = time.perf_counter()
                some: list[Stream] = await asyncio.gather(
                    *(stream(session, at, body) for _ in range(at_once))
                )
                seconds = time.perf_counter() - began
                found.check(
                    {one.tokens for one in some} == {TOKENS} and all(one.finished for one in some),
                    f"{name}, {way}: an answer is not whole",
                )
                if number:
                    rates[way].append(sum(one.tokens for one in some) / seconds)
    return rates


# logs


def _logs(found: Report, server: Sshd, root: Path, rounds: int) -> None:
    if not wrk.there():
        found.notes.append("logs: skipped, there is no wrk")
        return
    with _hosts(root, server) as home:
        peer = nbgpu_peer(home)
        workers = []
        for number in range(LOGS):
            name = f"talker-{number}"
            engine = {"name": "command", "options": [sys.executable, "-u", "-c", TALKER, "{port}"]}
            home.deploy_on(name, "lab1", workers={"min": 1, "max": 1}, nbgpu={"engine": engine})
            home.wait_state(name, "ready", 60)
            workers.append((name, home.workers(name)[0]["id"]))
        rates: dict[str, list[float]] = {"quiet": [], "followed": []}
        counts: list[int] = []
        for number in range(rounds + 1):
            for what in ("quiet", "followed")[:: 1 if number % 2 else -1]:
                if what == "quiet":
                    rate = _load(found, peer)
                else:
                    with _following(home, workers) as lines:
                        rate = _load(found, peer)
                    counts.append(lines())
                if number:
                    rates[what].append(rate)
        least = LOGS * LINES_PER_S * LOAD_S // 2
        found.check(min(counts) > least, f"of {LOGS} logs only {min(counts)} lines came")
    for what, some in rates.items():
        found.add(f"requests at {CONNECTIONS}, {what}, median", median(some), "/s")
    pairs = zip(rates["followed"], rates["quiet"], strict=True)
    _ratio(found, f"requests, {LOGS} logs followed / none", median(f / q for f, q in pairs), LOGS_GOAL)  # fmt: skip


def _load(found: Report, peer: Peer) -> float:
    load = wrk.run(peer, request(streamed=False), "whole", CONNECTIONS, LOAD_S)
    found.check(load.wrong == load.statuses == load.broken == 0, f"wrong: {load.first_wrong!r}")
    return load.rate


@contextlib.contextmanager
def _following(home: BackendProcess, workers: list[tuple[str, str]]) -> Iterator[Callable[[], int]]:
    """Every log is followed by a client of its own; yields the number of lines that came."""
    seen, there = [0] * len(workers), threading.Barrier(len(workers) + 1)
    over = threading.Event()

    def read(number: int, name: str, worker: str) -> None:
        path = f"/v2/serverless/{name}/workers/{worker}/logs?tail=1"
        with home.client() as http, http.stream("GET", path) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    seen[number] += 1
                    if seen[number] == 1:
                        there.wait(30)
                if over.is_set():
                    return

    threads = [
        threading.Thread(target=read, args=(n, *who), daemon=True) for n, who in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    there.wait(30)
    try:
        yield lambda: sum(seen)
    finally:
        over.set()
        for thread in threads:
            thread.join(10)


# all


@contextlib.contextmanager
def _hosts(root: Path, server: Sshd) -> Iterator[HostsBackend]:
    home = HostsBackend(root / "home", {"lab1": server})
    home.start()
    try:
        yield home
    finally:
        home.shutdown(everything=True)


def _ratio(found: Report, name: str, value: float, goal: float) -> None:
    found.add(name, value, f"times (goal {goal:g})")


if __name__ == "__main__":
    report.main(run, arguments, __doc__)
