"""How an answer is shown while it comes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from nbgpu import live
from nbgpu.formats import span
from nbgpu.results.answer import Answer
from nbgpu.results.shape import html_line, html_pre

if TYPE_CHECKING:
    from nbgpu.client import Client


class Screen:
    """Waiting is shown once it is noticed, the answer is returned and not shown."""

    NOTICED_S = 1.0

    def __init__(self, line: live.Line) -> None:
        self.line = line
        self.waited = False
        self.began = time.monotonic()

    def wait(self, text: str, share: float | None = None) -> None:
        if time.monotonic() - self.began >= self.NOTICED_S:
            self.waited = True
            self.line.update(text, share)

    def piece(self, answer: Answer, text: str) -> None:
        pass

    def broke(self, answer: Answer, how: str) -> None:
        self.line.end(f"{answer.endpoint}: {how}" if self.waited else "")

    def end(self, answer: Answer) -> None:
        took = (answer.timings.get("total_ms") or 0) / 1000
        self.line.end(f"{answer.endpoint}: answered, after {span(took)}" if self.waited else "")


class Terminal(Screen):
    """The text on stdout as it comes, all else on stderr."""

    def __init__(self, line: live.Line) -> None:
        super().__init__(line)
        self.open = False

    def piece(self, answer: Answer, text: str) -> None:
        if not self.open:
            self.line.end("")
        self.open = True
        sys.stdout.write(text)
        sys.stdout.flush()

    def _close(self) -> None:
        if self.open:
            sys.stdout.write("\n")
            sys.stdout.flush()

    def broke(self, answer: Answer, how: str) -> None:
        self._close()
        self.line.end("")

    def end(self, answer: Answer) -> None:
        self._close()
        self.line.end(answer.badge())
        answer.shown = True


class Notebook(Screen):
    """One output: the live line, then the text, then the text with its badge."""

    EVERY_S = 0.1

    def __init__(self) -> None:
        super().__init__(live.Quiet())
        self.output = live.Output()
        self.at = 0.0

    def _show(self, answer: Answer, below: str) -> None:
        html = html_pre(answer.said) + (html_line(below, faint=True) if below else "")
        plain = answer.said + (f"\n[{below}]" if below else "")
        self.output.show({"text/plain": plain.strip(), "text/html": html})

    def wait(self, text: str, share: float | None = None) -> None:
        self.output.wait(text, share)

    def piece(self, answer: Answer, text: str) -> None:
        now = time.monotonic()
        if now - self.at >= self.EVERY_S:
            self.at = now
            self._show(answer, "…")

    def broke(self, answer: Answer, how: str) -> None:
        if self.output.shown:
            self._show(answer, how)

    def end(self, answer: Answer) -> None:
        self.output.show({"text/plain": answer.text(), "text/html": answer.html()})
        answer.shown = True


def screen(client: Client) -> Screen:
    """How the answer of this client's question is shown."""
    if not client.aloud:
        return Screen(live.line())
    return Notebook() if live.in_notebook() else Terminal(live.line())
