"""What a Tab offers: verbs, options and names of endpoints. It never starts a backend."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from IPython.core.completer import SimpleCompletion, context_matcher
from nbgpu_backend import runtime

from nbgpu import helptext, parsing
from nbgpu.verbs.spec import Argument, Verb, of_face

LINE = re.compile(r"(?:^|=)\s*%{1,2}gpu\s+(.*)$")
FRESH_S = 3.0
TIMEOUT_S = 0.5
FIXED = {
    "engine": ["vllm", "handler", "command"],
    "managed": ["vllm"],
    "action": ["ls", "add"],
    "key_action": ["ls", "add", "rm"],
    "chart": ["latency", "cost", "workers", "coldstart"],
    "tiers": ["parked", "preimported", "parked,preimported", "none"],
    "place": ["local"],
    "setting": ["rate.local=", "lease.pod="],
    "kind": ["pods", "endpoints", "jobs"],
    "state": ["in_queue", "in_progress", "completed", "failed", "cancelled", "timed_out"],
}
JOBS = 20  # the latest ones are offered
_cache: dict[str, tuple[float, list[str]]] = {}  # by path: when, names


def candidates(text: str) -> tuple[str, list[str]]:
    """The word before the cursor, and what it may become; `text` is what follows `%gpu `."""
    words = re.split(r"\s+", text)
    *before, fragment = words
    known = of_face("magic")
    if not before:
        return fragment, _starting(list(known), fragment)
    verb = known.get(before[0])
    if verb is None or "--" in before:
        return fragment, []
    flags = parsing.flags_of(verb, "magic")
    if fragment.startswith("-"):
        name, sign, value = fragment.partition("=")
        if sign:
            return value, _starting(_values(flags.get(name)), value)
        return fragment, _starting(helptext.known_flags(verb, "magic"), fragment)
    last = flags.get(before[-1]) if len(before) > 1 else None
    if last is not None and last.takes_value:
        return fragment, _starting(_values(last), fragment)
    if before[-1] in ("-o", "--out"):
        return fragment, []
    argument = _positional(verb, before[1:], flags)
    found = _values(argument)
    if verb.name == "chart":  # both orders are taken
        found = _values(verb.positionals[0]) + FIXED["chart"]
        found = [word for word in found if word not in before]
    return fragment, _starting(found, fragment)


def _positional(verb: Verb, words: list[str], flags: dict[str, Argument | None]) -> Argument | None:
    """The positional argument that comes next."""
    count, skip = 0, False
    for word in words:
        argument = flags.get(word)
        if skip:
            skip = False
        elif word in flags:
            skip = argument.takes_value if argument else word in ("-o", "--out")
        elif not word.startswith("-"):
            count += 1
    places = [a for a in verb.positionals if a.kind not in ("cell", "script")]
    if places and places[-1].kind == "pairs":
        return places[-1]
    return places[count] if count < len(places) else None


def _values(argument: Argument | None) -> list[str]:
    if argument is None:
        return []
    if argument.complete == "endpoint":
        return endpoints()
    if argument.complete == "pod":
        return pods()
    if argument.complete == "resource":
        return pods() + endpoints()
    if argument.complete == "volume":
        return _known("/v2/network-volumes", "networkVolumes", "name")
    if argument.complete == "secret":
        return _known("/nbgpu/v1/secrets", "secrets", "name")
    if argument.complete == "job":
        return jobs()
    if argument.complete == "thing":
        return pods() + endpoints() + jobs()
    if argument.complete == "verb":
        return list(of_face("magic"))
    return list(argument.choices) or FIXED.get(argument.complete, [])


def _starting(words: list[str], fragment: str) -> list[str]:
    return [word for word in words if word.startswith(fragment)]


def endpoints() -> list[str]:
    """The names of the endpoints, at most FRESH_S old; none if no backend runs."""
    return _known("/nbgpu/v1/summary", "endpoints", "name")


def pods() -> list[str]:
    """The names of the pods."""
    return _known("/nbgpu/v1/summary", "pods", "name")


def jobs() -> list[str]:
    """The ids of the latest jobs."""
    return _known(f"/nbgpu/v1/jobs?limit={JOBS}", "jobs", "id")


def _known(path: str, rows: str, column: str) -> list[str]:
    now = time.monotonic()
    key = f"{path} {rows}"
    at, names = _cache.get(key, (0.0, []))
    if now - at < FRESH_S and names:
        return names
    backend = runtime.given()
    if backend is None:
        backend = runtime.read(runtime.Home.default())
        backend = backend if backend is not None and runtime.alive(backend) else None
    names = []
    if backend is not None:
        import urllib.request  # only now: `%load_ext nbgpu` does without

        request = urllib.request.Request(
            backend.url + path, headers={"Authorization": f"Bearer {backend.token}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                names = [row[column] for row in json.load(answer)[rows]]
        except (OSError, ValueError, KeyError):
            names = []
    _cache[key] = (now, names)
    return names


@context_matcher(identifier="nbgpu.gpu", priority=1000)
def matcher(context: Any) -> dict[str, Any]:
    """IPython's side of it; `x = %gpu …` is completed as well."""
    line = LINE.search(context.line_with_cursor[: context.cursor_position])
    if line is None:
        return {"completions": []}
    fragment, words = candidates(line[1])
    return {
        "completions": [SimpleCompletion(word, type="magic") for word in words],
        "matched_fragment": fragment,
        "suppress": bool(words),
    }
