"""The grammar of a line, from verbs.json alone (stdlib only).

A line is words as a shell splits them, up to a comment (` # …`). The first word is the verb. Options are
never abbreviated. For verbs that take engine options, what follows `--` is the engine's, and so is a bare
option that clashes with none of the verb's own, together with the words behind it that are no options;
such options come after the verb's positional arguments, or one could be taken for the other.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, NoReturn

from nbgpu import formats
from nbgpu.errors import UsageProblem, closest
from nbgpu.verbs.spec import Argument, Verb, of_face

BRACE = re.compile(r"\{\s*([A-Za-z_]\w*)[^{}\"]*\}")
TEMPLATE = re.compile(r"\{\{\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[[^\[\]{}]*\])*)\s*\}\}")
FILLED_BY_ENGINE = ("{port}", "{model}", "{name}")
LIKE = 0.8  # how alike a bare option must be to one of ours to be taken for a typo


@dataclass(frozen=True, slots=True)
class Parsed:
    """One command. `values` are the verb function's arguments; `help` asks for the verb's help instead."""

    verb: Verb
    values: dict[str, Any] = field(default_factory=dict)
    out: str | None = None  # -o NAME, magic
    json: bool = False  # --json, command line
    help: bool = False


def without_comment(line: str) -> str:
    """The line up to ` # …`; a # inside quotes or inside a word stays."""
    quote, start_of_word, position = "", True, 0
    while position < len(line):
        character = line[position]
        if character == "\\" and quote != "'":
            position, start_of_word = position + 2, False
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character == "#" and start_of_word:
            return line[:position].rstrip()
        elif character in "'\"" and character in line[position + 1 :]:
            quote = character
        start_of_word = not quote and character.isspace()
        position += 1
    return line.rstrip()


def words_of(line: str) -> list[str]:
    """Raises UsageProblem for a quotation mark that is not closed."""
    try:
        return shlex.split(without_comment(line))
    except ValueError:
        raise UsageProblem(
            "A quotation mark is not closed.",
            "Close it, or write \\' for one that is meant as such.",
        ) from None


def check_braces(line: str, names: Mapping[str, object]) -> None:
    """Refuse `{x}` that IPython left as it is, with the reason.

    What a command engine fills in itself (`-- server --port {port}`) is meant as such.
    """
    line = without_comment(line)
    command = line.find(" -- ") if re.search(r"--engine[ =]+command\b", line) else -1
    found = next(
        (
            brace
            for brace in BRACE.finditer(line)
            if not (0 <= command < brace.start() and brace[0] in FILLED_BY_ENGINE)
        ),
        None,
    )
    if found is None:
        return
    text, name = found[0], found[1]
    if name in names:
        raise UsageProblem(
            f"{text} was left as it is: some brace of this line cannot be evaluated.",
            "See that each one evaluates; a brace that is meant as such is written twice: {{ }}",
        )
    raise UsageProblem(
        f"{text} was left as it is, because {name} is not defined.",
        f"Define {name} first. Quote a brace that is meant as such, and write it twice.",
    )


def fill(text: str, names: Mapping[str, object]) -> str:
    """Replace `{{x}}` (also `{{x.y}}`, `{{x[0]}}`) by the variable; all else stays raw."""

    def value(found: re.Match[str]) -> str:
        expression = found[1]
        try:
            return str(eval(expression, {"__builtins__": {}}, dict(names)))
        except NameError:
            raise UsageProblem(
                f"{found[0]} cannot be filled in, because {expression} is not defined.",
                "Define it in a cell before this one.",
            ) from None
        except Exception as error:
            raise UsageProblem(
                f"{found[0]} cannot be filled in: {type(error).__name__}: {error}.",
                "Correct it, or put the value into a variable first.",
            ) from None

    return TEMPLATE.sub(value, text)


def takes_code(words: Sequence[str]) -> bool:
    """Is the cell under this line a program? Then it is passed on as it stands."""
    verb = of_face("magic").get(words[0]) if words else None
    return verb is not None and verb.cell == "optional"


