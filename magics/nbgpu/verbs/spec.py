"""What is known about a verb without importing it: the contents of verbs.json (stdlib only)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).parent.parent / "verbs.json"
FACES = ("magic", "cli", "sdk")


@dataclass(frozen=True, slots=True)
class Arg:
    """Annotation of a parameter. `complete` says what a Tab offers: `endpoint`, `pod`, `model`, `engine`, `verb`."""

    help: str
    metavar: str = ""
    complete: str = ""
    short: str = ""
    kind: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument. `kind`: text, int, float, flag, duration, fine, list, words, map, cell, script, pairs, rest."""

    name: str
    flags: tuple[str, ...]  # empty: positional
    kind: str
    required: bool
    default: Any
    metavar: str
    help: str
    complete: str
    choices: tuple[str, ...]

    @property
    def takes_value(self) -> bool:
        return self.kind != "flag"


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb. `cell`: `never`, `required` or `optional` (a magic takes an argument from the cell)."""

    name: str
    summary: str
    text: str
    examples: tuple[str, ...]
    faces: tuple[str, ...]
    cell: str
    local: bool
    overview: int  # place in the overview, 0: not there
    where: str  # module:function
    arguments: tuple[Argument, ...]

    @property
    def options(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.flags)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if not a.flags and a.kind != "rest")

    @property
    def rest(self) -> Argument | None:
        return next((a for a in self.arguments if a.kind == "rest"), None)

    def load(self) -> Callable[..., Any]:
        """The function itself."""
        from importlib import import_module

        module, _, name = self.where.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function

    def dump(self) -> dict[str, Any]:
        return asdict(self)


def read(data: list[dict[str, Any]]) -> dict[str, Verb]:
    """Verbs by name, from the contents of verbs.json."""
    found = {}
    for entry in data:
        arguments = tuple(_tupled(Argument, a) for a in entry["arguments"])
        found[entry["name"]] = _tupled(Verb, {**entry, "arguments": arguments})
    return found


def _tupled(kind: Any, values: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    return kind(**{k: tuple(v) if isinstance(v, list) and k != "default" else v
                   for k, v in values.items() if k in known})  # fmt: skip


@cache
def verbs() -> dict[str, Verb]:
    return read(json.loads(PATH.read_text()))


def of_face(face: str) -> dict[str, Verb]:
    return {name: verb for name, verb in verbs().items() if face in verb.faces}
