"""`%gpu` and `%%gpu`. Loading this imports nothing heavy: the client comes with the first verb."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class

from nbgpu import completion, errors, helptext, parsing

if TYPE_CHECKING:
    from nbgpu.client import Client

HELP = re.compile(r"^(\s*)%{1,2}gpu(?:[ \t]+([\w-]+)(?:[ \t][^\n]*?)?)?[ \t]*\?{1,2}\s*$")


@magics_class
class GpuMagics(Magics):
    """The face of the verbs in a notebook."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            from nbgpu.client import Client

            self._client = Client(face="magic", aloud=True, say=print)
        return self._client

    @line_cell_magic
    def gpu(self, line: str, cell: str | None = None) -> Any:
        """Pods and endpoints from a cell: `%gpu` shows what runs, `%gpu help` what there is."""
        names: dict[str, Any] = self.shell.user_ns
        try:
            parsing.check_braces(line, names)
            words = parsing.words_of(line)
            text = None if cell is None else cell.removesuffix("\n")
            if text is not None and not parsing.takes_code(words):
                text = parsing.fill(text, names)
            parsed = parsing.parse(words, "magic", text)
            if parsed.help or parsed.verb.name == "help":
                name = parsed.verb.name if parsed.help else parsed.values["verb"]
                return helptext.Page(helptext.of(name, "magic"))
            found = self.client.do(parsed.verb.name, **parsed.values)
        except errors.UsageProblem as problem:
            raise UsageError(str(problem)) from None
        except errors.OneLine as error:
            raise error from None
        if parsed.out is not None:
            names[parsed.out] = found
            return None
        return None if getattr(found, "shown", False) else found


def reword(lines: list[str]) -> list[str]:
    """An input transformer, for two things that IPython takes differently.

    `%gpu VERB?` becomes `%gpu help VERB`: IPython would look for an object of the verb's name. `%%gpu` with
    nothing below gets an empty line, so that the verb is reached and can say how it is written.
    """
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return lines
    whole = lines[first].lstrip().startswith("%%")
    found = []
    for i, line in enumerate(lines):
        match = HELP.match(line) if i == first or not whole else None
        found.append(f"{match[1]}%gpu help {match[2] or ''}".rstrip() + "\n" if match else line)
    if re.match(r"\s*%%gpu\b", found[first]) and not any(
        line.strip() for line in found[first + 1 :]
    ):
        found = [*found[:first], found[first].rstrip("\n") + "\n", "\n"]
    return found


def install(shell: Any) -> None:
    """Register the magic, its completion and its help."""
    remove(shell)
    shell.register_magics(GpuMagics(shell))
    shell.Completer.custom_matchers.append(completion.matcher)
    shell.input_transformers_cleanup.append(reword)


def remove(shell: Any) -> None:
    matchers = shell.Completer.custom_matchers
    matchers[:] = [m for m in matchers if m is not completion.matcher]
    cleanup = shell.input_transformers_cleanup
    cleanup[:] = [f for f in cleanup if f is not reword]
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("gpu", None)
    shell.magics_manager.registry.pop("GpuMagics", None)
