"""Collects the verbs: signatures to `Verb`s, which the build writes to verbs.json."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from nbgpu.verbs.call import Marks
from nbgpu.verbs.spec import Arg, Argument, Verb

MODULES = (
    "nbgpu.verbs.overview",
    "nbgpu.verbs.pods",
    "nbgpu.verbs.running",
    "nbgpu.verbs.endpoints",
    "nbgpu.verbs.scaling",
    "nbgpu.verbs.asking",
    "nbgpu.verbs.jobs",
    "nbgpu.verbs.keys",
    "nbgpu.verbs.stores",
    "nbgpu.verbs.charting",
    "nbgpu.verbs.hosts",
    "nbgpu.verbs.machine",
)
KINDS = {str: "text", int: "int", float: "float", bool: "flag", list: "list", dict: "map"}


def functions() -> list[Callable[..., Any]]:
    """Every function marked with `@verb`, in the order in which they are written."""
    return [
        value
        for module in MODULES
        for value in vars(import_module(module)).values()
        if hasattr(value, "__nbgpu_verb__") and value.__module__ == module
    ]


def collect() -> list[Verb]:
    return [describe(function) for function in functions()]


def describe(function: Callable[..., Any]) -> Verb:
    """The `Verb` of a function. Raises TypeError for a signature that breaks the rules."""
    marks: Marks = function.__nbgpu_verb__  # type: ignore[attr-defined]
    hints = get_type_hints(function, include_extras=True)
    arguments = tuple(
        _argument(parameter, hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "context"
    )
    summary, _, text = (inspect.getdoc(function) or "").partition("\n")
    return Verb(
        name=marks.name,
        summary=summary.rstrip("."),
        text=text.strip(),
        examples=marks.examples,
        faces=marks.faces,
        cell=_cell(arguments),
        local=marks.local,
        overview=marks.overview,
        where=f"{function.__module__}:{function.__name__}",
        arguments=arguments,
    )


def _cell(arguments: tuple[Argument, ...]) -> str:
    kinds = {a.kind for a in arguments}
    return "required" if "cell" in kinds else "optional" if "script" in kinds else "never"


def _argument(parameter: inspect.Parameter, hint: Any) -> Argument:
    base, *extras = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
    arg = next((extra for extra in extras if isinstance(extra, Arg)), None)
    if arg is None:
        raise TypeError(f"{parameter.name} needs Annotated[…, Arg(…)]")
    kind = arg.kind or KINDS[_plain(base)]
    required = parameter.default is inspect.Parameter.empty
    flags: tuple[str, ...] = ()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY and kind not in ("rest", "pairs"):
        flags = (
            *([arg.short] if arg.short else []),
            "--" + parameter.name.rstrip("_").replace("_", "-"),
        )
    return Argument(
        name=parameter.name,
        flags=flags,
        kind=kind,
        required=required,
        default=None if required else _jsonable(parameter.default),
        metavar="" if kind == "flag" else arg.metavar or parameter.name.upper().replace("_", "-"),
        help=arg.help,
        complete=arg.complete,
        choices=arg.choices,
    )


def _plain(hint: Any) -> Any:
    """`int | None` is int, `list[str]` is list."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(a for a in get_args(hint) if a is not NoneType)
    return get_origin(hint) or hint


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
