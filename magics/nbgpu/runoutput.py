"""How what a pod's kernel puts out is shown: as if this kernel, or this terminal, had put it out itself.

An `Output` of the backend is a message of the kernel, or one of ours (`nbgpu_backend.schema.pods.Output`).
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Protocol

from nbgpu import live

if TYPE_CHECKING:
    from nbgpu_backend.schema.pods import Output

ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
RICH = ("display_data", "update_display_data", "execute_result")


class Screen(Protocol):
    """Where output goes, item by item, in order."""

    def show(self, item: Output) -> None: ...

    def note(self, text: str) -> None:
        """A line of ours between them."""
        ...


class Notebook:
    """IPython's own publisher: streams, rich results and their updates land in the cell that runs."""

    def show(self, item: Output) -> None:
        content = item.content
        if item.type == "stream":
            stream = sys.stderr if content.get("name") == "stderr" else sys.stdout
            stream.write(content.get("text", ""))
        elif item.type in RICH:
            _flush()  # text that was written before comes before
            live.shell().display_pub.publish(
                data=content.get("data", {}), metadata=content.get("metadata", {}),
                transient=content.get("transient") or {},
                update=item.type == "update_display_data",
            )  # fmt: skip
        elif item.type == "clear_output":
            _flush()
            live.shell().display_pub.clear_output(wait=bool(content.get("wait")))
        elif item.type == "error":
            sys.stderr.write(traceback_of(content))

    def note(self, text: str) -> None:
        from nbgpu.results.shape import html_pre

        _flush()
        faint = f'<div style="opacity:.75">{html_pre(text)}</div>'
        live.shell().display_pub.publish(data={"text/plain": text, "text/html": faint}, metadata={})


class Terminal:
    """Streams to their streams; of rich results their text."""

    def __init__(self) -> None:
        self.at_start = True  # of a line of stdout

    def show(self, item: Output) -> None:
        content = item.content
        if item.type == "stream":
            self._write(content.get("name") == "stderr", content.get("text", ""))
        elif item.type in RICH:
            text = content.get("data", {}).get("text/plain")
            if text is not None:
                self._write(False, ("" if self.at_start else "\n") + f"{text}\n")
        elif item.type == "error":
            self._write(True, traceback_of(content))

    def _write(self, wrong: bool, text: str) -> None:
        stream = sys.stderr if wrong else sys.stdout
        if not stream.isatty():
            text = ANSI.sub("", text)
        if not text:
            return
        if not wrong:
            self.at_start = text.endswith("\n")
        stream.write(text)
        stream.flush()

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Silent:
    def show(self, item: Output) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Aside(Terminal):
    """With --json, stdout is the answer's alone."""

    def _write(self, wrong: bool, text: str) -> None:
        super()._write(True, text)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def traceback_of(content: dict[str, Any]) -> str:
    """As the kernel there has written it."""
    lines = content.get("traceback") or [f"{content.get('ename')}: {content.get('evalue')}"]
    return "\n".join(map(str, lines)) + "\n"


def text_of(items: list[Output]) -> str:
    """All of it as plain text, what was cleared left out."""
    parts: list[str] = []
    clear = False
    for item in items:
        content = item.content
        if item.type == "clear_output":
            clear = True
            if not content.get("wait"):
                parts, clear = [], False
            continue
        text = ""
        if item.type == "stream":
            text = content.get("text", "")
        elif item.type in ("display_data", "execute_result"):
            found = content.get("data", {}).get("text/plain")
            text = "" if found is None else f"{found}\n"
        elif item.type == "error":
            text = traceback_of(content)
        elif item.type == "gap":
            text = gap(content) + "\n"
        if text:
            if clear:
                parts, clear = [], False
            parts.append(text)
    return ANSI.sub("", "".join(parts))


def gap(content: dict[str, Any]) -> str:
    count = int(content.get("last", 0)) - int(content.get("first", 0)) + 1
    return f"[{count:,} older pieces of output are no longer kept]"


def screen(face: str, aside: bool = False) -> Screen:
    if live.in_notebook() or (face == "magic" and live.shell() is not None):
        return Notebook()
    return Aside() if aside else Terminal()
