"""What an engine asks of a provider, so that its workers need not import it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PARENT = Path(__file__).parents[1] / "parent.py"  # what runs there


@dataclass(frozen=True, slots=True)
class ParentSpec:
    """A pre-imported parent: a process that has imported an engine once and forks workers of it.

    There is one per `key`, which covers whatever its imports depend on (engine version, environment).
    """

    key: str  # of [a-z0-9-]
    argv: Sequence[str]  # what starts it; the provider adds where it listens and how long it idles
    env: Mapping[str, str]  # its environment, complete
    idle_s: float  # it ends itself when it has forked nothing for so long
