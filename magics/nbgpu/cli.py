"""`nbgpu VERB …`: the verbs on a command line.

Results go to stdout, as text or with `--json` as JSON; everything else goes to stderr. Exit codes: 0,
1 something failed, 2 a mistake in the command, 130 interrupted, 141 the reader went away.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence

from nbgpu import errors, helptext, parsing

RAW = ("ask", "logs")  # what others wrote is passed on as it stands


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    try:
        code = _main(words)
        sys.stdout.flush()
        return code
    except errors.UsageProblem as problem:
        return _fail(problem, as_json, 2)
    except errors.NbgpuError as error:
        return _fail(error, as_json, 1)
    except BrokenPipeError:
        # what is still buffered has no reader either: let the flush at exit go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130


def _main(words: list[str]) -> int:
    if words[:1] in (["--version"], ["-V"]):
        from nbgpu import __version__

        print(f"nbgpu {__version__}")
        return 0
    parsed = parsing.parse(words, "cli")
    name, values = parsed.verb.name, parsed.values
    if parsed.help or name == "help":
        page = helptext.Page(helptext.of(name if parsed.help else values["verb"], "cli"))
        print(json.dumps(page.to_dict()) if parsed.json else page)
        return 0
    if parsed.verb.cell == "required" and values["text"] in ("", "-"):
        if values["text"] == "" and sys.stdin.isatty():
            raise errors.UsageProblem(
                f"{name} needs a text.",
                f"Write it behind the name: nbgpu {name} {values['name']} 'Why?'",
            )
        values["text"] = sys.stdin.read()

    from nbgpu.client import Client

    aside = sys.stderr if parsed.json else sys.stdout
    with Client(
        face="cli",
        aloud=not parsed.json,
        say=lambda text: print(here(text), file=aside, flush=True),
    ) as client:
        found = client.do(name, **values)
    if parsed.json:
        print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    elif not getattr(found, "shown", False):
        text = str(found) if isinstance(found, str) else found.text()
        print(text if name in RAW else here(text))
    return 0


def here(text: str) -> str:
    """A sentence that names the magic, for a command line."""
    return re.sub(r"%{1,2}gpu\b", "nbgpu", text)


def _fail(error: errors.NbgpuError, as_json: bool, code: int) -> int:
    if as_json:
        problem = {"code": error.code, "what": here(error.what), "next": here(error.next_step)}
        print(
            json.dumps({"error": {**problem, "values": error.values}}, default=str), file=sys.stderr
        )
    else:
        print(f"nbgpu: {here(str(error))}", file=sys.stderr)
    return code
