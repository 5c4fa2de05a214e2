"""What there is: Status, Listing, EndpointListing, SettingsView."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from nbgpu import origin, words
from nbgpu.formats import dollars, per_hour, plural
from nbgpu.results.pods import PodListing, from_here
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
    from nbgpu_backend.runtime import Backend
    from nbgpu_backend.schema.summary import EndpointRow, Settings, Summary

COLUMNS = ("name", "model", "state", "on", "workers", "workers_parked", "workers_min", "workers_max",
           "warm_until", "queued", "held",
           "requests", "rate_per_hour", "cost", "idle_but_billing", "reason", "id")  # fmt: skip
HEADS = ("name", "state", "workers", "waiting", "requests", "$/h", "cost", "model", "on")
EMPTY = "No endpoint. Make one with: %gpu deploy Qwen/Qwen2.5-0.5B-Instruct --name chat"


def parked(e: EndpointRow) -> int:
    return e.workers_by_state.get("parked", 0)


def up(e: EndpointRow) -> int:
    """The workers that count to its limit."""
    return len(e.workers) - parked(e)


class EndpointListing(Rich):
    """The endpoints. `.df` has one row each; iterate for the names."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary

    def __iter__(self) -> Iterator[str]:
        return (row.name for row in self.summary.endpoints)

    def __len__(self) -> int:
        return len(self.summary.endpoints)

    @property
    def df(self) -> pandas.DataFrame:
        """One row an endpoint; rates and costs in dollars, as floats. `workers` are those that count to max."""
        import pandas

        found = frame([self._row(e) for e in self.summary.endpoints], COLUMNS)
        instants = found["warm_until"].astype("Int64")
        found["warm_until"] = pandas.to_datetime(instants, unit="us", utc=True)
        return found

    @staticmethod
    def _row(e: EndpointRow) -> dict[str, Any]:
        return {
            "name": e.name, "model": e.model, "state": e.state, "on": e.on, "workers": up(e),
            "workers_parked": parked(e), "workers_min": e.workers_min, "workers_max": e.workers_max,
            "warm_until": e.warm_until_us, "queued": e.queued, "held": e.held,
            "requests": e.requests_total, "rate_per_hour": float(e.rate_per_hour),
            "cost": float(e.cost_so_far), "idle_but_billing": e.idle_but_billing,
            "reason": e.reason, "id": e.id,
        }  # fmt: skip

    def _workers(self, e: EndpointRow) -> str:
        """By state: parked ones count to no limit."""
        parts = [words.workers(e.workers_by_state) or "none", f"max {e.workers_max}"]
        if e.warm_until_us is not None:
            parts.append(f"warm until {words.clock(e.warm_until_us)}")
        return ", ".join(parts)

    def _cells(self, e: EndpointRow) -> list[str]:
        return [e.name, state_text(e.state), self._workers(e), str(e.queued),
                f"{e.requests_total:,}", dollars(e.rate_per_hour), dollars(e.cost_so_far),
                e.model, e.on]  # fmt: skip

    def _orphans(self) -> str:
        names = ", ".join(orphan.name for orphan in self.summary.orphans)
        return f"Instances without an endpoint, to be ended: {names}" if names else ""

    def text(self) -> str:
        rows = [self._cells(e) for e in self.summary.endpoints]
        body = text_table(HEADS, rows) if rows else EMPTY
        return "\n".join(part for part in (body, self._orphans()) if part)

    def html(self) -> str:
        rows: list[list[object]] = []
        for e in self.summary.endpoints:
            cells: list[object] = [*self._cells(e)]
            cells[1] = Markup(f'<span title="{escape(e.reason)}">{state_html(e.state)}</span>')
            rows.append(cells)
        body = html_table(HEADS, rows) if rows else html_line(EMPTY)
        orphans = self._orphans()
        return body + (html_line(orphans) if orphans else "")

    def to_dict(self) -> dict[str, Any]:
        return self.summary.wire()


class Listing(EndpointListing):
    """Pods and endpoints. `.df` is about the endpoints, `.pods.df` about the pods; iterate for all names."""

    @property
    def pods(self) -> PodListing:
        return PodListing(self.summary)

    def __iter__(self) -> Iterator[str]:
        yield from (row.name for row in self.summary.pods)
        yield from (row.name for row in self.summary.endpoints)

    def __len__(self) -> int:
        return len(self.summary.pods) + len(self.summary.endpoints)

    def _both(self, pods: str, endpoints: str) -> str:
        """Only what there is; where there is nothing, how an endpoint is made."""
        shown = [pods] if self.summary.pods else []
        if self.summary.endpoints or self.summary.orphans or not shown:
            shown.append(endpoints)
        return "\n\n".join(shown)

    def text(self) -> str:
        return self._both(self.pods.text(), super().text())

    def html(self) -> str:
        return self._both(self.pods.html(), super().html())


class Status(Listing):
    """The listing, under a line that says what it costs."""

    def __init__(self, summary: Summary, backend: Backend) -> None:
        super().__init__(summary)
        self.backend = backend

    def _workers(self, e: EndpointRow) -> str:
        """The short form."""
        return f"{up(e)} of {e.workers_max}" + (f", {parked(e)} parked" if parked(e) else "")

    def headline(self) -> str:
        s = self.summary
        workers, kept = (sum(map(count, s.endpoints)) for count in (up, parked))
        pods = [plural(len(s.pods), "pod")] if s.pods else []
        parts = [*pods, plural(len(s.endpoints), "endpoint"),
                 plural(workers, "worker") + (f", {kept} parked" if kept else ""),
                 per_hour(s.per_hour), f"{dollars(s.spent_today)} today"]  # fmt: skip
        if s.idle_but_billing:
            parts.append("idle but billing: " + ", ".join(s.idle_but_billing))
        return " · ".join(parts)

    def text(self) -> str:
        return "\n".join([*self._head(), super().text()])

    def html(self) -> str:
        return "".join(map(html_line, self._head())) + super().html()

    def _head(self) -> list[str]:
        here = from_here(self.summary.pods, origin.notebook())
        return [self.headline(), *([here] if here else [])]

    def to_dict(self) -> dict[str, Any]:
        backend = {
            "pid": self.backend.pid,
            "url": self.backend.url,
            "version": self.backend.version,
        }
        return {"backend": backend, **self.summary.wire()}


class SettingsView(Rich):
    """The settings of the backend."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def _rows(self) -> list[tuple[str, str, str]]:
        sources = self.settings.rate_sources
        rows = [(f"rate.{place}", per_hour(rate), sources.get(place, ""))
                for place, rate in sorted(self.settings.rates.items())]  # fmt: skip
        rows.append(("place", self.settings.place, "set with: use"))
        lease = getattr(self.settings, "lease_pod_s", None)
        return [*rows, *([("lease.pod", words.seconds(lease), "")] if lease is not None else [])]

    def text(self) -> str:
        return text_table(("setting", "value", "source"), self._rows())

    def html(self) -> str:
        return html_table(("setting", "value", "source"), self._rows())

    @property
    def df(self) -> pandas.DataFrame:
        rows = [dict(zip(("setting", "value", "source"), row, strict=True)) for row in self._rows()]
        return frame(rows, ("setting", "value", "source"))

    def to_dict(self) -> dict[str, Any]:
        return self.settings.wire()
