"""What lies in the site-packages of an environment, read from outside of it."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# packages that many distributions leave at the top by mistake, and nobody imports
STRAY = frozenset({"test", "tests", "docs", "doc", "examples", "benchmarks", "bin", "scripts"})


def count(site: Path) -> int:
    return sum(1 for _ in site.glob("*.dist-info"))


def version(site: Path, name: str) -> str | None:
    found = _all(site).get(name)
    return found.version if found else None


def modules(site: Path, name: str) -> list[str]:
    """The top-level names of a distribution and of all that it requires, as far as installed."""
    there, names = _all(site), set[str]()
    todo, seen = [name], {name}
    while todo:
        dist = there.get(todo.pop())
        if dist is None:
            continue
        names |= _top_level(dist)
        for line in dist.requires or []:
            required = NAME.match(line)
            if required and (key := _key(required[0])) not in seen:
                seen.add(key)
                todo.append(key)
    return sorted(names - STRAY)


def _all(site: Path) -> dict[str, Distribution]:
    return {_key(d.metadata["Name"]): d for d in distributions(path=[str(site)])}


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _top_level(dist: Distribution) -> set[str]:
    found = set()
    for file in dist.files or []:
        first = file.parts[0]
        if len(file.parts) == 1:
            first = first.partition(".")[0] if file.suffix in (".py", ".so") else ""
        if first.isidentifier() and first != "__pycache__":
            found.add(first)
    return found
