"""Listings about pods: PodListing, PortView, StoppedAll, Volumes, Secrets, and a Said sentence."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nbgpu import live, words
from nbgpu.formats import dollars, size, span
from nbgpu.results.shape import (
    Markup,
    Rich,
    frame,
    html_line,
    html_table,
    state_html,
    state_text,
    text_table,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas
    from nbgpu_backend.schema.pods import PodRow, Port, Volume, VolumeList
    from nbgpu_backend.schema.secrets import SecretList
    from nbgpu_backend.schema.summary import Summary

HEADS = ("name", "state", "kernel", "memory", "on", "ends by itself", "$/h", "cost")
COLUMNS = ("name", "state", "on", "gpu", "cpu", "kernel", "memory_bytes", "rate_per_hour", "cost",
           "idle_but_billing", "active", "stops_at", "stops_why", "volume", "origin", "reason", "id")  # fmt: skip
NONE = "No pod. Open one with: %gpu open train --cpu 2"


class PodListing(Rich):
    """The pods. `.df` has one row each; iterate for the names."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary

    def __iter__(self) -> Iterator[str]:
        return (row.name for row in self.summary.pods)

    def __len__(self) -> int:
        return len(self.summary.pods)

    @property
    def df(self) -> pandas.DataFrame:
        """One row a pod; instants in UTC, rates and costs in dollars, as floats."""
        import pandas

        found = frame([self._row(p) for p in self.summary.pods], COLUMNS)
        for name in ("active", "stops_at"):
            found[name] = pandas.to_datetime(found[name].astype("Int64"), unit="us", utc=True)
        return found

    @staticmethod
    def _row(p: PodRow) -> dict[str, Any]:
        return {
            "name": p.name, "state": p.state, "on": p.on, "gpu": p.gpu, "cpu": p.cpu,
            "kernel": p.kernel, "memory_bytes": p.use.memory_bytes,
            "rate_per_hour": float(p.rate_per_hour), "cost": float(p.cost_so_far),
            "idle_but_billing": p.idle_but_billing, "active": p.active_us,
            "stops_at": p.stops_at_us, "stops_why": p.stops_why, "volume": p.volume_name,
            "origin": p.origin, "reason": p.reason, "id": p.id,
        }  # fmt: skip

    @staticmethod
    def cells(p: PodRow) -> list[str]:
        where = f"{p.on}, {p.gpu or f'{p.cpu or 1} CPU'}"
        ends = words.clock(p.stops_at_us) if p.stops_at_us is not None else "–"
        memory = size(p.use.memory_bytes) if p.use.memory_bytes else "–"
        return [p.name, state_text(p.state), p.kernel, memory, where, ends,
                dollars(p.rate_per_hour), dollars(p.cost_so_far)]  # fmt: skip

    def text(self) -> str:
        rows = [self.cells(p) for p in self.summary.pods]
        return text_table(HEADS, rows) if rows else NONE

    def html(self) -> str:
        rows: list[list[object]] = []
        for p in self.summary.pods:
            cells: list[object] = [*self.cells(p)]
            cells[1] = Markup(f'<span title="{escape(p.reason)}">{state_html(p.state)}</span>')
            rows.append(cells)
        return html_table(HEADS, rows) if rows else html_line(NONE)

    def to_dict(self) -> dict[str, Any]:
        return {"pods": [row.wire() for row in self.summary.pods]}


def from_here(pods: Sequence[PodRow], notebook: str | None) -> str:
    """What runs of this notebook's: `from this notebook: train runs, idle 2 h, $0.41`."""
    found = []
    for p in pods:
        if notebook is None or p.origin != notebook or p.state not in ("idle", "busy"):
            continue
        parts = [f"{p.name} runs"]
        if p.state == "idle" and p.active_us is not None:
            parts.append(f"idle {span(max(0.0, time.time() - p.active_us / 1e6))}")
        found.append(", ".join([*parts, dollars(p.cost_so_far)]))
    return "from this notebook: " + "; ".join(found) if found else ""


