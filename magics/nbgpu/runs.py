"""A run in a pod: its output as it comes, each piece once, whatever breaks between here and there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nbgpu import errors, live, runoutput
from nbgpu.formats import dollars, sentence, span
from nbgpu.results.shape import Rich, html_line, html_pre
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.pods import Output
    from nbgpu_backend.schema.pods import Run as Data

    from nbgpu.client import Client

ENDED = ("ok", "error", "interrupted", "aborted", "died")
PATIENCE_S = 120.0  # for a backend that is away and does not come back
AGAIN_S = (0.05, 1.0)  # between attempts, from and up to
NOTICED_S = 1.0


def pieces(
    client: Client, pod: str, run: str | None, since: int = 0, *, follow: bool = True
) -> Iterator[Output]:
    """Output with a number above `since`, in order, each piece once.

    With `run` only that run's, until it has ended. A connection that breaks is made again, also to a backend
    that was started anew meanwhile. Raises ServiceError where the pod is gone, BackendDown after PATIENCE_S.
    """
    import httpx
    from nbgpu_backend.schema.pods import Output

    last, away_since, pause = since, 0.0, AGAIN_S[0]
    line = live.line()
    while True:
        params: dict[str, str | int | list[str]] = {"since": last}
        params["follow"] = "true" if follow else "false"
        if run is not None:
            params["run"] = run
        call = Call("GET", f"/nbgpu/v1/pods/{part(pod)}/output", params=params, streamed=True,
                    about=pod)  # fmt: skip
        try:
            with client.streamed(call) as response:
                for text in response.iter_lines():
                    if not text.strip():
                        continue
                    item = Output.model_validate(json.loads(text))
                    if item.n <= last and item.type != "gap":
                        continue
                    if away_since:
                        line.end("")
                    last, away_since, pause = max(last, item.n), 0.0, AGAIN_S[0]
                    yield item
                    if run is not None and item.type == "run_ended" and item.run == run:
                        return
            if not follow:
                return
            trouble: Exception | None = None  # ended without a word: the backend, or the pod
        except httpx.TransportError as error:
            client.reconnect()
            trouble = error
        except errors.BackendDown as error:
            client.reconnect()
            trouble = error
        except errors.ServiceError as error:
            if not passing(error):
                raise
            if error.status_code == 401:  # another backend, with a token of its own
                client.reconnect()
            trouble = error
        now = time.monotonic()
        away_since = away_since or now
        if now - away_since > PATIENCE_S:
            line.end("")
            raise errors.BackendDown(
                f"The output of {pod} could not be followed for {span(PATIENCE_S)}: {trouble}",
                f"What runs there goes on; follow it with: %gpu attach {pod}",
            ) from None
        if now - away_since > NOTICED_S:
            line.update(
                f"{pod}: the backend is away; waiting for it, {span(now - away_since)} so far"
            )
        time.sleep(pause)
        pause = min(AGAIN_S[1], pause * 2)


def passing(error: errors.ServiceError) -> bool:
    """May it be otherwise in a moment, as where a backend has just started? A pod that ended stays so."""
    return error.code != "pod_stopped" and (error.status_code >= 500 or error.status_code == 401)


class Run(Rich):
    """What was given to a pod's kernel: `.state`, `.wait()`, `.output()`; it goes on without anybody looking.

    `state` is one of queued, running, ok, error, interrupted, aborted, died. `seconds` and `cost` are known
    when it has ended.
    """

    def __init__(
        self, client: Client, pod: str, data: Data, *, place: str = "", rate: str = "0"
    ) -> None:
        self._client = client
        self.pod = pod
        self.data = data
        self.place = place
        self.rate = rate
        self.shown = False
        self.seconds: float | None = None
        self.items: list[Output] = []
        self.error: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return self.data.id

    @property
    def state(self) -> str:
        """As it is now."""
        if self.data.state not in ENDED:
            self._refresh()
        return self.data.state

    def _refresh(self) -> None:
        path = f"/nbgpu/v1/pods/{part(self.pod)}/runs"
        found = self._client.send(Call("GET", path, "RunList", about=self.pod))
        self.data = next((run for run in found.runs if run.id == self.id), self.data)

    def take(self, item: Output) -> None:
        """Note what a piece of output tells about the run."""
        self.items.append(item)
        if item.type == "error":
            self.error = item.content
        elif item.type == "run_started":
            self.data.state = "running"
        elif item.type == "run_ended":
            status = str(item.content.get("status", "ok"))
            self.data.state = status if status in ENDED else "error"  # type: ignore[assignment]
            self.seconds = float(item.content.get("seconds") or 0.0)

    @property
    def last(self) -> int:
        """The number of the last piece that was taken."""
        return self.items[-1].n if self.items else max(0, self.data.n - 1)

    def wait(self, timeout: float | None = None) -> Run:
        """Until it has ended. Raises RunFailed if that was not well, TimeoutError after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        pause = 0.05
        while not self._over():
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"{self.id} in {self.pod} is {self.data.state} still.")
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
        self._catch_up()
        self.check()
        return self

    def _over(self) -> bool:
        """Raises ServiceError where the pod is gone; a backend that starts anew is waited for."""
        try:
            return self.state in ENDED
        except errors.ServiceError as error:
            if not passing(error):
                raise
            return False

    def output(self) -> str:
        """What it has put out so far, as text."""
        self._catch_up()
        return runoutput.text_of(self.items)

    def _catch_up(self) -> None:
        if self.items and self.items[-1].type == "run_ended":
            return
        for item in pieces(self._client, self.pod, self.id, self.last, follow=False):
            self.take(item)

    def interrupt(self) -> None:
        """Interrupt the pod's kernel, and with it whatever it does."""
        path = f"/nbgpu/v1/pods/{part(self.pod)}/kernel"
        self._client.send(Call("POST", path, "Kernel", {"action": "interrupt"}, about=self.pod))

    def check(self) -> None:
        """Raises RunFailed, in one line, if it did not end well."""
        state = self.data.state
        if state in ("queued", "running", "ok"):
            return
        ename, evalue = str(self.error.get("ename", "")), str(self.error.get("evalue", ""))
        again = f"See %gpu why {self.pod}; the next cell starts a new kernel."
        if state == "died":
            what, next_step = self._pod_ended() or (
                f"The kernel of {self.pod} died while this ran.", again
            )  # fmt: skip
        elif state == "aborted":
            what = f"{self.pod} did not run this: what ran before it failed, or the kernel ended."
            next_step = "Run it again."
        elif ename:
            first = next((line for line in evalue.splitlines() if line.strip()), "")
            what, next_step = f"in {self.pod}: {ename}" + (f": {first}" if first else ""), ""
        else:
            what, next_step = f"in {self.pod}: it ended with {state}.", ""
        raise errors.RunFailed(
            what, next_step, run=self.id, state=state, ename=ename, evalue=evalue
        )

    def _pod_ended(self) -> tuple[str, str] | None:
        """What is to be said where the kernel died because its pod ended."""
        try:
            n = self._client.pod(self.pod).data.nbgpu
        except errors.NotFound:
            return f"{self.pod} was deleted while this ran.", ""
        except errors.OneLine:
            return None
        if n.state not in ("stopping", "stopped", "failed"):
            return None
        said = sentence(f"{self.pod} ended while this ran: {n.reason.text}")
        return said, f"Start it with: %gpu start {self.pod}"

    @property
    def cost(self) -> str:
        """Dollars, as decimal text: the pod's rate for so long."""
        return f"{Decimal(self.rate) * Decimal(str(self.seconds or 0)) / 3600:f}"

    def badge(self) -> str:
        """`train · local · 2.3 s · $0`; where it is not over: `train · local · running`."""
        parts = [self.pod, *([self.place] if self.place else [])]
        if self.seconds is None:
            return " · ".join([*parts, self.data.state])
        return " · ".join([*parts, span(self.seconds), dollars(self.cost)])

    def text(self) -> str:
        if self.data.state not in ENDED:
            return (
                f"{self.id} is {self.data.state} in {self.pod}. "
                f"Follow it with: %gpu attach {self.pod}"
            )
        return f"{runoutput.text_of(self.items)}[{self.badge()}]"

    def html(self) -> str:
        if self.data.state not in ENDED:
            return html_line(self.text())
        return html_pre(runoutput.text_of(self.items)) + badge_html(self.badge())

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.id, "pod": self.pod, "state": self.data.state, "seconds": self.seconds,
            "cost": self.cost if self.seconds is not None else None,
            "output": runoutput.text_of(self.items),
        }  # fmt: skip


def badge_html(badge: str) -> str:
    return f'<div style="font-size:85%">{html_line(badge, faint=True)}</div>'
