"""What the verbs about scaling do beyond one request: say what it costs, wait until workers are ready."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from nbgpu import errors, live, words
from nbgpu.formats import dollars, per_hour, plural, span
from nbgpu.stream import untimed
from nbgpu.verbs.call import Call, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.endpoints import Change, Endpoint

    from nbgpu.client import Client

POLL_S = 0.25
HOURS_A_MONTH = 730
ALMOST = 0.95  # of a bar: what takes longer than it does typically is not done


def _get(client: Client, name: str) -> Endpoint:
    found: Endpoint = client.send(
        Call("GET", f"/v2/serverless/{part(name)}", "Endpoint", about=name)
    )
    return found


def always_on(found: Endpoint) -> str:
    """What workers that never stop cost a month, at today's rate."""
    rate = Decimal(found.nbgpu.rate_per_hour)
    month = dollars(rate * HOURS_A_MONTH * found.workers.min)
    return f"{found.workers.min} always on: about {month} a month at {dollars(rate)}/h each."


# scale


def scale(client: Client, call: Call) -> Endpoint:
    """Say what changed, and what it may cost from now on."""
    found: Endpoint = client.send(call)
    n, name = found.nbgpu, found.name
    if not n.changes:
        client.say(f"{name} is set so already: at most {plural(found.workers.max, 'worker')}.")
    else:
        most = per_hour(Decimal(n.rate_per_hour) * found.workers.max)
        said = "; ".join(_changed(change) for change in n.changes)
        client.say(f"{said}; {name} may cost up to {most}")
    if (call.body or {}).get("workers", {}).get("min"):
        client.say(always_on(found))
    if n.state in ("stopped", "failed"):
        client.say(f"It is {n.state}, and stays so until: %gpu start {name}")
    return found


def _changed(change: Change) -> str:
    """`at most 4 workers now`."""
    match change.field:
        case "workers.max":
            return f"at most {plural(change.new, 'worker')} now"
        case "workers.min":
            return f"{change.new or 'none'} always on now"
        case "workers.idleTimeout":
            return f"a worker stops after {span(change.new)} without work now"
        case "scaling":
            return f"{words.scaling(change.new)} now"
    return f"{change.field} is {change.new} now"


# warm


def warm(client: Client, call: Call) -> Endpoint:
    """Returns when the workers are ready. An interrupt puts back what there was before, and says so.

    Raises ServiceError if none gets ready: then, too, nothing stays that would cost.
    """
    before = _get(client, call.about)
    body = call.body or {}
    if not body["seconds"]:
        found: Endpoint = client.send(call)
        client.say(_cooled(found) if before.nbgpu.warm else f"{found.name} was not kept warm.")
        return found
    line, began = live.line(), time.monotonic()
    try:
        found = _ready(client, client.send(call), before, body, line, began)
    except KeyboardInterrupt:
        line.end("")
        raise errors.Interrupted(f"interrupted; {_back(client, before)}") from None
    client.say(_warmed(found))
    return found


def _ready(
    client: Client, found: Endpoint, before: Endpoint, body: Any, line: live.Line, began: float
) -> Endpoint:
    waited = False
    while len(ready := ready_workers(found)) < body["workers"]:
        n = found.nbgpu
        if n.state in ("failed", "stopped"):
            line.end(f"{found.name}: not warm" if waited else "")
            client.send(_warmth(found.id, 0))
            raise errors.ServiceError(
                f"{found.name} did not get warm, and is no longer kept so: {n.reason.text.rstrip('.')}.",
                f"See %gpu why {found.name}",
                code="not_warm",
            )
        if n.warm is None:
            line.end(f"{found.name}: not warm" if waited else "")
            raise errors.ServiceError(
                f"No worker of {found.name} was ready within {span(body['seconds'])}.",
                "Give it longer, as in: --for 30m",
                code="not_warm",
            )
        took = time.monotonic() - began
        line.update(*waiting(found, before, len(ready), body["workers"], took))
        waited = True
        time.sleep(POLL_S)
        try:
            found = _get(client, found.id)
        except errors.OneLine:
            line.end(f"{found.name}: no longer waited for")
            raise
    line.end(f"{found.name}: ready after {span(time.monotonic() - began)}" if waited else "")
    return found


def ready_workers(found: Endpoint) -> list[Any]:
    return [
        w for w in found.nbgpu.workers if w.nbgpu.state in ("idle", "running") and not w.is_stale
    ]


def waiting(
    found: Endpoint, before: Endpoint, ready: int, wanted: int, took: float
) -> tuple[str, float | None]:
    """The live line: what, how long, typically, the cost so far, what to do. And how far it is."""
    n = found.nbgpu
    starting = any(w.nbgpu.state in ("initializing", "starting") for w in n.workers)
    # the line counts by itself; and of one that serves already, the reason tells nothing of the others
    what = "starting a worker" if ready and starting else untimed(n.reason.text)
    if wanted > 1:
        what += f", {ready} of {wanted} ready"
    typical = n.typical_cold_start_s if starting else None
    cost = max(Decimal(0), Decimal(n.cost_so_far) - Decimal(before.nbgpu.cost_so_far))
    parts = [
        f"{found.name}: {what}",
        span(took) + (f" of typically {span(typical)}" if typical else ""),
        f"{dollars(cost)} so far",
        "interrupt to cancel",
    ]
    return " · ".join(parts), min(ALMOST, took / typical) if typical else None


def _warmed(found: Endpoint) -> str:
    n = found.nbgpu
    until, count = (n.warm.until_us, n.warm.workers) if n.warm else (0, 0)
    left = max(0.0, until / 1e6 - time.time())
    cost = dollars(Decimal(n.rate_per_hour) * count * Decimal(left) / 3600)
    return (
        f"{found.name} is warm until {words.clock(until)}: {plural(count, 'worker')}, about {cost} "
        f"until then. End it with: %gpu warm {found.name} --off"
    )


def _cooled(found: Endpoint) -> str:
    idle = span(found.workers.idle_timeout)
    rest = f"; {found.workers.min} always on" if found.workers.min else ""
    return f"{found.name} is no longer kept warm: its workers stop after {idle} without work{rest}."


def _warmth(endpoint: str, seconds: int, workers: int | None = None) -> Call:
    body = {"seconds": seconds, "workers": workers} if workers is not None else {"seconds": 0}
    return Call("POST", f"/nbgpu/v1/warm/{part(endpoint)}", "Endpoint", body, again=True)


def _back(client: Client, before: Endpoint) -> str:
    """Undo: the warmth of before, or none."""
    name, former = before.name, before.nbgpu.warm
    left = 0 if former is None else round(former.until_us / 1e6 - time.time())
    workers = former.workers if former is not None and left > 0 else None
    try:
        found: Endpoint = client.send(_warmth(before.id, left, workers))
    except errors.OneLine as error:
        return f"that {name} is kept warm could not be taken back: {error}"
    if former is not None and workers is not None:
        return f"{name} is kept warm until {words.clock(former.until_us)}, as before."
    return _cooled(found)
