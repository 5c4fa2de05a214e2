"""One sentence from the last lines of a pip that failed: which requirement, and why. Pure."""

from __future__ import annotations

import re

from nbgpu_backend.environments.pip import last_error

NOTHING = re.compile(
    r"ERROR: Could not find a version that satisfies the requirement (?P<what>.+?)"
    r"(?: \(from (?!versions).*?\))? \(from versions: (?P<have>.*)\)"
)
INVALID = re.compile(r"ERROR: Invalid requirement: (?P<what>.+?)(?: \(from line .*|:? *$)")
CONFLICT = "The conflict is caused by:"
UNBUILT = re.compile(
    r"(?:ERROR: Failed (?:building wheel for|to build)(?: installable wheels for some pyproject.toml based projects)?"
    r"|error: failed-wheel-build-for-install.*?╰─>|╰─>) ?\(?(?P<what>[A-Za-z0-9][\w.-]*)"
)
FROM = re.compile(r"\s*(?:Collecting|Processing) (?P<what>\S+)")
INSIDE_FAILED = "error: subprocess-exited-with-error"
OF_BUILDING = "× "
NEWEST = 5  # of the versions there are


def cause(tail: list[str]) -> str:
    """Without a full stop."""
    for i, line in enumerate(tail):
        if line.strip() == CONFLICT:
            between = [part.strip() for part in _paragraph(tail[i + 1 :])]
            return "its requirements contradict each other: " + "; ".join(between)
    if built := _unbuilt(tail):
        return built
    for line in reversed(tail):
        if found := NOTHING.search(line):
            return f"no package fits {found['what']}{_versions(found['have'])}"
        if found := INVALID.search(line):
            return f"{found['what']} is no requirement"
    return last_error(tail).rstrip(".")


def _unbuilt(tail: list[str]) -> str:
    """A package that comes as source and does not build; what its own build said last."""
    at = next((i for i, line in enumerate(tail) if line.strip() == INSIDE_FAILED), None)
    if at is None:
        return ""
    name = next((found["what"] for line in reversed(tail) if (found := UNBUILT.search(line))), "")
    if not name or name in ("See", "No"):
        before = [found["what"] for line in tail[:at] if (found := FROM.match(line))]
        name = before[-1].rpartition("/")[2] if before else "a package"
    start = next((i for i in range(at, len(tail)) if "lines of output]" in tail[i]), at)
    end = next((i for i in range(start, len(tail)) if "[end of output]" in tail[i]), len(tail))
    said = [line.strip() for line in tail[start + 1 : end] if line.strip()]
    return f"{name} could not be built" + (f" ({said[-1]})" if said else "")


def _paragraph(lines: list[str]) -> list[str]:
    end = next((i for i, line in enumerate(lines) if not line.strip()), len(lines))
    return lines[:end]


def _versions(have: str) -> str:
    known = [version.strip() for version in have.split(",") if version.strip() not in ("", "none")]
    if not known:
        return " (the package index has none of that name)"
    return f" (there are {', '.join(known[-NEWEST:])})"
