"""One endpoint, as it was when it was asked for."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from nbgpu.formats import dollars, per_hour, size, span
from nbgpu.results.shape import (
    MARKS,
    Markup,
    Rich,
    frame,
    html_facts,
    html_line,
    html_table,
    mark_html,
    state_html,
    state_text,
    text_facts,
    text_table,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas
    from nbgpu_backend.schema.endpoints import Endpoint as Data
    from nbgpu_backend.schema.endpoints import Worker

HEADS = ("worker", "state", "pid", "port", "tier", "ready after", "cost")
COLUMNS = ("id", "state", "pid", "port", "tier", "generation", "place", "ready_seconds", "held",
           "rate_per_hour", "cost", "reason")  # fmt: skip


class EndpointView(Rich):
    """`.data` is the answer itself (`nbgpu_backend.schema.endpoints.Endpoint`); `.df` its workers."""

    def __init__(self, data: Data) -> None:
        self.data = data

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def state(self) -> str:
        return self.data.nbgpu.state

    @property
    def base_url(self) -> str:
        """Where OpenAI clients reach it."""
        return self.data.nbgpu.base_url

    @property
    def df(self) -> pandas.DataFrame:
        """One row a worker."""
        return frame([self._row(w) for w in self.data.nbgpu.workers], COLUMNS)

    @staticmethod
    def _row(w: Worker) -> dict[str, Any]:
        n = w.nbgpu
        return {
            "id": w.id, "state": n.state, "pid": n.pid, "port": n.port, "tier": n.tier,
            "generation": n.generation, "place": n.place, "ready_seconds": n.ready_seconds,
            "held": n.held, "rate_per_hour": float(n.rate_per_hour), "cost": float(n.cost_so_far),
            "reason": n.reason.text,
        }  # fmt: skip

    def _facts(self) -> list[tuple[str, object]]:
        data, n = self.data, self.data.nbgpu
        limits = data.workers
        model = n.model.ref + (f" ({size(n.model.bytes)})" if n.model.bytes else "")
        engine = n.engine.name + (f" {n.engine_version}" if n.engine_version else "")
        place = n.place.on + (f", {n.place.cpu} CPU" if n.place.cpu else "")
        place += f", GPU {' or '.join(n.place.gpu)}" if n.place.gpu else ""
        facts: list[tuple[str, object]] = [
            *([("model", model)] if n.model.ref else []),
            ("engine", " ".join([engine, *n.engine.options])),
            ("runs on", place),
            ("workers", f"{limits.min} to {limits.max}, idle for {span(limits.idle_timeout)} at most"),
            ("requests", f"{n.requests_total:,} so far, {n.queued} waiting, {n.held} in progress"),
            ("cost", f"{dollars(n.cost_so_far)} so far, {per_hour(n.rate_per_hour)} a running worker "
                     f"({n.rate_source})"),
        ]  # fmt: skip
        if n.typical_cold_start_s is not None:
            facts.append(("cold start", f"typically {span(n.typical_cold_start_s)}"))
        if n.last_failure is not None:
            facts.append(("last failure", n.last_failure.text))
        # a handler takes no OpenAI requests: its jobs are posted to …/run
        facts.append(("jobs" if n.engine.name == "handler" else "OpenAI", n.base_url))
        return facts

    def _workers(self) -> list[list[str]]:
        return [
            [w.id, state_text(w.nbgpu.state), str(w.nbgpu.pid or "–"), str(w.nbgpu.port or "–"),
             w.nbgpu.tier, span(w.nbgpu.ready_seconds) if w.nbgpu.ready_seconds is not None else "–",
             dollars(w.nbgpu.cost_so_far)]
            for w in self.data.nbgpu.workers
        ]  # fmt: skip

    def text(self) -> str:
        n = self.data.nbgpu
        head = f"{MARKS.get(n.state, '·')} {self.name} is {n.state}: {n.reason.text}"
        lines = [head, text_facts(self._facts())]
        if n.workers:
            lines.append(text_table(HEADS, self._workers()))
        return "\n".join(lines)

    def html(self) -> str:
        n = self.data.nbgpu
        said = escape(f"is {n.state}: {n.reason.text}")
        head = Markup(f"{mark_html(n.state)} <b>{escape(self.name)}</b> {said}")
        parts = [html_line(head), html_facts(self._facts())]
        if n.workers:
            rows: list[list[object]] = []
            for worker, cells in zip(n.workers, self._workers(), strict=True):
                row: list[object] = [*cells]
                row[1] = Markup(state_html(worker.nbgpu.state))
                rows.append(row)
            parts.append(html_table(HEADS, rows))
        return "".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return self.data.wire()
