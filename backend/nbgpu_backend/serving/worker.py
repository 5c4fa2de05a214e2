"""A worker as the data path sees it: what it holds, and each request's part of its busy time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(slots=True, eq=False, kw_only=True)
class ServingWorker:
    """`launched` and `ready` are seconds of the clock's `elapsed`. `on_busy` is told when the first
    request comes and the last one goes."""

    id: str
    slots: int
    launched: float
    ready: float
    rate: Decimal
    phases: Mapping[str, float]
    on_busy: Callable[[bool], None]
    tier: str = "plain"  # how it was started
    held: int = 0
    # integral of dt / held: what one request present throughout pays
    _share: float = field(default=0.0)
    _since: float = field(default=0.0)

    def take(self, now: float) -> float:
        """A request begins; returns the mark that `leave` wants back."""
        self._advance(now)
        self.held += 1
        if self.held == 1:
            self.on_busy(True)
        return self._share

    def share(self, now: float, mark: float) -> float:
        """A request's part of the busy time so far, in seconds."""
        self._advance(now)
        return self._share - mark

    def leave(self, now: float, mark: float) -> float:
        """A request ends; returns its part of the worker's busy time, in seconds."""
        self._advance(now)
        self.held -= 1
        if self.held == 0:
            self.on_busy(False)
        return self._share - mark

    def _advance(self, now: float) -> None:
        if self.held:
            self._share += (now - self._since) / self.held
        self._since = now


@dataclass(slots=True, eq=False, kw_only=True)
class PushWorker(ServingWorker):
    """One that requests are sent to: its slots stand as long as it is ready."""

    port: int  # of 127.0.0.1
    key: str | None
    _heads: dict[str, bytes] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def moved(self, port: int) -> None:
        """It is reached at another port."""
        if port != self.port:
            self.port = port
            self._heads.clear()

    def head(self, route: str) -> bytes:
        """The request line and headers of a POST of JSON to it, without the length."""
        head = self._heads.get(route)
        if head is None:
            key = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
            head = self._heads[route] = (
                f"POST {route} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{key}"
                "Content-Type: application/json\r\nAccept-Encoding: identity\r\n"
            ).encode("latin-1")
        return head
