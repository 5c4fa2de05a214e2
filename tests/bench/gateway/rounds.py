"""The rounds: in each, every peer gets every load once, one after the other, each round begun by another.

A slow peer (LiteLLM) takes part in the first SLOW_ROUNDS only, is left alone until it has nothing more to do
before the next one's turn, and gets at most SLOW_S for a load that it could not answer once in the usual time.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import uvloop

from tests.bench.gateway import client, wrk
from tests.bench.gateway.counted import Counted
from tests.bench.gateway.peers import MODEL, Lineup, Peer
from tests.bench.report import Report, percentile
from tests.support.fast_upstream import PACED, PAUSE_S, WORDS

CONNECTIONS = (1, 16, 256)
SLOW_ROUNDS = 2
SLOW_S = 20.0
SETTLE_S = 20.0
GRACE_S = 10.0
STREAM_S = WORDS * PAUSE_S  # a paced one
REQUESTS, STREAMS, PACED_STREAMS = "requests", "streams", "paced"
OURS = ("direct", "nbgpu")
KINDS = (REQUESTS, STREAMS, PACED_STREAMS)

Tell = Callable[[str], None]


class Fallen(Exception):
    """The peer's process has ended; the message is the load that it ended in."""


@dataclass
class Measured:
    """One peer, one load, one round. Figures by name; what was not seen is not there."""

    peer: str
    kind: str
    connections: int
    round: int
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Rounds:
    lineup: Lineup
    found: Report
    seconds: float
    tell: Tell = lambda text: None
    connections: tuple[int, ...] = CONNECTIONS
    kinds: tuple[str, ...] = KINDS
    all: list[Measured] = field(default_factory=list)

    def __post_init__(self) -> None:
        nbgpu = self.lineup.nbgpu
        self.counted = Counted(nbgpu, MODEL, self.found) if nbgpu is not None else None

    def run(self, rounds: int) -> None:
        peers = list(self.lineup.peers.values())
        for peer in peers:
            with self._may_fall(peer):
                self._warm(peer)
        for number in range(rounds):
            turn = number % max(1, len(peers))
            for peer in [*peers[turn:], *peers[:turn]]:
                fallen = peer.name in self.lineup.absent
                if fallen or (peer.slow and number >= SLOW_ROUNDS):
                    continue
                began = time.monotonic()
                with self._may_fall(peer):
                    self.one(peer, number, peer.name)
                self.tell(f"round {number + 1}: {peer.name}, {time.monotonic() - began:.0f} s")

    @contextlib.contextmanager
    def _may_fall(self, peer: Peer) -> Iterator[None]:
        """Another's end is its own affair: the bench goes on without it, and says so."""
        try:
            yield
        except (Fallen, OSError) as error:
            if peer.name in OURS or peer.tree.alive():
                raise
            self.lineup.absent[peer.name] = f"its process ended in {error}"

    def _warm(self, peer: Peer) -> None:
        for kind in (REQUESTS, STREAMS):
            self._wrk(peer, kind, 16, 1)
        self._settle(peer)

    def one(self, peer: Peer, number: int, name: str) -> None:
        """Every load once; what is measured goes by `name`."""
        for kind in self.kinds:
            for connections in self.connections:
                measured = Measured(name, kind, connections, number)
                if kind == PACED_STREAMS:
                    self._client(peer, measured, paced=True)
                else:
                    self._with_wrk(peer, measured)
                    if kind == STREAMS:
                        self._client(peer, measured, paced=False)
                measured.figures["rss_mb"] = peer.tree.rss_mb()
                self.all.append(measured)
                self._settle(peer)

    def _settle(self, peer: Peer) -> None:
        if peer.slow:
            peer.tree.settle(SETTLE_S)

    def _with_wrk(self, peer: Peer, measured: Measured) -> None:
        seconds = self.seconds
        if peer.slow and measured.connections > 16:
            seconds = SLOW_S if measured.kind == STREAMS else max(seconds, SLOW_S / 2)
        before = peer.tree.cpu_s()
        load = self._wrk(peer, measured.kind, measured.connections, seconds)
        used = peer.tree.cpu_s() - before
        measured.figures["rate"] = load.rate
        if load.answered:
            measured.figures |= {"p50_ms": load.p50_ms, "p99_ms": load.p99_ms}
            measured.figures["cpu_s_per_1000"] = used / load.answered * 1000

    def _wrk(self, peer: Peer, kind: str, connections: int, seconds: float) -> wrk.Load:
        body = request(streamed=kind == STREAMS)
        what = f"{peer.name}, {kind} at {connections}"
        self._check_alive(peer, what)
        load = wrk.run(peer, body, "stream" if kind == STREAMS else "whole", connections, seconds)
        self._check_alive(peer, what)
        self.found.check(
            load.wrong == 0, f"{what}: {load.wrong} wrong answers, such as {load.first_wrong!r}"
        )
        self.found.check(
            load.statuses == 0,
            f"{what}: {load.statuses} error statuses, such as {load.first_wrong!r}",
        )
        self.found.check(load.broken == 0, f"{what}: {load.broken} errors of the connection")
        self._count(peer, what, load.answered, load.sent)
        return load

    def _client(self, peer: Peer, measured: Measured, *, paced: bool) -> None:
        # two turns of a paced one; of the others as many as there is time for
        seconds = STREAM_S * 2 if paced else self.seconds / 2
        what = f"{peer.name}, {measured.kind} at {measured.connections}"
        self._check_alive(peer, what)
        before = peer.tree.cpu_s()
        heard = uvloop.run(
            client.streams(
                peer,
                request(streamed=True, paced=paced),
                measured.connections,
                seconds,
                spread_s=STREAM_S if paced else 0.0,
                grace_s=SLOW_S if peer.slow else GRACE_S,
            )
        )
        self._check_alive(peer, what)
        self.found.check(not heard.wrong, f"{what}: {len(heard.wrong)} wrong: {heard.wrong[:1]}")
        if not peer.slow:
            self.found.check(heard.cut == 0, f"{what}: {heard.cut} streams did not end")
        self._count(peer, what, heard.sent - heard.cut, heard.sent)
        figures = measured.figures
        if len(heard.first_ms) > 1:
            figures["first_byte_p50_ms"] = percentile(heard.first_ms, 50)
            figures["first_byte_p99_ms"] = percentile(heard.first_ms, 99)
        if paced and heard.chunks:
            figures["merged_chunks"] = heard.merged / heard.chunks * WORDS
        if paced and heard.answered:
            figures["cpu_s_per_1000"] = (peer.tree.cpu_s() - before) / heard.answered * 1000
        if paced and len(heard.total_ms) > 1:
            figures["p50_ms"] = percentile(heard.total_ms, 50)
            figures["p99_ms"] = percentile(heard.total_ms, 99)
            figures["rate"] = heard.answered / heard.seconds

    @staticmethod
    def _check_alive(peer: Peer, what: str) -> None:
        if peer.name not in OURS and not peer.tree.alive():
            raise Fallen(what)

    def _count(self, peer: Peer, what: str, answered: int, sent: int) -> None:
        if self.counted is not None and peer.name == "nbgpu":
            self.counted.check(what, answered, sent)


def request(*, streamed: bool, paced: bool = False) -> bytes:
    prompt = PACED.decode() if paced else "What is a GPU pod?"
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": WORDS}
    return json.dumps({**body, "stream": True} if streamed else body).encode()
