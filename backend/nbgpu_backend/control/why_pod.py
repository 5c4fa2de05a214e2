"""`why` of a pod: its state in words, what ends it and when, what to type."""

from __future__ import annotations

from nbgpu_backend.control.pod import PodControl
from nbgpu_backend.control.pods import Pods
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.wording import at, size, span
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.schema.endpoints import Phase
from nbgpu_backend.schema.summary import Why


def pod_why(control: PodControl, pods: Pods, services: Services, history: list[str]) -> Why:
    now, reason = services.clock.now(), control.reason
    phases = control.instance.phases if control.instance else None
    return Why(
        subject="pod",
        name=control.name,
        endpoint=control.name,
        state=control.state,
        reason=reason,
        seconds=round(max(0, now - reason.since_us) / 1e6, 1),
        cost_so_far=plain(services.ledger.cost(control.id, now)),
        typical=None,
        next_step=_next_step(control),
        history=history,
        phases=[Phase(name=n, seconds=s) for n, s in phases or ()],
        tail=list(control.tail)[-12:] if control.state == "failed" else [],
        facts=_facts(control, pods, now),
    )


def _facts(control: PodControl, pods: Pods, now: int) -> list[str]:
    facts = [f"{skip.what}: {skip.text}" for skip in control.skipped]
    if control.separation is not None and control.live:
        facts.append(control.separation.text)
    if control.running:
        held = int(control.seen.get("rss") or 0)
        facts.append(f"it holds {size(held)} of {size(control.memory_limit)} of memory")
        end = control.next_end()
        if end is None and control.seen.get("busy"):
            facts.append("its kernel works, and nothing else ends it")
        elif end is None:
            facts.append("nothing ends it but you")
        else:
            left = span(max(0, int((end.at_us - now) / 1e6)))
            facts.append(f"it stops in {left} (at {at(end.at_us)}): {end.text}")
    volume = pods.volumes.by_id(control.record.volume_id)
    if volume is not None:
        whose = "its own volume" if volume.pod_id else f"the volume {volume.name}"
        facts.append(f"/workspace is {whose}: {pods.volumes.path(volume)}")
    return facts


def _next_step(control: PodControl) -> str:
    name = control.name
    return {
        "preparing": f"wait: nbgpu logs {name}   shows it once it runs",
        "starting": f"wait: nbgpu logs {name}   shows what it says",
        "idle": f"nbgpu run {name} -c '…', nbgpu kernel {name}; nbgpu stop {name}   ends it",
        "busy": f"nbgpu attach {name}   shows what runs",
        "stopping": f"wait, or: nbgpu delete {name} --yes",
        "stopped": f"nbgpu start {name}   starts it; its files are there",
        "failed": f"nbgpu logs {name}   shows what it said; nbgpu start {name}   tries again",
        "unreachable": f"nbgpu logs {name}   shows what it said last; nbgpu stop {name}   ends it",
    }.get(control.state, "")
