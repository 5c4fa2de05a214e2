"""Why something is as it is, and what it wrote: WhyView, LogView, Deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbgpu.formats import dollars, span
from nbgpu.results.shape import Rich, frame, html_facts, html_line, html_pre, text_facts

if TYPE_CHECKING:
    import pandas
    from nbgpu_backend.schema.summary import LogLines, Why


ENDED = ("answered", "failed")  # of a request
WHOLE = ("endpoint", "pod")  # the others are parts of one


class WhyView(Rich):
    """Of a pod, an endpoint, a worker or a request, in the words of the backend. `.df` is the history, newest first."""

    def __init__(self, why: Why) -> None:
        self.why = why

    def _facts(self) -> list[tuple[str, object]]:
        w = self.why
        facts: list[tuple[str, object]] = []
        if w.subject not in WHOLE:
            facts.append(("endpoint", w.endpoint))
        if self._over:
            facts += [("took", span(w.seconds)), ("cost", dollars(w.cost_so_far))]
        else:
            facts += [
                ("since", f"{span(w.seconds)} ago"),
                ("cost", f"{dollars(w.cost_so_far)} so far"),
            ]
        if w.typical:
            facts.append(("typical", w.typical))
        if w.phases:
            facts.append(("phases", ", ".join(f"{p.name} {span(p.seconds)}" for p in w.phases)))
        if w.next_step:
            facts.append(("next", w.next_step))
        return facts

    @property
    def _over(self) -> bool:
        return self.why.subject == "request" and self.why.state in ENDED

    def _label(self) -> str:
        return "how:" if self._over else "now:"

    def headline(self) -> str:
        w = self.why
        what = w.name if w.subject in WHOLE else f"{w.subject} {w.name}"
        return f"{what} is {w.state}: {w.reason.text}"

    def text(self) -> str:
        parts = [self.headline(), text_facts(self._facts())]
        if self.why.facts:
            parts += [self._label(), *(f"  {line}" for line in self.why.facts)]
        if self.why.history:
            parts += ["before:", *(f"  {line}" for line in self.why.history)]
        if self.why.tail:
            parts += ["last log lines:", *(f"  {line}" for line in self.why.tail)]
        return "\n".join(parts)

    def html(self) -> str:
        parts = [html_line(self.headline()), html_facts(self._facts())]
        if self.why.facts:
            parts += [html_line(self._label(), faint=True), html_pre("\n".join(self.why.facts))]
        if self.why.history:
            parts += [html_line("before:", faint=True), html_pre("\n".join(self.why.history))]
        if self.why.tail:
            parts += [html_line("last log lines:", faint=True), html_pre("\n".join(self.why.tail))]
        return "".join(parts)

    @property
    def df(self) -> pandas.DataFrame:
        return frame([{"what": line} for line in self.why.history], ("what",))

    def to_dict(self) -> dict[str, Any]:
        return self.why.wire()


class LogView(Rich):
    """`.lines` are the lines; `.df` has them as a column."""

    def __init__(self, log: LogLines, endpoint: str, *, shown: bool = False) -> None:
        self.log = log
        self.shown = shown and bool(log.lines)  # they were printed as they came
        self.endpoint = endpoint

    @property
    def lines(self) -> list[str]:
        return self.log.lines

    def text(self) -> str:
        if self.log.worker is None:
            if self.lines:
                return "\n".join(self.lines)
            return f"{self.endpoint} has had no worker yet. The first request starts one."
        return "\n".join(self.lines) or f"{self.log.worker} has written nothing yet."

    def html(self) -> str:
        if not self.lines:
            return html_line(self.text())
        head = f"{self.log.worker or self.endpoint}, last {len(self.lines)} lines"
        body = html_pre("\n".join(self.lines))
        return (
            html_line(head, faint=True) + f'<div style="max-height:30em;overflow:auto">{body}</div>'
        )

    @property
    def df(self) -> pandas.DataFrame:
        return frame([{"line": line} for line in self.lines], ("line",))

    def to_dict(self) -> dict[str, Any]:
        return self.log.wire()


class Deleted(Rich):
    """`note` says what stays."""

    def __init__(self, endpoint: str, note: str = "") -> None:
        self.endpoint = endpoint
        self.note = note

    def text(self) -> str:
        return f"{self.endpoint} is deleted. {self.note}".strip()

    def html(self) -> str:
        return html_line(self.text())

    def to_dict(self) -> dict[str, Any]:
        return {"deleted": self.endpoint}
