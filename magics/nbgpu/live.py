"""One live line while something takes time (stdlib only; IPython where it runs already).

In a notebook it is one output that is updated in place, so that an executed notebook keeps its last
state only: HTML, which an export shows without a script. Where the front end draws widgets it is one
while it moves (`drawing`). On a terminal it is one line that is written over. Elsewhere (a log, a pipe)
it is a plain line, at most every 5 s.
"""

from __future__ import annotations

import shutil
import sys
import time
from html import escape
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from nbgpu.drawing import Drawing

PLAIN_S = 5.0
FRESH_S = 0.2  # updates of a notebook's output closer than this are left out


class Line(Protocol):
    def update(self, text: str, share: float | None = None) -> None:
        """`share`: how much of it is done, 0 to 1, where that is known."""
        ...

    def end(self, text: str) -> None:
        """The last state; empty: leave nothing that says "waiting"."""
        ...


def shell() -> Any:
    """The running IPython, or None; never imports it."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None


def in_notebook() -> bool:
    found = shell()
    return found is not None and hasattr(found, "kernel")


def line(stream: TextIO | None = None) -> Line:
    if in_notebook():
        return NotebookLine()
    stream = stream or sys.stderr
    return TerminalLine(stream) if stream.isatty() else PlainLine(stream)


class Output:
    """One output of a notebook cell, updated in place."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._drawing: Drawing | None = None

    def wait(self, text: str, share: float | None = None) -> None:
        """The live line. `show` has to follow."""
        if not self.shown:
            from nbgpu.drawing import drawing

            self._drawing = drawing(shell().kernel)
        if self._drawing is None:
            self._display(bundle(text, share))
        elif self._drawing.update(text, share):
            self._display({**bundle(text, share), **self._drawing.view})

    def show(self, bundle: dict[str, str]) -> None:
        """A MIME bundle; of the live line nothing stays."""
        self._display(bundle)
        if self._drawing is not None:
            self._drawing.close()
            self._drawing = None

    def _display(self, bundle: dict[str, Any]) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    @property
    def shown(self) -> bool:
        return self._handle is not None


def bundle(text: str, share: float | None = None) -> dict[str, str]:
    """A line with its bar. Where tags are taken out, the percentage stays."""
    bar = ""
    if share is not None:
        percent = f"{min(1.0, max(0.0, share)):.0%}"
        bar = (
            f'<progress max="100" value="{percent[:-1]}" aria-label="{percent} done" '
            f'style="width:12em;vertical-align:middle">{percent}</progress> '
        )
    html = f'<div style="background:none;color:inherit;opacity:.75">{bar}{escape(text)}</div>'
    return {"text/plain": text, "text/html": html}


class NotebookLine:
    def __init__(self) -> None:
        self._output = Output()
        self._at = 0.0

    def update(self, text: str, share: float | None = None) -> None:
        now = time.monotonic()
        if now - self._at >= FRESH_S:
            self._at = now
            self._output.wait(text, share)

    def end(self, text: str) -> None:
        if text or self._output.shown:
            self._output.show(bundle(text))


class TerminalLine:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._dirty = False

    def update(self, text: str, share: float | None = None) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._stream.write("\r\x1b[K" + (text if len(text) <= width else text[: width - 1] + "…"))
        self._stream.flush()
        self._dirty = True

    def end(self, text: str) -> None:
        if self._dirty:
            self._stream.write("\r\x1b[K")
        if text:
            self._stream.write(text + "\n")
        self._stream.flush()
        self._dirty = False


class PlainLine:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._at = time.monotonic()
        self._said = False

    def update(self, text: str, share: float | None = None) -> None:
        now = time.monotonic()
        if now - self._at >= PLAIN_S:
            self._at = now
            self._said = True
            print(text, file=self._stream, flush=True)

    def end(self, text: str) -> None:
        if text:
            print(text, file=self._stream, flush=True)


class Quiet:
    """No line at all."""

    def update(self, text: str, share: float | None = None) -> None:
        pass

    def end(self, text: str) -> None:
        pass
