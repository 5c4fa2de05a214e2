"""Jobs: JobListing, JobView, JobWhy, Purged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from nbgpu.formats import plural, span
from nbgpu.results.shape import (
    MARKS,
    Markup,
    Rich,
    frame,
    html_facts,
    html_line,
    html_pre,
    html_table,
    mark_html,
    state_html,
    state_text,
    text_facts,
    text_table,
)  # fmt: skip
from nbgpu.results.story import WhyView
from nbgpu.submission import told

if TYPE_CHECKING:
    import pandas
    from nbgpu_backend.schema.jobs import JobDetail, JobList, JobRow
    from nbgpu_backend.schema.summary import Why

COLUMNS = ("id", "endpoint", "state", "created", "finished", "delay_ms", "execution_ms", "worker_id",
           "retried", "low_priority", "error")  # fmt: skip
HEADS = ("job", "endpoint", "state", "submitted", "waited", "ran", "retries", "error")
SHOWN = 400  # characters of an input or output
LOG_LINES = 30


class JobListing(Rich):
    """Jobs, newest first. `.df` has one row each; iterate for the ids."""

    def __init__(self, found: JobList, about: str = "") -> None:
        self.jobs = found.jobs
        self._found = found
        self._about = about

    def __iter__(self) -> Iterator[str]:
        return (row.id for row in self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def df(self) -> pandas.DataFrame:
        """One row a job: `created` and `finished` in UTC, durations in milliseconds."""
        import pandas

        rows = [{**row.model_dump(), "created": row.created_us, "finished": row.finished_us}
                for row in self.jobs]  # fmt: skip
        found = frame(rows, COLUMNS)
        for name in ("created", "finished"):
            found[name] = pandas.to_datetime(found[name].astype("Int64"), unit="us", utc=True)
        return found

    def _cells(self, row: JobRow) -> list[str]:
        return [
            row.id, row.endpoint, state_text(row.state), clock(row.created_us),
            span(row.delay_ms / 1000), span(row.execution_ms / 1000) if row.execution_ms else "–",
            str(row.retried or ""), short(told(row.error), 60) if row.error else "",
        ]  # fmt: skip

    def _empty(self) -> str:
        whose = f" of {self._about}" if self._about else ""
        name = self._about or "NAME"
        return f"No such job{whose}. Submit one with: nbgpu.connect().endpoint('{name}').run({{…}})"

    def text(self) -> str:
        return text_table(HEADS, map(self._cells, self.jobs)) if self.jobs else self._empty()

    def html(self) -> str:
        if not self.jobs:
            return html_line(self._empty())
        rows: list[list[object]] = []
        for row in self.jobs:
            cells: list[object] = [*self._cells(row)]
            cells[2] = Markup(state_html(row.state))
            rows.append(cells)
        return html_table(HEADS, rows)

    def to_dict(self) -> dict[str, Any]:
        return self._found.wire()


class JobView(Rich):
    """One job in full. `.detail` is the answer itself (`nbgpu_backend.schema.jobs.JobDetail`)."""

    def __init__(self, detail: JobDetail) -> None:
        self.detail = detail

    def _facts(self) -> list[tuple[str, object]]:
        d, job = self.detail, self.detail.job
        facts: list[tuple[str, object]] = [
            ("endpoint", job.endpoint),
            ("waited", span(job.delay_ms / 1000)),
        ]
        if job.execution_ms:
            facts.append(("ran", span(job.execution_ms / 1000)))
        if job.worker_id:
            facts.append(("worker", job.worker_id))
        if job.retried:
            facts.append(("retries", job.retried))
        if job.low_priority:
            facts.append(("priority", "low: it starts no worker"))
        if d.webhook:
            facts.append(("webhook", f"{d.webhook} ({d.webhook_state or 'when it ends'})"))
        facts.append(("input", shortened(d.input)))
        if d.output is not None:
            facts.append(("output", shortened(d.output)))
        if job.error:
            facts.append(("error", told(job.error)))
        return facts

    def _timeline(self) -> list[tuple[str, str, str]]:
        first = self.detail.job.created_us
        return [(clock(m.at_us), "+" + span((m.at_us - first) / 1e6), short(told(m.text), 200))
                for m in self.detail.timeline]  # fmt: skip

    def text(self) -> str:
        job = self.detail.job
        parts = [f"{MARKS.get(job.state, '·')} job {job.id} is {job.state}",
                 text_facts(self._facts()),
                 text_table(("when", "after", "what"), self._timeline())]  # fmt: skip
        if self.detail.log:
            parts += ["log:", *(f"  {line}" for line in self.detail.log[-LOG_LINES:])]
        return "\n".join(parts)

    def html(self) -> str:
        job = self.detail.job
        said = f"{mark_html(job.state)} job <b>{escape(job.id)}</b> is {escape(job.state)}"
        parts = [html_line(Markup(said)), html_facts(self._facts()),
                 html_table(("when", "after", "what"), self._timeline())]  # fmt: skip
        if self.detail.log:
            parts += [html_line("log:", faint=True),
                      html_pre("\n".join(self.detail.log[-LOG_LINES:]))]  # fmt: skip
        return "".join(parts)

    @property
    def df(self) -> pandas.DataFrame:
        """Its timeline."""
        return frame([m.model_dump() for m in self.detail.timeline], ("at_us", "what", "text"))

    def to_dict(self) -> dict[str, Any]:
        return self.detail.wire()


class JobWhy(Rich):
    """What a job waits for, or how it ended; under it why its endpoint is as it is."""

    def __init__(self, detail: JobDetail, endpoint: Why | None) -> None:
        self.detail = detail
        self.endpoint = None if endpoint is None else WhyView(endpoint)

    def headline(self) -> str:
        job = self.detail.job
        last = self.detail.timeline[-1]
        match job.state:
            case "IN_QUEUE":
                low = ", with low priority: it starts no worker" if job.low_priority else ""
                again = f" It was {last.text}." if len(self.detail.timeline) > 1 else ""
                return f"job {job.id} waits for a worker since {span(job.delay_ms / 1000)}{low}.{again}"
            case "IN_PROGRESS":
                return (
                    f"job {job.id} runs on {job.worker_id} since {span(job.execution_ms / 1000)}."
                )
        return f"job {job.id} is {job.state}: {short(told(last.text), 400)}"

    def text(self) -> str:
        return self.headline() + (f"\n{self.endpoint.text()}" if self.endpoint else "")

    def html(self) -> str:
        return html_line(self.headline()) + (self.endpoint.html() if self.endpoint else "")

    def to_dict(self) -> dict[str, Any]:
        why = self.endpoint.to_dict() if self.endpoint else None
        return {"job": self.detail.wire(), "endpoint": why}


class Purged(Rich):
    """What `cancel ENDPOINT --queued` did."""

    def __init__(self, endpoint: str, removed: int, running: int) -> None:
        self.endpoint = endpoint
        self.removed = removed
        self.running = running

    def text(self) -> str:
        said = f"{plural(self.removed, 'queued job')} of {self.endpoint} " + (
            "is cancelled." if self.removed == 1 else "are cancelled."
        )
        if self.running:
            said += f" {plural(self.running, 'running job')} go{'es' * (self.running == 1)} on."
        return said

    def html(self) -> str:
        return html_line(self.text())

    def to_dict(self) -> dict[str, Any]:
        return {"endpoint": self.endpoint, "removed": self.removed, "running": self.running}


def clock(at_us: int) -> str:
    """The time of day here; with the date where that is not today."""
    at = datetime.fromtimestamp(at_us / 1e6)
    return f"{at:%H:%M:%S}" if at.date() == datetime.now().date() else f"{at:%Y-%m-%d %H:%M:%S}"


def short(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def shortened(value: Any) -> str:
    """JSON in one line, cut at SHOWN characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    more = len(text) - SHOWN
    return text if more <= 0 else f"{text[:SHOWN]} … ({more:,} more characters)"
