"""Help, from verbs.json (stdlib only)."""

from __future__ import annotations

import html
from textwrap import wrap

from nbgpu.errors import UsageProblem, closest
from nbgpu.parsing import flags_of
from nbgpu.verbs.spec import Argument, Verb, of_face


class Page(str):
    """Text that a notebook shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f'<pre style="background:none;color:inherit">{html.escape(self)}</pre>'

    def to_dict(self) -> dict[str, str]:
        return {"help": str(self)}


def of(name: str | None, face: str) -> str:
    """The overview, or the page of one verb. Raises UsageProblem for a verb that is none."""
    known = of_face(face)
    if name is None:
        return overview(face)
    if name not in known:
        raise UsageProblem(f"There is no verb {name}.{closest(name, known)}")
    return page(known[name], face)


def command(verb: Verb, face: str) -> str:
    """How the verb is begun."""
    if face != "magic":
        return f"nbgpu {verb.name}"
    return f"{'%gpu' if verb.cell == 'never' else '%%gpu'} {verb.name}"


def overview(face: str) -> str:
    known = of_face(face)
    first = sorted((v for v in known.values() if v.overview), key=lambda v: v.overview)
    rest = [verb.name for verb in known.values() if not verb.overview]
    rows = [(f"{command(v, face)} {_places(v, face)}".rstrip(), v.summary) for v in first]
    width = max(len(row[0]) for row in rows)
    lines = [f"{left:{width}}  {right}" for left, right in rows]
    bare = "%gpu alone shows" if face == "magic" else "nbgpu status shows"
    each = "%gpu VERB?" if face == "magic" else "nbgpu VERB --help"
    return "\n".join(
        [*lines, "", f"{bare} what runs and what it costs. More verbs: {', '.join(rest)}.",
         f"One verb explained: {each}"]
    )  # fmt: skip


def usage(verb: Verb, face: str) -> str:
    words = [command(verb, face), _places(verb, face)]
    for argument in verb.options:
        flag = f"{argument.flags[-1]} {argument.metavar}".rstrip()
        words.append(f"[{flag}]")
    if verb.rest:
        words.append("[-- engine options]")
    return " ".join(word for word in words if word)


def page(verb: Verb, face: str) -> str:
    lines = [
        *wrap(usage(verb, face), 96, subsequent_indent="    ", break_on_hyphens=False),
        "",
        verb.summary + ".",
    ]
    if verb.text:
        lines += ["", verb.text]
    rows = [
        (_left(a), _right(a))
        for a in verb.arguments
        if a.kind not in ("cell", "script") or face == "cli"
    ]
    common = {
        "magic": [("-o, --out NAME", "store the result under this name")],
        "cli": [("--json", "print JSON")],
    }
    rows += common.get(face, [])
    width = max(len(row[0]) for row in rows)
    lines += ["", *(f"  {left:{width}}  {right}" for left, right in rows)]
    if verb.examples:
        begin = "nbgpu" if face == "cli" else "%%gpu" if verb.cell != "never" else "%gpu"
        lines += ["", "For example:"]
        lines += [f"  {begin} {_example(e, verb, face)}".rstrip() for e in verb.examples]
        if verb.cell != "never" and face == "magic":
            lines.append("  Why is the sky blue?" if verb.cell == "required" else "  print(6 * 7)")
    return "\n".join(lines)


def _example(example: str, verb: Verb, face: str) -> str:
    if face == "cli" and verb.cell == "required":
        return example.split(" -o ")[0] + " 'Why is the sky blue?'"
    return example


def _places(verb: Verb, face: str) -> str:
    words = []
    for argument in verb.positionals:
        if argument.kind in ("cell", "script") and face == "magic":
            continue
        words.append(argument.metavar if argument.required else f"[{argument.metavar}]")
    return " ".join(words)


def _left(argument: Argument) -> str:
    return f"{', '.join(argument.flags)} {argument.metavar}".strip()


def _right(argument: Argument) -> str:
    text = argument.help
    if argument.choices and argument.flags:
        text += f" ({' or '.join(argument.choices)})"
    if argument.default not in (None, False, 0, "", []):
        default = f"{argument.default}s" if argument.kind == "duration" else argument.default
        text += f"; default {default}"
    return text


def known_flags(verb: Verb, face: str) -> list[str]:
    """The long options of a verb, for completion."""
    return [flag for flag in flags_of(verb, face) if flag.startswith("--")]
