"""What is told of a host: its row, and what a check of it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbgpu_backend.control.wording import size
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.providers.ssh.settings import HostSettings, fingerprint_of
from nbgpu_backend.schema import hosts as schema

CLOCK_MS = 5000.0  # a difference that would spoil what is judged by the clock


def host_view(
    name: str, settings: HostSettings, status: dict[str, Any], there: dict[str, Any]
) -> schema.Host:
    """`status` as the tunnel tells it, `there`: its pods and its rate."""
    return schema.Host(
        name=name,
        user=settings.target.user,
        address=settings.target.address,
        port=settings.target.port,
        fingerprint=fingerprint_of(settings.target),
        state=status["state"],
        since_us=status.get("since_us"),
        sentence=str(status.get("sentence") or ""),
        next_step=str(status.get("next_step") or ""),
        facts=_facts(status.get("facts"), offset_ms(status)),
        **there,
    )


def no_tunnel(error: NbgpuError) -> dict[str, Any]:
    """The status of a host whose tunnel does not run, and why."""
    return {"state": "stopped", "sentence": error.what, "next_step": error.next_step}


def offset_ms(status: dict[str, Any]) -> float:
    """What its clock is ahead of ours, as it was measured when the link was made."""
    return round(float(status.get("clock_offset_us", 0)) / 1000, 1)


def _facts(said: dict[str, Any] | None, offset_ms: float) -> schema.HostFacts | None:
    if not said:
        return None
    return schema.HostFacts(
        hostname=said["hostname"],
        python=said["python"],
        cpus=said["cpus"],
        memory=said["memory"],
        memory_available=said["memory_available"],
        disk_free=said["disk_free"],
        gpus=[str(gpu["name"]) for gpu in said.get("gpus") or ()],
        clock_offset_ms=offset_ms,
    )


def findings(facts: dict[str, Any], offset_ms: float) -> Sequence[schema.Finding]:
    found = [
        schema.Finding(what="Python", good=True, text=facts["python"]),
        schema.Finding(
            what="memory", good=True,
            text=f"{size(facts['memory_available'])} of {size(facts['memory'])} are free",
        ),
        schema.Finding(
            what="disk", good=facts["disk_free"] > 2e9, text=f"{size(facts['disk_free'])} are free",
            advice="" if facts["disk_free"] > 2e9 else "Free some: an environment takes 0.2 GB and more.",
        ),
    ]  # fmt: skip
    gpus, tools = ", ".join(str(gpu["name"]) for gpu in facts.get("gpus") or ()), facts["tools"]
    found.append(
        schema.Finding(
            what="GPUs", good=bool(gpus), text=gpus or f"none ({facts.get('gpus_why') or 'none seen'})",
            advice="" if gpus else "Where it has some: install NVIDIA's driver, which brings nvidia-smi.",
        )
    )  # fmt: skip
    why = tools.get("venv")
    found.append(
        schema.Finding(
            what="venv", good=why is None, text="Python makes environments" if why is None
            else f"Python makes no environments: {why}",
            advice="" if why is None else "On Debian: apt install python3-venv.",
        )
    )  # fmt: skip
    why = tools.get("bwrap")
    found.append(
        schema.Finding(
            what="sandbox", good=why is None,
            text="bubblewrap works" if why is None else f"bubblewrap does not work: {why}",
            advice="" if why is None
            else "On Debian: apt install bubblewrap. Until then pods run as that user.",
        )
    )  # fmt: skip
    late = abs(offset_ms) > CLOCK_MS
    found.append(
        schema.Finding(
            what="clock", good=not late, text=f"{abs(offset_ms) / 1000:.1f} s {'ahead' if offset_ms > 0 else 'behind'}",
            advice="That is taken into account. Set it right: timedatectl set-ntp true" if late else "",
        )
    )  # fmt: skip
    return found
