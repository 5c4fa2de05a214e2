"""Where something goes that was opened or deployed without --on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbgpu import errors
from nbgpu.verbs.call import Call

if TYPE_CHECKING:
    from nbgpu.client import Client


def choose(client: Client, call: Call, existing: Call) -> None:
    """What is there already (`existing` asks for it) stays where it is, and a new one goes where `use` says."""
    assert call.body is not None
    place = call.body["nbgpu"].setdefault("place", {})
    if place.get("on") is not None:
        return
    try:
        place["on"] = client.send(existing).nbgpu.place.on
    except errors.NotFound:
        place["on"] = client.send(Call("GET", "/nbgpu/v1/settings", "Settings")).place
