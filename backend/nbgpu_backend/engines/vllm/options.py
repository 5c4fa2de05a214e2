"""vLLM's options, checked before anything starts. Pure, apart from `Table.read`.

The table comes from vLLM's own parser (options.json, written by the installer), so that a new
version brings its own options. Accepted is what `vllm serve` accepts: `--flag value`,
`--flag=value`, `--no-flag`, underscores for dashes, `-tp 2`, `-O3`, and parts of JSON options such
as `--compilation-config.mode 0`. Abbreviations are refused: they break when vLLM adds an option.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nbgpu_backend.errors import BadOption

# What nbgpu passes itself, or what would lead past it: flag -> what to do instead.
OURS = {
    "--host": "Workers listen on 127.0.0.1; requests go through the endpoint's own address.",
    "--port": "nbgpu picks a free port for each worker.",
    "--uds": "nbgpu reaches its workers over a port of their own.",
    "--api-key": "nbgpu gives each worker a random key; the endpoint has keys of its own.",
    "--served-model-name": "The endpoint's name is the model's name; choose it with --name.",
    "--model": "The model is the first word after deploy.",
    "--revision": "Write the revision behind the model: org/name@revision.",
    "--hf-token": "A command line is no place for a secret: set HF_TOKEN where the backend starts.",
    "--config": "Write the options themselves after --.",
    "--headless": "A worker must answer requests.",
    "--grpc": "nbgpu speaks HTTP to its workers.",
    "--grpc-port": "nbgpu speaks HTTP to its workers.",
    "--root-path": "nbgpu reaches its workers at their root.",
    "--ssl-keyfile": "Workers listen on 127.0.0.1 without TLS.",
    "--ssl-certfile": "Workers listen on 127.0.0.1 without TLS.",
    "--help": "`vllm serve --help=all` in the engine environment lists them.",
    "-h": "`vllm serve --help=all` in the engine environment lists them.",
}
SIZE = re.compile(r"-?\d+|\d+(?:\.\d+)?[kmgt]|\d+[KMGT]")
# vLLM reads 1k or 80g inside of JSON as numbers
JSON_SIZE = re.compile(r"(?<=[:\[,\s])\d+(?:\.\d+)?[kKmMgGtT](?=[,\]}\s])")
NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")
POWERS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Option:
    flags: tuple[str, ...]
    arity: Literal["none", "one", "optional", "many"]
    kind: Literal["str", "int", "float", "size", "size_or_auto", "json"]
    nullable: bool = False  # "None" and "" mean: not set
    choices: tuple[str, ...] | None = None
    help: str = ""

    @property
    def name(self) -> str:
        return self.flags[0]


@dataclass(frozen=True, slots=True)
class Table:
    version: str
    options: tuple[Option, ...]
    by_flag: Mapping[str, Option] = field(repr=False)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Table:
        """From the content of options.json."""
        options = tuple(
            Option(
                tuple(one["flags"]),
                one["arity"],
                one["kind"],
                bool(one.get("nullable")),
                tuple(one["choices"]) if one.get("choices") else None,
                one.get("help", ""),
            )
            for one in found["options"]
        )
        by_flag = {flag: option for option in options for flag in option.flags}
        return cls(str(found["version"]).partition("+")[0], options, by_flag)

    @classmethod
    def read(cls, path: Path) -> Table:
        return cls.of(json.loads(path.read_text()))


def check(options: Sequence[str], table: Table) -> None:
    """Raise BadOption for the first thing that vLLM would refuse, or that nbgpu sets itself."""
    position = 0
    while position < len(options):
        word = options[position]
        position += 1
        if not _is_flag(word):
            raise BadOption(
                f"{word!r} belongs to no option.",
                "Options begin with --; a value with spaces goes in quotes.",
            )
        flag, sign, inline = _split(word)
        if flag.startswith("-O"):  # -O3, -O=3, -O 3
            flag, sign, inline = _optimization(flag, sign, inline)
        base, dot, _ = flag.partition(".")
        option = _known(base, table)
        if dot:
            if option.kind != "json":
                raise BadOption(
                    f"{base} takes no parts: {flag!r} means nothing to vLLM.",
                    f"Write {base} and its value.",
                )
            position += _take_part(flag, sign, options[position:])
        elif option.arity == "none":
            if sign:
                raise BadOption(
                    f"{base} is a switch and takes no value.", _switch_help(option, inline)
                )
        elif sign:
            _check_value(option, inline)
        else:
            position += _take(option, base, options[position:])


def value(options: Sequence[str], flag: str) -> str | None:
    """The last value of `flag` in options that have been checked; "" for a switch; None if absent."""
    found = None
    for position, word in enumerate(options):
        name, sign, inline = _split(word)
        if name == flag:
            after = options[position + 1 : position + 2]
            found = inline if sign else (after[0] if after and not _is_flag(after[0]) else "")
    return found


def given(options: Sequence[str], *flags: str) -> bool:
    """Whether one of `flags` (or its --no- form) is among the options."""
    names = {_split(word)[0] for word in options}
    return any(flag in names or f"--no-{flag[2:]}" in names for flag in flags)


def size(text: str) -> int:
    """Bytes of vLLM's human-readable numbers: k, m, g, t count in thousands, K, M, G, T in 1,024."""
    text = text.strip()
    if not SIZE.fullmatch(text):
        raise ValueError(f"{text!r} is no number such as 2048, 256M or 1.5g")
    if text[-1] in POWERS:
        return int(float(text[:-1]) * POWERS[text[-1]])
    return int(text)


