"""How results show themselves."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

MARKS = {
    "preparing": "◐", "stopping": "◐", "unreachable": "!",
    "ready": "●", "busy": "●", "idle": "●", "running": "●", "starting": "◐", "fetching": "◐",
    "initializing": "◐", "draining": "◐", "failed": "✕", "unhealthy": "✕", "throttled": "!",
    "asleep": "○", "parked": "○", "stopped": "–",
    "COMPLETED": "●", "IN_PROGRESS": "◐", "IN_QUEUE": "○", "FAILED": "✕", "TIMED_OUT": "✕", "CANCELLED": "–",
}  # fmt: skip
# Okabe and Ito's green, orange and vermilion: told apart by colour-blind eyes, read on white and on black
COLOURS = {"●": "#009E73", "◐": "#E69F00", "✕": "#D55E00", "!": "#D55E00"}
STYLE = "background:none;color:inherit;font-size:inherit"


class Rich(ABC):
    """A result. Subclasses give `text()`, `html()` and `to_dict()`."""

    @abstractmethod
    def text(self) -> str: ...

    @abstractmethod
    def html(self) -> str: ...

    @abstractmethod
    def to_dict(self) -> dict[str, Any]: ...

    def json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(list(rows), columns=list(columns))


def state_text(state: str) -> str:
    return f"{MARKS.get(state, '·')} {state}"


def mark_html(state: str) -> str:
    mark = MARKS.get(state, "·")
    colour = f' style="color:{COLOURS[mark]}"' if mark in COLOURS else ""
    return f'<span{colour} aria-hidden="true">{mark}</span>'


def state_html(state: str) -> str:
    return f"{mark_html(state)} {escape(state)}"


class Markup(str):
    """HTML that is escaped already."""

    __slots__ = ()


def cell(value: object) -> str:
    return str(value) if isinstance(value, Markup) else escape(str(value))


def html_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    align = 'style="text-align:left;vertical-align:top"'
    head = "".join(f"<th {align}>{escape(h)}</th>" for h in heads)
    body = "".join(
        "<tr>" + "".join(f"<td {align}>{cell(v)}</td>" for v in row) + "</tr>" for row in rows
    )
    return f'<table style="{STYLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def html_facts(facts: Iterable[tuple[str, object]]) -> str:
    rows = "".join(
        f'<tr style="background:none"><td style="text-align:left;opacity:.75">{escape(k)}</td>'
        f'<td style="text-align:left">{cell(v)}</td></tr>'
        for k, v in facts
    )
    return f'<table style="{STYLE}"><tbody>{rows}</tbody></table>'


def html_line(text: object, *, faint: bool = False) -> str:
    return f'<div style="{STYLE}{";opacity:.75" if faint else ""}">{cell(text)}</div>'


def html_pre(text: str) -> str:
    return f'<pre style="{STYLE};white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;margin:0">{escape(text)}</pre>'


def text_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [[str(v) for v in heads], *[[str(v) for v in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(f"{v:{w}}" for v, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def text_facts(facts: Iterable[tuple[str, object]]) -> str:
    pairs = list(facts)
    width = max(len(k) for k, _ in pairs)
    return "\n".join(f"  {k:{width}}  {v}" for k, v in pairs)
