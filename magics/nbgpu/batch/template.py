"""Templates: any JSON structure whose strings contain `{{name}}`. Pure.

A string that is exactly `{{name}}` becomes the value itself, with its type; elsewhere the value is put in
as text. Keys of objects are left as they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

SLOT = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")


class Absent(ValueError):
    """A value that is missing (None, NaN) cannot be put into a text."""


def names(template: Any) -> Iterator[str]:
    """What the template asks for."""
    if isinstance(template, str):
        yield from SLOT.findall(template)
    elif isinstance(template, Mapping):
        for part in template.values():
            yield from names(part)
    elif isinstance(template, list | tuple):
        for part in template:
            yield from names(part)


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with its values. Raises KeyError for a name that there is not, and Absent."""
    if isinstance(template, str):
        whole = SLOT.fullmatch(template)
        if whole is not None:
            return plain(values[whole[1]])
        return SLOT.sub(lambda slot: _text(slot[1], values[slot[1]]), template)
    if isinstance(template, Mapping):
        return {str(key): fill(part, values) for key, part in template.items()}
    if isinstance(template, list | tuple):
        return [fill(part, values) for part in template]
    return plain(template)


def _text(name: str, value: Any) -> str:
    found = plain(value)
    if found is None:
        raise Absent(f"{name} is missing in this row.")
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def text(name: str, value: Any) -> str:
    """The value as text, as a template would put it in. Raises Absent."""
    return _text(name, value)


def plain(value: Any) -> Any:
    """As JSON knows it: numpy's and pandas' scalars as Python's, what is missing as None, instants in ISO
    form. Raises TypeError for what has no JSON."""
    if value is None or isinstance(value, bool | int | str):
        # subclasses (numpy.str_, IntEnum) come out as what they are
        return value if type(value) in (bool, int, str, type(None)) else _base(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        found = value.tolist()
        if found is not value and type(found) is not type(value):
            return plain(found)
    if type(value).__name__ in ("Decimal", "UUID") or hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no form in JSON")


def _base(value: Any) -> Any:
    for kind in (bool, int, str):
        if isinstance(value, kind):
            return kind(value)
    return value
