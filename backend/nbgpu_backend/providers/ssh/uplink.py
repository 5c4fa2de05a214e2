"""The link to one host: made, watched, made again. Its state is what the tunnel tells.

connecting -> connected -> connecting …   a link that broke is made again, with a growing pause
connecting -> unreachable -> connected    tried on, with a pause that doubles up to backoff_most_s
connecting -> refused                     a key that is wrong: who asks is told at once; tried on, but seldom
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.providers.ssh import host
from nbgpu_backend.providers.ssh.channel import HostChannel
from nbgpu_backend.providers.ssh.errors import FINAL, HostUnreachable, LinkCut, from_line
from nbgpu_backend.providers.ssh.loader import Code, Session
from nbgpu_backend.providers.ssh.sessions import Sessions
from nbgpu_backend.providers.ssh.settings import HostSettings
from nbgpu_backend.providers.ssh.transport import Connection, connect

NUDGE_S = 3.0  # a call that waits brings the next try so near


@dataclass(frozen=True, slots=True)
class Up:
    """A link that stands."""

    connection: Connection
    channel: HostChannel
    sessions: Sessions
    facts: dict[str, Any]  # host.py's hello, without tools
    rtt_s: float


class Uplink:
    def __init__(self, folder: Path, log: Callable[[bytes], None]) -> None:
        self._folder = folder
        self._log = log
        self._asked = asyncio.Event()  # try now
        self._changed = asyncio.Event()  # replaced at each change of state
        self._tried, self._trying = 0.0, True
        self.settings = HostSettings.load(folder)
        self.state = "connecting"
        self.since_us = time.time_ns() // 1000
        self.why: NbgpuError | None = None
        self.up: Up | None = None
        self.connects = 0

    def status(self) -> dict[str, Any]:
        """JSON: state, since_us, and why it is not connected; what is known of the host."""
        found: dict[str, Any] = {
            "state": self.state, "since_us": self.since_us, "connects": self.connects,
            "name": self.settings.name, "host": self.settings.target.where,
            "sentence": "", "kind": "", "next_step": "",
        }  # fmt: skip
        if self.why is not None and self.state != "connected":
            found |= {"sentence": self.why.what, "kind": self.why.code}
            found["next_step"] = self.why.next_step
        if self.up is not None:
            found |= {"facts": self.up.facts, "rtt_s": self.up.rtt_s}
            found["clock_offset_us"] = self.up.channel.clock_offset_us
        return found

    async def wait(self, patience_s: float, nudge: bool = True) -> Up:
        """The link, as soon as it stands. Raises what refuses it, or HostUnreachable after that time.

        `nudge`: a person or a program waits for this, so it is tried sooner than the pauses say.
        """
        end = time.monotonic() + patience_s
        while True:
            if self.up is not None and self.up.channel.alive:
                return self.up
            if self.state == "refused" and self.why is not None and not self._asked.is_set():
                raise self.why
            late = time.monotonic() - self._tried > NUDGE_S
            if nudge and self.state == "unreachable" and not self._trying and late:
                self._asked.set()
            left = end - time.monotonic()
            if left <= 0:
                raise self.why or HostUnreachable(
                    f"{self.settings.target.where} was not connected within {patience_s:.0f} s.",
                    "It is tried on.",
                )
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), min(left, NUDGE_S))
            except TimeoutError:
                continue

    def ask(self) -> None:
        """Try now, whatever the state; a link that stands is left alone."""
        self._asked.set()
        if self.up is not None:
            self.up.channel.ping()

    async def settled(self, patience_s: float) -> None:
        """Return once the try that was asked for has come to an end, or the time is over."""
        end = time.monotonic() + patience_s
        while (self._asked.is_set() or self._trying) and self.up is None:
            left = end - time.monotonic()
            if left <= 0:
                return
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                return

    def drop(self) -> None:
        """Give the link up; it is made again."""
        if self.up is not None:
            self.up.channel.close()

    async def run(self) -> None:
        """For ever."""
        pause = 0.0
        while True:
            asked = self._asked.is_set()
            self._asked.clear()
            self._tried, self._trying = time.monotonic(), True
            stays = self.state == "unreachable" or (self.state == "refused" and not asked)
            if not stays:
                self._set("connecting", self.why)
            try:
                lost, up = await self._make()
            except NbgpuError as error:
                self._trying = False
                final, times = isinstance(error, FINAL), self.settings.times
                least, most = (
                    (times.refused_s, times.refused_most_s)
                    if final
                    else (times.backoff_s, times.backoff_most_s)
                )
                pause = min(max(pause * 2, least), most)
                self._set("refused" if final else "unreachable", error)
                await self._sleep(pause)
                continue
            self._trying = False
            self.connects += 1
            self.up = up
            self._asked.clear()
            self._set("connected", None)
            began = time.monotonic()
            await self._watch(lost, up)
            self.up = None
            up.connection.close()
            self.why = HostUnreachable(
                f"The connection to {self.settings.target.where} broke.", "It is made again."
            )
            # one that breaks as soon as it stands must not spin
            pause = 0.0 if time.monotonic() - began > 5 else self.settings.times.backoff_s
            if pause:
                self._set("unreachable", self.why)
                await self._sleep(pause)

    def close(self) -> None:
        if self.up is not None:
            self.up.channel.close()
            self.up.connection.close()

    # one link

    async def _make(self) -> tuple[asyncio.Event, Up]:
        self.settings = settings = HostSettings.load(self._folder)
        connection, session = await asyncio.to_thread(_dial, settings, self._log)
        lost = asyncio.Event()
        channel = HostChannel(session.channel, session.rest, lost.set)
        try:
            channel.start(settings.times.orphan_s)
            began = time.time_ns() // 1000
            answer = await asyncio.wait_for(
                first_line(channel.mux, {"op": "hello", "tools": False}), settings.times.start_s
            )
            ended = time.time_ns() // 1000
        except TimeoutError:
            channel.close()
            connection.close()
            raise HostUnreachable(
                f"{settings.target.where} started nbgpu's program, which does not answer.",
                "See with `ps` and `df` there whether the machine is overloaded.",
            ) from None
        except BaseException:
            channel.close()
            connection.close()
            raise
        if "error" in answer:
            channel.close()
            connection.close()
            raise from_line(answer, settings.target.where)
        channel.clock_offset_us = answer["now_us"] - (began + ended) // 2
        sessions = Sessions(connection.transport, settings.times.channel_s)
        return lost, Up(connection, channel, sessions, answer, (ended - began) / 1e6)

    async def _watch(self, lost: asyncio.Event, up: Up) -> None:
        """Return when the link is gone, or host.py says nothing any more."""
        times = self.settings.times
        while not lost.is_set():
            up.channel.ping()
            try:
                await asyncio.wait_for(lost.wait(), times.ping_s)
            except TimeoutError:
                if time.monotonic() - up.channel.heard > times.silent_s:
                    self._log(b"host.py is silent; the link is made again\n")
                    up.channel.close()

    async def _sleep(self, pause_s: float) -> None:
        """Until asked, or for so long."""
        try:
            await asyncio.wait_for(self._asked.wait(), pause_s)
        except TimeoutError:
            return

    def _set(self, state: str, why: NbgpuError | None) -> None:
        news = state != self.state or str(why) != str(self.why)
        self.why = why
        if state != self.state and (self.state, state) != ("connecting", "unreachable"):
            self.since_us = time.time_ns() // 1000  # of the other it is: since the link was lost
        self.state = state
        if news:
            said = f": {why}" if why is not None else ""
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            self._log(f"{stamp} {state}{said}\n".encode())
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _dial(settings: HostSettings, log: Callable[[bytes], None]) -> tuple[Connection, Session]:
    code = Code.of(settings)
    connection = connect(settings.target, settings.jump, settings.times)
    try:
        session = Session(Sessions.first(connection.transport, settings), log)
        session.start(settings, code)
        return connection, session
    except BaseException:
        connection.close()
        raise


async def first_line(mux: host.Mux, request: dict[str, Any]) -> dict[str, Any]:
    """The one answer of a conversation. Raises LinkCut."""
    talk = mux.open(request)
    answer: dict[str, Any] | None = None
    try:
        while True:
            kind, body = await talk.next()
            if kind == "line" and answer is None:
                answer = json.loads(body)
            elif kind in ("end", "cut"):
                if answer is None:
                    raise LinkCut(
                        "The connection broke while the host was asked.",
                        "See what it has done before it is asked again.",
                    )
                return answer
    finally:
        talk.finish("close")
