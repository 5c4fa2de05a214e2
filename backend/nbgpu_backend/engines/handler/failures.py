"""One sentence from the last log lines of a handler that failed. Pure.

Its log holds three voices: the program's own, the SDK's (one JSON object a line; with a `requestId`
it is about a job) and the relay's (`relay: …`). What ended the program is the traceback it ends
with; one that other lines follow was caught, or belongs to a job, and explains no end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

TRACEBACK = "Traceback (most recent call last):"
FRAME = re.compile(r'\s*File "(?P<file>.+?)", line (?P<line>\d+)(?:, in (?P<where>.+))?$')
RAISED = re.compile(r"(?P<kind>[A-Za-z_][\w.]*)(?:: (?P<what>.*))?$")
NO_MODULE = re.compile(r"No module named '(?P<module>[^']+)'")
NO_NAME = re.compile(
    r"cannot import name '(?P<name>[^']+)' from (?:partially initialized module )?'(?P<module>[^']+)'"
)
UNFIT = re.compile(r"Fitness check failed: (?P<what>.+)")
RELAY = re.compile(r"relay: (?P<what>the handler (?:could not be started|ended\b).*)")
UNASKED = re.compile(r"relay: .*before it asked for a job")
AFTER = 6  # lines that may follow the last traceback: what an interpreter says while it ends
# packages whose modules are called otherwise
PACKAGES = {
    "cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml",
    "bs4": "beautifulsoup4", "dotenv": "python-dotenv", "dateutil": "python-dateutil",
    "skimage": "scikit-image", "fitz": "pymupdf", "Crypto": "pycryptodome",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Raised:
    """The end of a traceback. `file` and `line` are the nearest to it that are the user's own."""

    kind: str
    what: str
    file: str
    line: str


def explain(tail: Sequence[str]) -> str:
    """The cause nearest to the end; "" if the log tells none."""
    for line in reversed(tail):
        if UNASKED.search(line):
            return (
                "The program ended before it asked for a job: it has to call "
                'runpod.serverless.start({"handler": …}), which returns only at the end.'
            )
        if found := RELAY.search(line):
            return _sentence(found["what"])
        if found := UNFIT.search(_message(line)[0]):
            return _sentence(f"A fitness check of the handler failed: {found['what']}")
    raised = _last_traceback(tail) or _bare_syntax_error(tail)
    return _words(raised) if raised else ""


def _words(raised: Raised) -> str:
    kind, what = raised.kind.rpartition(".")[2], raised.what
    at = f"{PurePath(raised.file).name}, line {raised.line}" if raised.file else ""
    where = f" ({at})" if at else ""
    if found := NO_MODULE.search(what):
        module = found["module"].partition(".")[0]
        package = PACKAGES.get(module, module)
        return (
            f"There is no module {found['module']}{where}: add {package} to requirements.txt beside "
            "the handler, then deploy again."
        )
    if found := NO_NAME.search(what):
        return (
            f"The module {found['module']} has no {found['name']}{where}: perhaps another version of "
            "it is meant; pin that in requirements.txt, then deploy again."
        )
    if kind in ("SyntaxError", "IndentationError", "TabError"):
        return f"{at or 'The program'}: {what or kind}."
    if kind == "MemoryError":
        return f"There is too little memory{where}."
    return _sentence(f"{kind}: {what}{where}" if what else f"{kind}{where}")


def _last_traceback(tail: Sequence[str]) -> Raised | None:
    begin = next((i for i in reversed(range(len(tail))) if tail[i].strip() == TRACEBACK), None)
    if begin is None or tail[begin] != TRACEBACK:
        return None  # an indented one is quoted by somebody
    end = next(
        (i for i in range(begin + 1, len(tail)) if tail[i] and not tail[i][0].isspace()), None
    )
    if end is None:
        return None
    found = RAISED.match(tail[end])
    after = [line for line in tail[end + 1 :] if line.strip()]
    if found is None or len(after) > AFTER or any(_message(line)[1] for line in after):
        return None
    return _raised(found, tail[begin:end])


def _bare_syntax_error(tail: Sequence[str]) -> Raised | None:
    """Of the program itself: it has no traceback around it."""
    for i in reversed(range(max(0, len(tail) - AFTER), len(tail))):
        found = RAISED.match(tail[i])
        if found and found["kind"] in ("SyntaxError", "IndentationError", "TabError"):
            return _raised(found, tail[max(0, i - AFTER) : i])
    return None


def _raised(found: re.Match[str], above: Sequence[str]) -> Raised:
    frames = [frame for line in above if (frame := FRAME.match(line))]
    own = [f for f in frames if "/site-packages/" not in f["file"] and "/lib/python" not in f["file"]
           and not f["file"].startswith("<")]  # fmt: skip
    near = next(reversed(own or frames), None)
    return Raised(
        found["kind"], (found["what"] or "").strip()[:300],
        near["file"] if near else "", near["line"] if near else "",
    )  # fmt: skip


def _message(line: str) -> tuple[str, bool]:
    """(what the line says, whether the SDK says it)."""
    if line.startswith("{"):
        try:
            said = json.loads(line)
        except ValueError:
            return line, False
        if isinstance(said, dict) and "message" in said:
            return str(said["message"]), True
    return line, False


def _sentence(text: str) -> str:
    text = text.strip().rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
