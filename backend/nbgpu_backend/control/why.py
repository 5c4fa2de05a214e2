"""`why`: the state of an endpoint in words, with what happened before and what to type."""

from __future__ import annotations

from datetime import datetime

from nbgpu_backend.control.endpoint import EndpointControl
from nbgpu_backend.control.services import Services
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.schema.endpoints import Phase
from nbgpu_backend.schema.events import Event
from nbgpu_backend.schema.summary import Why

HISTORY = 8


async def why(control: EndpointControl, services: Services) -> Why:
    now = services.clock.now()
    state, reason = control.status.state(), control.status.reason()
    events = await services.state.last_events(control.id, HISTORY)
    typical = control.status.typical_cold_start_s()
    newest = next(reversed(control.workers.values()), None)
    return Why(
        name=control.name,
        state=state,
        reason=reason,
        seconds=round(max(0, now - reason.since_us) / 1e6, 1),
        cost_so_far=plain(services.ledger.cost(control.id, now)),
        typical=f"a cold start takes {typical:.1f} s here" if typical else None,
        next_step=_next_step(control, state),
        history=[_line(event, now) for event in events],
        phases=[Phase(name=n, seconds=s) for n, s in newest.phases()] if newest else [],
        tail=_tail(control, state),
    )


def _next_step(control: EndpointControl, state: str) -> str:
    name = control.name
    if control.weights.error is not None:
        deploy = f"nbgpu deploy {control.record.model.ref} --name {name}"
        if control.record.model.source == "handler":
            return f"{deploy}   tries again once requirements.txt is corrected"
        return f"{deploy}   goes on where the fetch broke"
    use = f"nbgpu ask {name} hello"
    if control.pulls:
        use = f'nbgpu.connect().endpoint("{name}").run({{…}})'
    return {
        "stopped": f"nbgpu start {name}   lets requests in again",
        "failed": f"nbgpu logs {name}   shows what the engine said; nbgpu start {name}   tries again",
        "asleep": f"{use}   wakes it",
        "fetching": "wait: requests are held until that is done",
        "starting": f"wait: requests are held; nbgpu logs {name}   shows the engine",
        "throttled": "nbgpu ls   shows what else runs; nbgpu stop NAME   frees its memory",
        "ready": f"{use}, or nbgpu stop {name}   to stop paying for it",
        "draining": f"{use}   starts another one",
        "busy": f"nbgpu show {name}   shows its workers",
    }.get(state, "")


def _tail(control: EndpointControl, state: str) -> list[str]:
    if state == "failed" and control.record.failure:
        return [str(line) for line in control.record.failure.get("values", {}).get("tail", [])]
    return []


def _line(event: Event, now_us: int) -> str:
    at = datetime.fromtimestamp(event.at_us / 1e6).astimezone()
    stamp = at.strftime(
        "%H:%M:%S" if now_us - event.at_us < 12 * 3600 * 1_000_000 else "%Y-%m-%d %H:%M"
    )
    return f"{stamp}  {event.text}"
