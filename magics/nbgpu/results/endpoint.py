"""One endpoint, as it was when it was asked for."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Any

from nbgpu import words
from nbgpu.formats import dollars, per_hour, plural, size, span
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

HEADS = ("worker", "state", "for", "tier", "ready after", "requests", "memory", "cost")
COLUMNS = ("id", "state", "since", "reason", "pid", "port", "tier", "fell_back", "generation", "place", "gpu",
           "ready_seconds", "phases", "held", "memory_bytes", "rate_per_hour", "cost", "skipped")  # fmt: skip


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
        """One row a worker: `since` in UTC, `phases` as {name: seconds}, costs in dollars."""
        import pandas

        found = frame([self._row(w) for w in self.data.nbgpu.workers], COLUMNS)
        found["since"] = pandas.to_datetime(found["since"].astype("Int64"), unit="us", utc=True)
        return found

    @staticmethod
    def _row(w: Worker) -> dict[str, Any]:
        n = w.nbgpu
        return {
            "id": w.id, "state": n.state, "since": n.reason.since_us, "reason": n.reason.text,
            "pid": n.pid, "port": n.port, "tier": n.tier, "fell_back": n.fell_back,
            "generation": n.generation, "place": n.place, "gpu": n.gpu,
            "ready_seconds": n.ready_seconds, "phases": {p.name: p.seconds for p in n.phases},
            "held": n.held, "memory_bytes": n.memory_bytes,
            "rate_per_hour": float(n.rate_per_hour), "cost": float(n.cost_so_far),
            "skipped": [f"{skip.what}: {skip.text}" for skip in n.skipped],
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
            *([("warm", warmth)] if (warmth := self._warmth()) else []),
            ("scaling", words.scaling(data.scaling)),
            ("starts", words.starts(n.engine.name, n.policy.tiers, n.policy.park_s)),
            ("requests", f"{n.requests_total:,} so far, {n.queued} waiting, {n.held} in progress"),
            ("cost", f"{dollars(n.cost_so_far)} so far, {per_hour(n.rate_per_hour)} a running worker "
                     f"({n.rate_source})"),
        ]  # fmt: skip
        if n.typical_cold_start_s is not None:
            facts.append(("cold start", f"typically {span(n.typical_cold_start_s)}"))
        if n.last_failure is not None:
            facts.append(("last failure", n.last_failure.text))
        # a handler takes no OpenAI requests: its jobs are posted to …/run
        kind = "jobs" if n.engine.name == "handler" else "OpenAI"
        if data.type == "LOAD_BALANCER":
            kind = "HTTP"
        facts.append((kind, n.base_url))
        return facts

    def _warmth(self) -> str:
        warm = self.data.nbgpu.warm
        if warm is None:
            return ""
        return f"until {words.clock(warm.until_us)}, {plural(warm.workers, 'worker')}"

    @staticmethod
    def _cells(w: Worker) -> list[str]:
        n = w.nbgpu
        return [
            w.id, state_text(n.state), span(max(0.0, time.time() - n.reason.since_us / 1e6)), n.tier,
            span(n.ready_seconds) if n.ready_seconds is not None else "–", str(n.held),
            size(n.memory_bytes) if n.memory_bytes else "–", dollars(n.cost_so_far),
        ]  # fmt: skip

    @staticmethod
    def _notes(w: Worker) -> list[str]:
        """What its row has no place for: the reason, the phases of its start, what did not serve."""
        n = w.nbgpu
        notes = [n.reason.text]
        if n.phases:
            notes.append(", ".join(f"{phase.name} {span(phase.seconds)}" for phase in n.phases))
        if n.fell_back:
            notes.append(f"no sooner start: {n.fell_back}")
        notes += [f"not on {skip.what}: {skip.text}" for skip in n.skipped]
        if w.is_stale:
            notes.append("its settings have changed since: it takes no new requests")
        where = [f"{name} {value}" for name, value in (("GPU", n.gpu), ("pid", n.pid), ("port", n.port)) if value]  # fmt: skip
        return [*notes, *([", ".join(where)] if where else [])]

    def text(self) -> str:
        n = self.data.nbgpu
        head = f"{MARKS.get(n.state, '·')} {self.name} is {n.state}: {n.reason.text}"
        lines = [head, text_facts(self._facts())]
        if n.workers:
            head, *rows = text_table(HEADS, map(self._cells, n.workers)).split("\n")
            lines.append(head)
            for worker, row in zip(n.workers, rows, strict=True):
                lines += [row, *(f"  {note}" for note in self._notes(worker))]
        return "\n".join(lines)

    def html(self) -> str:
        n = self.data.nbgpu
        said = escape(f"is {n.state}: {n.reason.text}")
        head = Markup(f"{mark_html(n.state)} <b>{escape(self.name)}</b> {said}")
        parts = [html_line(head), html_facts(self._facts())]
        if n.workers:
            rows: list[list[object]] = []
            for worker in n.workers:
                row: list[object] = [*self._cells(worker)]
                row[1] = Markup(state_html(worker.nbgpu.state))
                notes = "".join(f"<div>{escape(note)}</div>" for note in self._notes(worker))
                rows.append([*row, Markup(notes)])
            parts.append(html_table((*HEADS, "why"), rows))
        return "".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return self.data.wire()
