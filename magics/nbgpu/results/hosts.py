"""Own servers: HostListing, HostView."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nbgpu.formats import per_hour, size
from nbgpu.results.jobs import clock
from nbgpu.results.shape import Rich, html_facts, html_line, html_table, text_facts, text_table

if TYPE_CHECKING:
    from nbgpu_backend.schema.hosts import Host, HostList

HEADS = ("name", "state", "since", "address", "processors", "memory free", "GPUs", "runs", "$/h")
NONE = "No host. Add one of your servers with: %gpu host add lab1 user@address"


def _state(host: Host) -> str:
    return f"{host.state}: {host.sentence}" if host.sentence else host.state


def _row(host: Host) -> tuple[str, ...]:
    facts = host.facts
    return (
        host.name, _state(host), clock(host.since_us) if host.since_us else "–", f"{host.user}@{host.address}", str(facts.cpus) if facts else "",
        size(facts.memory_available) if facts else "", ", ".join(facts.gpus) if facts else "",
        ", ".join([*host.pods, *host.endpoints]), per_hour(host.rate_per_hour),
    )  # fmt: skip


class HostListing(Rich):
    """The hosts; iterate for their names."""

    def __init__(self, hosts: HostList) -> None:
        self.hosts = hosts.hosts

    def __iter__(self) -> Iterator[str]:
        return (host.name for host in self.hosts)

    def text(self) -> str:
        return text_table(HEADS, map(_row, self.hosts)) if self.hosts else NONE

    def html(self) -> str:
        return html_table(HEADS, map(_row, self.hosts)) if self.hosts else html_line(NONE)

    def to_dict(self) -> dict[str, Any]:
        return {"hosts": [host.wire() for host in self.hosts]}


class HostView(Rich):
    """One host, and after a check what was found."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def _facts(self) -> list[tuple[str, object]]:
        h, facts = self.host, self.host.facts
        port = f":{h.port}" if h.port != 22 else ""
        found: list[tuple[str, object]] = [
            ("host", h.name), ("state", f"{_state(h)} {h.next_step}".strip()), ("address", f"{h.user}@{h.address}{port}"),
            ("its key", h.fingerprint or "not pinned"),
        ]  # fmt: skip
        if facts is not None:
            memory = f"{size(facts.memory_available)} of {size(facts.memory)} free"
            found += [
                ("machine", f"{facts.hostname}, {facts.cpus} processors, {memory}"),
                ("GPUs", ", ".join(facts.gpus) or "none"),
            ]
        if h.pods:
            found.append(("pods", ", ".join(h.pods)))
        if h.endpoints:
            found.append(("endpoints", ", ".join(h.endpoints)))
        for one in h.findings:
            advice = f". {one.advice}" if one.advice else ""
            found.append((f"{'✓' if one.good else '✗'} {one.what}", one.text + advice))
        return [*found, ("rate", per_hour(h.rate_per_hour))]

    def text(self) -> str:
        return text_facts(self._facts())

    def html(self) -> str:
        return html_facts(self._facts())

    def to_dict(self) -> dict[str, Any]:
        return self.host.wire()
