"""What a worker needs on the host where it starts, and what its engine finds there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# of a machine's environment, what engines keep; all else stays with it
KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "OPENBLAS_CORETYPE")


@dataclass(frozen=True, slots=True)
class Need:
    """What has to be on a host before a worker starts there: its engine, and its weights or its code.

    `source` hub: `repo` at `commit`, fetched there. directory: the files of `folder`, copied. handler: the
    code in `folder`, copied (`commit` is its revision), and an environment of `requirements`. command: `folder` is where its program
    starts, copied, or None. `name` is the handler's file.
    """

    engine: str
    version: str = ""
    source: Literal["hub", "directory", "handler", "command"] = "command"
    repo: str = ""
    commit: str = ""
    folder: Path | None = None
    name: str = ""
    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Supplying:
    """`text` says what is done just now; bytes where they are what one waits for, else 0."""

    text: str
    bytes_done: int = 0
    bytes_total: int = 0


@dataclass(frozen=True, slots=True)
class Weights:
    """As files: how large, and in which format (`bfloat16` …; "" where config.json does not say)."""

    bytes: int
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Premises:
    """What an engine finds on the host where its worker starts. Every path is one of that host."""

    environment: str  # the folder of its own; "" where it has none
    python: str  # one that runs our programs, such as relay.py
    code: str  # the folder with our programs
    home: str  # below it lie caches
    hub: str  # HF_HOME
    model: str | None = None  # a directory with weights, or a handler's file
    cwd: str | None = None  # where it starts; None: in the instance's own folder
    weights: Weights | None = None
    flags: frozenset[str] = frozenset()  # of its processor, as in /proc/cpuinfo
    cores: int = 1
    has_gpu: bool = False
    env: Mapping[str, str] = field(default_factory=dict)  # what of its environment engines keep