def parse(words: Sequence[str], face: str, cell: str | None = None) -> Parsed:
    """The command that `words` are. Raises UsageProblem with one sentence.

    `face` is `magic` or `cli`; `cell` is the text of the cell below the line, None if there is none.
    """
    known = of_face(face)
    if not words:
        words = ["status" if face == "magic" else "help"]
    first, *rest = words
    if first in ("-h", "--help", "?"):
        first = "help"
    asks = first.endswith("?") or rest[-1:] in (["?"], ["??"])
    first = first.rstrip("?")
    verb = known.get(first)
    if verb is None:
        raise UsageProblem(
            f"There is no verb {first}.{closest(first, known)}",
            f"See them with: {'%gpu help' if face == 'magic' else 'nbgpu help'}",
        )
    own, engine = _split(verb, rest, face)
    if asks or "-h" in own or "--help" in own:
        return Parsed(verb, help=True)
    if face == "magic":
        _check_cell(verb, cell, rest)
    return _bind(verb, own, engine, face, cell)


def _check_cell(verb: Verb, cell: str | None, rest: Sequence[str]) -> None:
    if verb.cell == "required" and not (cell or "").strip():
        name = rest[0] if rest and not rest[0].startswith("-") else "NAME"
        raise UsageProblem(
            f"%gpu {verb.name} takes its text from a cell."
            if cell is None
            else "The cell is empty.",
            f"Write %%gpu {verb.name} {name} as the first line of a cell and the text below it.",
        )
    if verb.cell == "optional" and cell is not None and not cell.strip():
        raise UsageProblem("The cell is empty.", "Write the code to run below the first line.")
    if verb.cell == "never" and cell is not None:
        raise UsageProblem(
            f"{verb.name} takes no cell.", f"Write it in one line, with one %: %gpu {verb.name} …"
        )


def flags_of(verb: Verb, face: str) -> dict[str, Argument | None]:
    """Every flag that a verb takes; the value is None for those that all verbs have."""
    found: dict[str, Argument | None] = {f: a for a in verb.options for f in a.flags}
    found |= dict.fromkeys(["-h", "--help"])
    return found | dict.fromkeys(["-o", "--out"] if face == "magic" else ["--json"])


def _split(verb: Verb, words: Sequence[str], face: str) -> tuple[list[str], list[str]]:
    """Our words, and the engine's options."""
    flags = flags_of(verb, face)
    if face == "cli" and any(a.kind == "script" for a in verb.arguments):
        return _before_script(verb, words, face, flags)
    if verb.rest is None:
        for word in words:
            flag = word.partition("=")[0]
            if _is_flag(word) and flag not in flags:
                raise UsageProblem(
                    f"{verb.name} has no option {flag}.{closest(flag, flags)}", _see(verb, face)
                )
        return list(words), []
    own: list[str] = []
    engine: list[str] = []
    places = sum(1 for a in verb.positionals if a.kind not in ("cell", "script"))
    position, seen = 0, 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "--":
            return own, engine + list(words[position:])
        flag, has_value, _ = word.partition("=")
        if not _is_flag(word):
            own.append(word)
            seen += 1
        elif flag in flags:
            own.append(word)
            argument = flags[flag]
            takes = argument.takes_value if argument else flag in ("-o", "--out")
            if takes and not has_value and position < len(words) and not _is_flag(words[position]):
                own.append(words[position])
                position += 1
        else:
            _check_bare(verb, flag, flags, face)
            if seen < places:
                raise UsageProblem(
                    f"{flag} is an option of the engine and comes too early.",
                    f"Write {verb.positionals[seen].metavar} before it, or put it behind -- at the end.",
                )
            engine.append(word)
            while (
                position < len(words) and not _is_flag(words[position]) and words[position] != "--"
            ):
                engine.append(words[position])
                position += 1
    return own, engine


def _before_script(
    verb: Verb, words: Sequence[str], face: str, flags: Mapping[str, Argument | None]
) -> tuple[list[str], list[str]]:
    """Our words, and those from the script's name on: what follows it is the script's own."""
    own: list[str] = []
    places = sum(1 for a in verb.positionals if a.kind != "script")
    position, seen = 0, 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return own, list(words[position + 1 :])
        flag, has_value, _ = word.partition("=")
        if not _is_flag(word):
            if seen == places:
                return own, list(words[position:])
            seen += 1
        elif flag not in flags:
            raise UsageProblem(
                f"{verb.name} has no option {flag}.{closest(flag, flags)}", _see(verb, face)
            )
        elif (argument := flags[flag]) is not None and argument.takes_value and not has_value:
            own.append(word)
            position += 1
        own += words[position : position + 1]
        position += 1
    return own, []


