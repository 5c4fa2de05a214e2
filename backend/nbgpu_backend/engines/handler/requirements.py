"""What the environment of a handler is made of: requirements.txt beside it, and the SDK.

An environment is shared by all handlers whose requirements read the same, so all that it is made of
has to stand in the text. What lies behind a path of this machine does not: such lines are refused.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nbgpu_backend.engines.handler.sdk import VERSION
from nbgpu_backend.errors import BadRequest

FILE = "requirements.txt"
LAYOUT = "1"  # of the environment; another one builds all anew
MOST_BYTES = 1 << 20
COMMENT = re.compile(r"(?:^|\s+)#.*$")
OPTION = re.compile(
    r"(?P<flag>-[A-Za-z]|--[a-z][a-z-]*)(?:\s*=\s*|\s+|(?<=^-[A-Za-z])(?=\S))?(?P<value>.*)"
)
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
ARCHIVE = re.compile(r"\.(?:whl|zip|tar\.(?:gz|bz2|xz)|tgz)$", re.IGNORECASE)
ADDRESS = re.compile(r"[a-z+]+://", re.IGNORECASE)
HERE = "An environment is shared by all handlers with the same lines, so it takes packages by name or address."
INSTEAD = (
    "Put the code beside the handler, where it can be imported as it is; or put its wheel into a "
    "folder, and write --find-links FOLDER and the package's name==version."
)


@dataclass(frozen=True, slots=True)
class Requirements:
    """Lines as pip takes them, without comments and with the SDK; folders are absolute."""

    lines: tuple[str, ...]
    constraints: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Names the environment: 16 hex digits over the lines and the Python version."""
        python = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
        parts = [LAYOUT, python, *self.lines, "", *self.constraints]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read(folder: Path) -> Requirements:
    """Those of the handlers in `folder`; the SDK alone where there is no requirements.txt.

    Raises BadRequest for a line that cannot be part of a shared environment, naming it.
    """
    reader = _Reader()
    if (folder / FILE).exists():
        reader.read(folder / FILE)
    named = any(_is_sdk(line) for line in reader.lines)
    if not named and any("--hash" in line for line in reader.lines):
        raise BadRequest(
            f"{folder / FILE} pins by --hash, and pip then wants one for the runpod package, too.",
            "Add runpod and what it requires with their hashes, as `pip-compile --generate-hashes` does.",
        )
    lines = reader.lines if named else [*reader.lines, f"runpod=={VERSION}"]
    return Requirements(tuple(lines), tuple(reader.constraints))


class _Reader:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.constraints: list[str] = []
        self._seen: set[Path] = set()

    def read(self, file: Path, *, constrains: bool = False) -> None:
        if file in self._seen:
            return
        self._seen.add(file)
        into = self.constraints if constrains else self.lines
        for line in _lines(_text(file)):
            option = OPTION.fullmatch(line) if line.startswith("-") else None
            if option is None:
                _check(line, file)
                into.append(line)
                continue
            flag, value = option["flag"], option["value"].strip().strip("\"'")
            if flag in ("-r", "--requirement", "-c", "--constraint"):
                only = constrains or flag in ("-c", "--constraint")
                self.read(_beside(file, value), constrains=only)
            elif flag in ("-e", "--editable"):
                raise BadRequest(f"{file} names a folder to be edited ({line}). {HERE}", INSTEAD)
            elif flag in ("-f", "--find-links"):
                into.append(f"--find-links {_place(file, value)}")
            else:
                into.append(line)


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise BadRequest(f"{file} is larger than 1 MB.", "Is it a list of requirements?")
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadRequest(f"{file} is no UTF-8 text.", "Save it as UTF-8.") from None
    except OSError as error:
        raise BadRequest(
            f"{file} cannot be read: {error.strerror}.", "Correct the name, or the permissions."
        ) from None


def _lines(text: str) -> Iterator[str]:
    """Without comments and blank lines; continued ones joined, spaces evened."""
    whole = ""
    for raw in [*text.splitlines(), ""]:
        continued = raw.endswith("\\") and not raw.lstrip().startswith("#")
        whole += raw[:-1] + " " if continued else raw
        if not continued:
            if line := " ".join(COMMENT.sub("", whole).split()):
                yield line
            whole = ""


def _check(line: str, file: Path) -> None:
    """Refuse a path; everything else is pip's to judge."""
    target = line.partition(" @ ")[2] or line.partition(";")[0].strip()
    target = target.partition(" --")[0].strip()
    local = target.startswith((".", "/", "~", "file:"))
    if not local and not ADDRESS.match(target):
        bare = re.split(r"[\s\[=<>!~]", target, maxsplit=1)[0]
        local = "/" in bare or bool(ARCHIVE.search(bare))
    if local:
        raise BadRequest(f"{file} names a path of this machine ({line}). {HERE}", INSTEAD)


def _beside(file: Path, name: str) -> Path:
    """A file that another one names. pip would take an address; what that says may change."""
    if ADDRESS.match(name):
        raise BadRequest(
            f"{file} includes {name}, which may say something else tomorrow.",
            "Save that list beside the handler and include the file.",
        )
    found = (file.parent / Path(name).expanduser()).resolve()
    if not found.is_file():
        raise BadRequest(
            f"{file} includes {name}, and there is no file {found}.", "Correct the name."
        )
    return found


def _place(file: Path, value: str) -> str:
    if ADDRESS.match(value):
        return value
    path = (file.parent / Path(value).expanduser()).resolve()
    if not path.exists():
        raise BadRequest(f"{file} looks for packages in {path}, which is not there.", "Correct it.")
    return str(path)


def _is_sdk(line: str) -> bool:
    """Whether the line asks for the SDK itself, by name or by address."""
    if line.startswith("-"):
        return False
    if ADDRESS.match(line):
        return bool(re.search(r"(?:[/=]|^)runpod(?:-python)?(?:[-@.&#]|$)", line, re.IGNORECASE))
    name = NAME.match(line)
    return name is not None and re.sub(r"[-_.]+", "-", name[0]).lower() == "runpod"
