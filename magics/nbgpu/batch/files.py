"""A map's frame as a file: .parquet, .csv or .jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbgpu import errors

if TYPE_CHECKING:
    import pandas

SCALARS = (str, int, float, bool, type(None))


def check(path: Path) -> None:
    """Before anything is spent: can it be written there, and in that form? Raises OneLine."""
    if path.suffix not in WRITERS:
        raise errors.UsageProblem(
            f"{path.name} is no kind of file that map writes.", "There are: .parquet, .csv, .jsonl."
        )
    if not path.parent.is_dir():
        raise errors.UsageProblem(f"There is no folder {path.parent}.", "Make it first.")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise errors.Missing(
                "The package pyarrow, which writes .parquet, is not installed.",
                "Install it with: %pip install pyarrow, or name a .csv or .jsonl.",
            ) from None


def write(frame: pandas.DataFrame, path: Path) -> None:
    """Whole or not at all. Raises OneLine."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        WRITERS[path.suffix](frame, partial)
        partial.replace(path)
    except OSError as error:
        raise errors.OneLine(
            f"{path} cannot be written: {error.strerror}.",
            "Free some space, then run this again: the rows are kept.", code="disk",
        ) from None  # fmt: skip
    finally:
        partial.unlink(missing_ok=True)


def _parquet(frame: pandas.DataFrame, path: Path) -> None:
    flat(frame).to_parquet(path, engine="pyarrow")


def _csv(frame: pandas.DataFrame, path: Path) -> None:
    flat(frame).to_csv(path, index=not _counted(frame))


def _jsonl(frame: pandas.DataFrame, path: Path) -> None:
    frame.to_json(path, orient="records", lines=True, force_ascii=False, date_format="iso")


def _counted(frame: pandas.DataFrame) -> bool:
    """Is its index nothing but the rows' numbers?"""
    import pandas

    return isinstance(frame.index, pandas.RangeIndex)


def flat(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Columns of one type each: a column that holds objects, or several types, becomes JSON text."""
    found = frame.copy()
    for name in found.columns:
        if found[name].dtype != object:
            continue
        values = [None if _missing(v) else v for v in found[name]]
        kinds = {type(v) for v in values} - {type(None)}
        if len(kinds) > 1 or not all(kind in SCALARS for kind in kinds):
            values = [None if v is None else _json(v) for v in values]
        found[name] = _column(values, found)
    return found


def _column(values: list[Any], frame: pandas.DataFrame) -> Any:
    import pandas

    return pandas.Series(values, index=frame.index, dtype=object)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    ".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl
}  # fmt: skip
