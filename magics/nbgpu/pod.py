"""The handle of a pod: what it shows, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbgpu import parcels
from nbgpu.results.events import EventListing
from nbgpu.results.pod import PodView
from nbgpu.results.pods import PortView, Said
from nbgpu.results.story import Deleted, LogView, WhyView
from nbgpu.submission import Seconds
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu.client import Client
    from nbgpu.runs import Run


class Pod(PodView):
    """A pod, and what can be done with it. What it shows is as of the last call."""

    def __init__(self, client: Client, data: Any) -> None:
        super().__init__(data)
        self._client = client

    # code

    def run(
        self,
        code: str,
        *,
        send: Mapping[str, Any] | Sequence[str] | None = None,
        get: Sequence[str] | None = None,
        background: bool = False,
        label: str = "",
    ) -> Run:
        """Run code in its kernel and show what it puts out. Raises RunFailed, Interrupted.

        `send` sets variables there first, {name: value} or names of this notebook; `get` fetches some
        afterwards. With `background` it returns at once.
        """
        found: Run = self._client.do(
            "run", name=self.name, text=code, send=send, get=get, background=background, label=label
        )
        return found

    def attach(self, *, all: bool = False) -> Any:
        """Show the output of what runs in it, or ran last, and follow it."""
        return self._client.do("attach", name=self.name, all=all)

    def send(self, **values: Any) -> None:
        """Set variables in its kernel: `pod.send(frame=df)`."""
        parcels.send(self._client, self.name, values)

    def fetch(self, expression: str, *, limit: int = parcels.LIMIT) -> Any:
        """The value of an expression in its kernel; None, and a sentence, if it is larger than `limit` bytes."""
        return parcels.fetch(self._client, self.name, expression, limit=limit, keep=False)

    def interrupt(self) -> None:
        """Interrupt its kernel, and with it whatever that does."""
        self._act("interrupt")

    def restart_act(self) -> None:
        """A new kernel: its variables are gone, its files stay."""
        self._act("restart")

    def _act(self, action: str) -> None:
        path = f"/nbgpu/v1/pods/{part(self.name)}/kernel"
        self._client.send(Call("POST", path, "Kernel", {"action": action}, about=self.name))

    # files and ports

    def put(self, source: str, target: str | None = None) -> Said:
        """Copy a file or folder to it; by default to its name in /workspace."""
        found: Said = self._client.do("put", name=self.name, source=str(source), target=target)
        return found

    def get(self, source: str, target: str | None = None) -> Said:
        """Copy a file or folder from it; by default to its name in this folder."""
        found: Said = self._client.do("get", name=self.name, source=source, target=target)
        return found

    def port(self, number: int) -> PortView:
        """Make a port of it reachable from here; `.url` says where."""
        found: PortView = self._client.do("port", name=self.name, number=number)
        return found

    # life

    def show(self) -> Pod:
        """The pod as it is now; this handle shows it too."""
        return self._fresh("show")

    def start(self) -> Pod:
        return self._fresh("start")

    def stop(self) -> Pod:
        """/workspace stays, and so do its settings."""
        return self._fresh("stop")

    def extend(self, for_: Seconds = 1800) -> Pod:
        """Put off its end by at least so long from now, in seconds (or "30m")."""
        return self._fresh("extend", for_=for_)

    def _fresh(self, verb: str, **options: Any) -> Pod:
        self.data = self._client.do(verb, name=self.name, **options).data
        return self

    def delete(self, *, yes: bool = False, keep_volume: bool = False) -> Deleted:
        """Asks, unless `yes`: its home, its packages and its own /workspace go."""
        found: Deleted = self._client.do("delete", name=self.name, yes=yes, keep_volume=keep_volume)
        return found

    def why(self) -> WhyView:
        found: WhyView = self._client.do("why", name=self.name)
        return found

    def events(self, limit: int = 50) -> EventListing:
        """What happened to it, oldest first."""
        found: EventListing = self._client.do("events", name=self.name, limit=limit)
        return found

    def logs(self, tail: int = 100) -> LogView:
        found: LogView = self._client.do("logs", name=self.name, tail=tail)
        return found
