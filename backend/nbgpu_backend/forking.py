"""What an engine tells a provider of its pre-imported parent. parent.py is what runs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PARENT = Path(__file__).with_name("parent.py")


@dataclass(frozen=True, slots=True)
class ParentSpec:
    """A pre-imported parent: a process that has imported an engine once and forks workers of it.

    There is one per `key`, which covers whatever its imports depend on (engine version, environment).
    """

    key: str  # of [a-z0-9-]
    argv: Sequence[str]  # python, parent.py and the module; the provider adds --dir and --idle
    env: Mapping[str, str]  # its environment, complete
    idle_s: float  # it ends itself when it has forked nothing for so long