class PortView(Rich):
    """`.url` leads to the port from this machine; `.proxied` through Jupyter's server, where it does that."""

    def __init__(self, port: Port, pod: str) -> None:
        self.port = port
        self.pod = pod

    @property
    def url(self) -> str:
        return self.port.url

    @property
    def proxied(self) -> str | None:
        """A path of Jupyter's own address, for a browser on another machine."""
        if not live.in_notebook() or importlib.util.find_spec("jupyter_server_proxy") is None:
            return None
        base = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/")
        return f"{base.rstrip('/')}/proxy/{self.port.local_port}/"

    def text(self) -> str:
        said = f"Port {self.port.port} of {self.pod} is reached at {self.url}"
        return said + (f", through Jupyter at {self.proxied}" if self.proxied else "")

    def html(self) -> str:
        def link(url: str) -> str:
            return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a>'

        said = f"Port {self.port.port} of {escape(self.pod)} is reached at {link(self.url)}"
        said += f", through Jupyter at {link(self.proxied)}" if self.proxied else ""
        return html_line(Markup(said))

    def to_dict(self) -> dict[str, Any]:
        return {**self.port.wire(), "proxied": self.proxied}


class Said(Rich):
    """One sentence, and what a program reads instead."""

    def __init__(self, said: str, **facts: Any) -> None:
        self.said = said
        self.facts = facts

    def text(self) -> str:
        return self.said

    def html(self) -> str:
        return html_line(self.said)

    def to_dict(self) -> dict[str, Any]:
        return self.facts


class StoppedAll(Said):
    def __init__(self, names: list[str]) -> None:
        said = f"Stopped: {', '.join(names)}." if names else "Nothing was running."
        super().__init__(said, stopped=names)


class Volumes(Rich):
    """The volumes. `.df` has one row each; iterate for the names."""

    HEADS = ("name", "size", "used", "on", "pods", "made", "id")

    def __init__(self, found: VolumeList) -> None:
        self.volumes = found.network_volumes

    def __iter__(self) -> Iterator[str]:
        return (volume.name for volume in self.volumes)

    def __len__(self) -> int:
        return len(self.volumes)

    @property
    def df(self) -> pandas.DataFrame:
        rows = [
            {"name": v.name, "size_gb": v.size, "bytes_used": v.nbgpu.bytes_used, "on": v.data_center,
             "pods": v.nbgpu.pods, "path": v.nbgpu.path, "id": v.id}
            for v in self.volumes
        ]  # fmt: skip
        return frame(rows, ("name", "size_gb", "bytes_used", "on", "pods", "path", "id"))

    @staticmethod
    def cells(v: Volume) -> tuple[str, ...]:
        used = size(v.nbgpu.bytes_used) if v.nbgpu.bytes_used is not None else "–"
        pods = ", ".join(v.nbgpu.pods) or "–"
        return (v.name, f"{v.size} GB", used, v.data_center, pods, words.clock(v.nbgpu.created_us), v.id)  # fmt: skip

    def text(self) -> str:
        empty = "No volume. Make one with: %gpu volume add data"
        return text_table(self.HEADS, map(self.cells, self.volumes)) if self.volumes else empty

    def html(self) -> str:
        if not self.volumes:
            return html_line(self.text())
        return html_table(self.HEADS, map(self.cells, self.volumes))

    def to_dict(self) -> dict[str, Any]:
        return {"networkVolumes": [volume.wire() for volume in self.volumes]}


class Secrets(Rich):
    """Names of secrets, and when each was stored. Values are never given back."""

    HEADS = ("name", "stored")

    def __init__(self, found: SecretList) -> None:
        self.secrets = found.secrets

    def __iter__(self) -> Iterator[str]:
        return (secret.name for secret in self.secrets)

    def __len__(self) -> int:
        return len(self.secrets)

    def _rows(self) -> list[tuple[str, str]]:
        return [(s.name, words.clock(s.changed_us)) for s in self.secrets]

    def text(self) -> str:
        empty = "No secret. Store one with: %gpu secret add HF_TOKEN"
        return text_table(self.HEADS, self._rows()) if self.secrets else empty

    def html(self) -> str:
        return html_table(self.HEADS, self._rows()) if self.secrets else html_line(self.text())

    def to_dict(self) -> dict[str, Any]:
        return {"secrets": [secret.wire() for secret in self.secrets]}
