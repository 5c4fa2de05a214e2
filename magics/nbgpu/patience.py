"""A call whose answer comes when what it asks for is done."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from nbgpu import errors, live
from nbgpu.formats import span

if TYPE_CHECKING:
    from nbgpu.client import Client
    from nbgpu.verbs.call import Call

POLL_S = 0.25
SLOW_S = 0.5  # what is done sooner is not announced


def patient(client: Client, call: Call, doing: str, done: str) -> Any:
    """Send from a thread, and show a line from SLOW_S on. An interrupt leaves it to the backend.

    `doing` is told while it lasts: its first word, and after a comma what that waits for.
    """
    line, began = live.line(), time.monotonic()
    box: list[Any] = []
    trouble: list[BaseException] = []
    name, verb = call.about or "all", doing.partition(",")[0]

    def send() -> None:
        try:
            box.append(client.send(call))
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    waited = False
    try:
        thread.join(SLOW_S)
        while thread.is_alive():
            waited = True
            line.update(f"{name}: {doing} · {span(time.monotonic() - began)} so far")
            thread.join(POLL_S)
    except KeyboardInterrupt:
        line.end(f"{name}: no longer waited for" if waited else "")
        raise errors.Interrupted(f"interrupted; {verb} {name} goes on in the backend.") from None
    if trouble:
        line.end(f"{name}: {verb} failed" if waited else "")
        raise trouble[0]
    line.end(f"{name} {done}, after {span(time.monotonic() - began)}" if waited else "")
    return box[0]
