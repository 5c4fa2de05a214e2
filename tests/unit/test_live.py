"""The live line where there is no notebook."""

from __future__ import annotations

import io

from nbgpu.live import PlainLine, TerminalLine
from nbgpu.stream import Progress


def test_on_a_terminal_it_is_written_over() -> None:
    out = io.StringIO()
    line = TerminalLine(out)
    line.update("one")
    line.update("x" * 500)
    line.end("done")
    assert out.getvalue().startswith("\r\x1b[Kone\r\x1b[Kxxx")
    assert "…\r\x1b[Kdone\n" in out.getvalue() and out.getvalue().count("\n") == 1


def test_elsewhere_it_says_little() -> None:
    out = io.StringIO()
    line = PlainLine(out)
    for n in range(100):
        line.update(f"step {n}")
    line.end("done")
    assert out.getvalue() == "done\n"


def test_a_line_tells_what_how_long_what_is_typical_and_the_cost() -> None:
    told = {"state": "starting", "text": "starting a worker: weights (3 s, usually 21 s)", "phase": "weights",
            "elapsed_s": 3.0, "typical_s": 21.0, "cost": "0.0012"}  # fmt: skip
    assert Progress(told).line("chat") == (
        "chat: starting a worker: weights · 3.0 s of typically 21.0 s · $0.0012 so far · interrupt to cancel"
    )
    assert Progress({"state": "queued"}).line("chat") == "chat: queued · interrupt to cancel"
