"""The live line: on a terminal, elsewhere, and as an output of a notebook."""

from __future__ import annotations

import io

from nbgpu.live import PlainLine, TerminalLine, bundle
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
    assert Progress(told).share() == 3 / 21
    assert Progress({**told, "elapsed_s": 99.0}).share() == 0.95
    assert Progress({"state": "queued", "elapsed_s": 1.0, "typical_s": 21.0}).share() is None


def test_in_a_notebook_it_has_a_bar_where_the_share_is_known() -> None:
    shown = bundle("a <b> & c", 0.374)
    assert shown["text/plain"] == "a <b> & c"
    assert '<progress max="100" value="37"' in shown["text/html"]
    assert ">37%</progress> a &lt;b&gt; &amp; c</div>" in shown["text/html"]
    assert "progress" not in bundle("done")["text/html"]