def _split(word: str) -> tuple[str, str, str]:
    """flag (dashes for underscores up to the first dot), "=" or "", value."""
    flag, sign, inline = word.partition("=")
    if flag.startswith("--"):
        head, dot, parts = flag.partition(".")
        flag = head.replace("_", "-") + dot + parts
    return flag, sign, inline


def _is_flag(word: str) -> bool:
    return (
        len(word) > 1
        and word.startswith("-")
        and not NEGATIVE.fullmatch(word)
        and " " not in word.partition("=")[0]
    )


def _optimization(flag: str, sign: str, inline: str) -> tuple[str, str, str]:
    if flag == "-O":
        return "--optimization-level", sign, inline
    return "--optimization-level", "=", flag[2:]


def _known(flag: str, table: Table) -> Option:
    if then := OURS.get(flag):
        raise BadOption(f"nbgpu sets {flag} itself.", then, option=flag)
    if option := table.by_flag.get(flag):
        return option
    near = [known for known in table.by_flag if known.startswith(flag)][:1] if len(flag) > 4 else []
    near = near or difflib.get_close_matches(flag, table.by_flag, n=1, cutoff=0.6)
    hint = "`vllm serve --help=all` in the engine environment lists them."
    if near:
        about = table.by_flag[near[0]].help
        hint = f"Did you mean {near[0]}?" + (f" ({about.rstrip('.')}.)" if about else "")
    raise BadOption(f"vLLM {table.version} has no option {flag}.", hint, option=flag)


def _take(option: Option, flag: str, rest: Sequence[str]) -> int:
    """Check the values that follow `flag`; returns how many words they are."""
    values: list[str] = []
    for word in rest:
        if _is_flag(word) or (values and option.arity != "many"):
            break
        values.append(word)
    if not values and option.arity != "optional":
        raise BadOption(f"{flag} needs a value.", _value_help(option), option=flag)
    for word in values:
        if NEGATIVE.fullmatch(word) and "." in word:
            # vLLM would read it as a part of a JSON option
            raise BadOption(f"vLLM misreads {flag} {word}.", f"Write {flag}={word}.", option=flag)
        _check_value(option, word)
    return len(values)


def _take_part(flag: str, sign: str, rest: Sequence[str]) -> int:
    if sign:
        return 0
    if not rest or _is_flag(rest[0]):
        raise BadOption(f"{flag} needs a value.", f"Write {flag}=VALUE.", option=flag)
    return 1


def _check_value(option: Option, text: str) -> None:
    if option.nullable and text in ("", "None"):
        return
    try:
        _convert(option.kind, text)
    except ValueError:
        raise BadOption(
            f"{option.name} cannot be {text!r}.", _value_help(option), option=option.name
        ) from None
    if option.choices and not {text, text.lower().replace("-", "_")} & set(option.choices):
        near = difflib.get_close_matches(text, option.choices, n=1)
        raise BadOption(
            f"{option.name} cannot be {text!r}.",
            (f"Did you mean {near[0]}? " if near else "") + _value_help(option),
            option=option.name,
        )


def _convert(kind: str, text: str) -> None:
    if kind == "int":
        int(text)
    elif kind == "float":
        float(text)
    elif kind == "size" or (kind == "size_or_auto" and text.lower() != "auto"):
        size(text)
    elif kind == "json":
        json.loads(JSON_SIZE.sub("0", text))


def _value_help(option: Option) -> str:
    if option.choices:
        return f"It is one of {', '.join(option.choices)}."
    words = {
        "int": "It takes a whole number.",
        "float": "It takes a number.",
        "size": "It takes a number such as 2048, 256M or 1.5g.",
        "size_or_auto": "It takes a number such as 2048 or 8k, or auto.",
        "json": f"It takes JSON in quotes, or parts such as {option.name}.key value.",
    }.get(option.kind, "")
    return " ".join(part for part in (words, option.help) if part)


def _switch_help(option: Option, inline: str) -> str:
    off = next((flag for flag in option.flags if flag.startswith("--no-")), None)
    if off and inline.lower() in ("false", "0", "no", "off"):
        return f"Write {off}."
    return f"Write {option.name} alone."
