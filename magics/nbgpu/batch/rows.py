"""From a list, Series or DataFrame to the inputs of jobs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbgpu import errors
from nbgpu.batch import template as templates

if TYPE_CHECKING:
    import pandas

TEXT = "text"


@dataclass(frozen=True, slots=True)
class Form:
    """How a text becomes an input. `engine`: the endpoint's, by name.

    A handler is given `{"prompt": text}`. Any other engine speaks OpenAI's API: it is given a message of a
    chat, or with `raw` the text to be continued.
    """

    engine: str
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    raw: bool = False

    def check(self, template: Any, *, texts: bool) -> None:
        """`texts`: each input is made of a text. Raises UsageProblem for options without effect."""
        given = [
            name for name in ("system", "max_tokens", "temperature", "raw")
            if getattr(self, name) not in (None, False)
        ]  # fmt: skip
        if given and (self.engine == "handler" or not texts):
            why = (
                "its handler takes them in its input"
                if self.engine == "handler"
                else "the template says the whole input"
            )
            raise errors.UsageProblem(
                f"{' and '.join(given)} cannot be given here: {why}.", "Put it into the template."
            )
        if self.raw and self.system is not None:
            raise errors.UsageProblem("raw has no system message.", "Put it into the text.")

    def of_text(self, text: str) -> dict[str, Any]:
        if self.engine == "handler":
            return {"prompt": text}
        limits = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        found: dict[str, Any] = {}
        if self.raw:
            found["prompt"] = text
        else:
            before = [{"role": "system", "content": self.system}] if self.system else []
            found["messages"] = [*before, {"role": "user", "content": text}]
        if given := {name: value for name, value in limits.items() if value is not None}:
            found["sampling_params"] = given
        return found


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `key` tells inputs apart; `error`: why it has no input."""

    number: int
    input: Any
    key: str
    error: str | None = None


class Table:
    """The values as they were given: a frame of their columns can be made of them."""

    def __init__(self, values: Any) -> None:
        """Raises UsageProblem for what cannot be meant as rows."""
        pandas = sys.modules.get("pandas")  # who has a frame has imported it
        self.index: Any = None
        self.records: Sequence[Any]
        self.columns: list[str] = [TEXT]
        self._frame: Any = None
        if pandas is not None and isinstance(values, pandas.DataFrame):
            double = [str(c) for c in values.columns[values.columns.duplicated()]]
            if double:
                raise errors.UsageProblem(
                    f"The frame has two columns {double[0]}.", "Rename one of them."
                )
            self._frame = values
            self.index = values.index
            self.columns = [str(name) for name in values.columns]
            columns = [values[name].tolist() for name in values.columns]
            self.records = [
                dict(zip(self.columns, cells, strict=True)) for cells in zip(*columns, strict=True)
            ]
        elif pandas is not None and isinstance(values, pandas.Series):
            self.index = values.index
            self.columns = [TEXT if values.name is None else str(values.name)]
            self.records = values.tolist()
        elif isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            kind = "one text" if isinstance(values, str) else f"a {type(values).__name__}"
            raise errors.UsageProblem(
                f"map takes many values, and this is {kind}.",
                "Give it a list, a Series or a DataFrame; for one value there is run().",
            )
        else:
            self.records = list(values)
        self.is_frame = self._frame is not None

    def __len__(self) -> int:
        return len(self.records)

    def values(self, record: Any) -> Mapping[str, Any]:
        """The names that a template may use, with their values for one record."""
        if self.is_frame:
            found: Mapping[str, Any] = record
            return found
        own = (
            {str(key): part for key, part in record.items()} if isinstance(record, Mapping) else {}
        )
        return {TEXT: record, self.columns[0]: record, **own}

    def frame(self) -> pandas.DataFrame:
        """The columns as they were given, or one column of the values."""
        import pandas

        if self._frame is not None:
            found: pandas.DataFrame = self._frame.copy()
            found.columns = pandas.Index(self.columns)
            return found
        if self.records and all(isinstance(r, Mapping) for r in self.records):
            return pandas.DataFrame([dict(r) for r in self.records], index=self.index)
        scalars = all(isinstance(r, str | int | float) for r in self.records)
        dtype: Any = None if scalars and self.records else object
        column = pandas.Series(list(self.records), index=self.index, dtype=dtype)
        return pandas.DataFrame({self.columns[0]: column})


def rows(table: Table, template: Any, form: Form) -> list[Row]:
    """Raises UsageProblem for a name that no column has, and for a value without a form in JSON."""
    text = isinstance(template, str) or (
        template is None and not table.is_frame and not any(_own(r, form) for r in table.records)
    )
    form.check(template, texts=text)
    if template is None and table.is_frame and form.engine != "handler":
        raise errors.UsageProblem(
            "A row of a frame is no question.",
            f'Say what to ask with a template, as in: map(df, "{{{{{(table.columns or [TEXT])[0]}}}}}")',
        )
    if template is not None:
        _check_names(table, template)
    return [_row(n, record, table, template, form) for n, record in enumerate(table.records)]


def _own(record: Any, form: Form) -> bool:
    """Is the value an input as it stands?"""
    return isinstance(record, Mapping)


def _check_names(table: Table, template: Any) -> None:
    asked = list(dict.fromkeys(templates.names(template)))
    if not asked:
        raise errors.UsageProblem(
            "The template has no {{…}}: every row would be the same.",
            f"Name a column in it: {', '.join('{{' + c + '}}' for c in table.columns[:5])}",
        )
    known = table.columns if table.is_frame else sorted(
        {name for record in table.records[:1] for name in table.values(record)} | {TEXT}
    )  # fmt: skip
    for name in asked:
        if name not in known and (table.is_frame or len(table.records)):
            what = "column" if table.is_frame else "value"
            raise errors.UsageProblem(
                f"There is no {what} {name}.{errors.closest(name, known)}",
                f"The template may use: {', '.join('{{' + c + '}}' for c in known[:20])}",
            )


def _row(number: int, record: Any, table: Table, template: Any, form: Form) -> Row:
    try:
        made = _input(record, table, template, form)
        return Row(number, made, key_of(made))
    except templates.Absent as error:
        return Row(number, None, "absent", str(error))
    except KeyError as error:  # values that are dicts need not be alike
        return Row(number, None, "absent", f"{error.args[0]} is missing in this row.")
    except TypeError as error:
        raise errors.UsageProblem(
            f"Row {number} cannot be sent: {error}.", "Convert it first, to text or numbers."
        ) from None


def _input(record: Any, table: Table, template: Any, form: Form) -> Any:
    values = table.values(record)
    if template is None:
        if isinstance(record, Mapping):
            return templates.plain(record)
        if form.engine == "handler":
            return {"prompt": templates.plain(record)}
        return form.of_text(templates.text(TEXT, record))
    if isinstance(template, str):
        filled = templates.fill(template, values)
        if form.engine == "handler":
            return {"prompt": filled}
        return form.of_text(templates.text("the text", filled))
    return templates.fill(template, values)


def key_of(value: Any) -> str:
    """Of equal inputs it is equal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