def _check_bare(verb: Verb, flag: str, flags: Mapping[str, object], face: str) -> None:
    near = [f for f in flags if f.startswith(flag) and f.startswith("--")] or [
        f for f in flags if f.startswith("--") and SequenceMatcher(None, f, flag).ratio() >= LIKE
    ]
    if near:
        raise UsageProblem(
            f"{verb.name} has no option {flag}. Did you mean {near[0]}?",
            "If it is an option of the engine, write it behind -- at the end.",
        )


def _is_flag(word: str) -> bool:
    return bool(re.match(r"--?[A-Za-z]", word))


def _see(verb: Verb, face: str) -> str:
    how = f"%gpu {verb.name}?" if face == "magic" else f"nbgpu {verb.name} --help"
    return f"Its options are listed by: {how}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageProblem(message)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _duration(text: str) -> int:
    try:
        return formats.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _fine(text: str) -> float:
    try:
        return formats.fine_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _listed(text: str) -> list[str]:
    return [item for item in text.split(",") if item]


TYPES: dict[str, Any] = {
    "int": int, "float": float, "duration": _duration, "fine": _fine, "map": _pair, "pairs": _pair,
    "list": _listed, "words": _listed,
}  # fmt: skip


def parser_for(verb: Verb, face: str) -> argparse.ArgumentParser:
    """The argparse parser of one verb."""
    parser = _Parser(prog=verb.name, add_help=False, allow_abbrev=False)
    for argument in verb.arguments:
        if argument.kind in ("rest", "script") or (argument.kind == "cell" and face == "magic"):
            continue
        options: dict[str, Any] = {"default": argument.default}
        if argument.kind in TYPES:
            options["type"] = TYPES[argument.kind]
        if argument.choices:
            options["choices"] = argument.choices
        if argument.flags:
            if argument.kind == "flag":
                parser.add_argument(*argument.flags, action="store_true")
                continue
            if argument.kind in ("map", "words"):
                options["action"] = "append"
            options["metavar"] = argument.metavar
            parser.add_argument(*argument.flags, dest=argument.name, **options)
        else:
            if argument.kind in ("pairs", "cell"):
                options["nargs"] = "*"
            elif not argument.required:
                options["nargs"] = "?"
            parser.add_argument(argument.name, metavar=argument.metavar, **options)
    if face == "magic":
        parser.add_argument("-o", "--out", dest="_out", metavar="NAME")
    else:
        parser.add_argument("--json", dest="_json", action="store_true")
    return parser


def _bind(verb: Verb, own: list[str], engine: list[str], face: str, cell: str | None) -> Parsed:
    try:
        found, left = parser_for(verb, face).parse_known_intermixed_args(own)
    except UsageProblem as problem:
        raise UsageProblem(f"{verb.name}: {_sentence(problem.what)}", _see(verb, face)) from None
    if left:
        raise UsageProblem(
            f"{verb.name} does not know what to do with {left[0]!r}.", _see(verb, face)
        )
    values = vars(found)
    out, as_json = values.pop("_out", None), values.pop("_json", False)
    if out is not None and not out.isidentifier():
        raise UsageProblem(
            f"{out!r} is no name for a variable.", "Write -o NAME with a Python name."
        )
    for argument in verb.arguments:
        if argument.kind in ("map", "pairs") and values.get(argument.name):
            values[argument.name] = dict(values[argument.name])
        elif argument.kind == "cell":
            words = values.get(argument.name) or []
            values[argument.name] = cell if face == "magic" else " ".join(words)
        elif argument.kind == "words" and values.get(argument.name):
            values[argument.name] = [word for words in values[argument.name] for word in words]
        elif argument.kind == "script":
            values[argument.name] = cell if face == "magic" else engine or None
        elif argument.kind == "rest":
            values[argument.name] = engine
    return Parsed(verb, values, out, as_json)


def _sentence(message: str) -> str:
    """argparse's message as a sentence."""
    message = message.replace("the following arguments are required: ", "missing: ")
    message = re.sub(r"^argument (\S+?)(?:/\S+)?: ", r"\1: ", message)
    return message if message.endswith((".", "?")) else message + "."
