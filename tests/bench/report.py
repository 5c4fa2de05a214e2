"""What a bench found: figures for people and for results.json, and what was wrong."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import quantiles
from typing import Any


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str
    limit: float | None = None  # what it ought to stay below; only told

    def line(self) -> str:
        limit = ""
        if self.limit is not None:
            word = "within" if self.value < self.limit else "ABOVE"
            limit = f"  ({word} {self.limit:g} {self.unit})"
        return f"  {self.name:<52} {self.value:>10.3f} {self.unit}{limit}"


@dataclass
class Report:
    """`wrong` are sentences; one is enough to fail. `notes` say under what conditions."""

    bench: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    keys: dict[str, float] = field(
        default_factory=dict
    )  # figures by a fixed name, at the top of the JSON
    more: dict[str, Any] = field(default_factory=dict)  # beside them, for the JSON alone

    def add(self, name: str, value: float, unit: str, limit: float | None = None) -> None:
        self.figures.append(Figure(name, round(value, 4), unit, limit))

    def key(self, name: str, value: float, goal: float) -> None:
        """A rate that ought to be at least `goal`."""
        self.keys[name] = round(value, 1)
        self.add(name.replace("_", " "), value, f"(goal {goal:g})")

    def check(self, right: bool, otherwise: str) -> None:
        if not right:
            self.wrong.append(otherwise)

    def table(self) -> str:
        lines = [self.bench, *(figure.line() for figure in self.figures)]
        lines += [f"  ({note})" for note in self.notes]
        lines += [f"  WRONG: {what}" for what in self.wrong]
        return "\n".join(lines)

    def dump(self) -> dict[str, Any]:
        found = asdict(self)
        return {**found.pop("keys"), **found.pop("more"), **found}


Run = Callable[[argparse.Namespace], Report]
Arguments = Callable[[argparse.ArgumentParser], None]


def percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def main(run: Run, arguments: Arguments, description: str | None) -> None:
    """One bench alone."""
    parser = argparse.ArgumentParser(description=description)
    arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    report = run(given)
    print(json.dumps(report.dump(), indent=1) if given.json else report.table())
    sys.exit(1 if report.wrong else 0)
