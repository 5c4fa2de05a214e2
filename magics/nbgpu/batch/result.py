"""What a map came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbgpu import submission
from nbgpu.batch.costs import total
from nbgpu.batch.journal import Entry
from nbgpu.batch.rows import Row, Table
from nbgpu.formats import dollars, plural
from nbgpu.results.jobs import short, shortened
from nbgpu.results.shape import Rich, html_line, html_table, text_table

if TYPE_CHECKING:
    import pandas

ADDED = ("output", "status", "error", "delay_ms", "execution_ms", "cost", "job")
SHOWN = 8  # rows


class MapResult(Rich):
    """Iterate for the outputs, in the order of the values; `.df` has them beside the values.

    `.cost` is dollars, a Decimal: the jobs' part of the workers' time. `.failed` is the part of `.df` that
    has no output because its job failed. `.path` is the file that was written, `.journal` where the rows
    are kept.
    """

    def __init__(
        self, endpoint: str, table: Table, rows: Sequence[Row], entries: Mapping[int, Entry],
        *, path: Path | None, journal: Path, expand: bool = False,
    ) -> None:  # fmt: skip
        self.endpoint = endpoint
        self.path = path
        self.journal = journal
        self._table = table
        self._entries = [entries[row.number] for row in rows]
        self._expand = expand

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Any]:
        return (entry.output for entry in self._entries)

    def __getitem__(self, number: int) -> Any:
        return self._entries[number].output

    @property
    def cost(self) -> Decimal:
        return total(dict(enumerate(self._entries)))

    @cached_property
    def df(self) -> pandas.DataFrame:
        """The values, then `output` as it came, `status` (RunPod's word), `error`, `delay_ms` in the queue,
        `execution_ms`, `cost` in dollars (NaN where it is unknown), `job`. The index is the values' own.

        With `expand`, the keys of outputs that are objects are columns, too; of a model's, `answer`.
        A name that the values have already is written with `job_` before it.
        """
        import pandas

        found = self._table.frame()
        columns: dict[str, list[Any]] = {
            "output": [e.output for e in self._entries],
            "status": [e.end for e in self._entries],
            "error": [e.error if e.error is None else submission.told(e.error) for e in self._entries],
            "delay_ms": [e.delay_ms for e in self._entries],
            "execution_ms": [e.execution_ms for e in self._entries],
            "cost": [None if e.cost is None else float(e.cost) for e in self._entries],
            "job": [e.job for e in self._entries],
        }  # fmt: skip
        if self._expand:
            parts = [parts_of(e.output) for e in self._entries]
            for name in dict.fromkeys(key for part in parts for key in part):
                columns.setdefault(name if name not in ADDED else f"output_{name}",
                                   [part.get(name) for part in parts])  # fmt: skip
        for name, values in columns.items():
            kind = {"cost": "float64", "delay_ms": "Int64", "execution_ms": "Int64"}.get(name)
            dtype: Any = kind or (object if name in ADDED else None)
            key = f"job_{name}" if name in self._table.columns else name
            found[key] = pandas.Series(values, index=found.index, dtype=dtype)
        return found

    @property
    def failed(self) -> pandas.DataFrame:
        bad = [entry.end != submission.COMPLETED for entry in self._entries]
        return self.df[bad]

    def headline(self) -> str:
        bad = sum(entry.end != submission.COMPLETED for entry in self._entries)
        parts = [plural(len(self), "row") + f" by {self.endpoint}",
                 f"{bad:,} failed" if bad else "", dollars(self.cost),
                 f"written to {self.path}" if self.path else ""]  # fmt: skip
        return " · ".join(part for part in parts if part)

    def _rows(self) -> list[tuple[str, str, str, str]]:
        found = []
        for number, entry in enumerate(self._entries[:SHOWN]):
            told = entry.error and submission.told(entry.error)
            said = told if entry.output is None and told else shortened(entry.output)
            value = shortened(_value(self._table.records[number]))
            found.append((str(number), short(value, 60), entry.end or "", short(str(said), 100)))
        return found

    def _more(self) -> str:
        more = len(self) - SHOWN
        return f"… and {plural(more, 'row')} more: see .df" if more > 0 else ""

    def text(self) -> str:
        parts = [self.headline()]
        if len(self):
            parts.append(text_table(("row", "value", "status", "output"), self._rows()))
        return "\n".join([*parts, *([self._more()] if self._more() else [])])

    def html(self) -> str:
        found = html_line(self.headline())
        if len(self):
            found += html_table(("row", "value", "status", "output"), self._rows())
        return found + (html_line(self._more(), faint=True) if self._more() else "")

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {"output": e.output, "status": e.end, "error": e.error, "delay_ms": e.delay_ms,
             "execution_ms": e.execution_ms, "cost": e.cost, "job": e.job}
            for e in self._entries
        ]  # fmt: skip
        return {"endpoint": self.endpoint, "cost": str(self.cost), "rows": rows}


def _value(record: Any) -> Any:
    if isinstance(record, Mapping) and len(record) == 1:
        return next(iter(record.values()))
    return record


def parts_of(output: Any) -> dict[str, Any]:
    """The columns that an output has in it: an object's keys, or the `answer` of a model."""
    if isinstance(output, list) and len(output) == 1 and isinstance(output[0], Mapping):
        answer = output[0]  # what a vLLM worker returns
        choices = answer.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
            message = choices[0].get("message")
            said = (
                message.get("content") if isinstance(message, Mapping) else choices[0].get("text")
            )
            usage = answer.get("usage") or {}
            return {"answer": said, "tokens_out": usage.get("completion_tokens")}
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    return {}
