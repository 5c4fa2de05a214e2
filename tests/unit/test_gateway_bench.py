"""What the gateway's bench believes: which answers are whole, and what its medians mean."""

from __future__ import annotations

import json

import pytest

from tests.bench.gateway.client import whole
from tests.bench.gateway.figures import Figures
from tests.bench.gateway.rounds import REQUESTS, STREAMS, Measured
from tests.support.fast_upstream import LAST, STREAM_HEAD, TEXT, WORDS, Answers

ANSWERS = Answers("bench")


@pytest.mark.parametrize("usage", [False, True])
def test_the_stand_ins_stream_is_whole(usage: bool) -> None:
    assert whole(ANSWERS.streams[usage][len(STREAM_HEAD) :])


def test_the_stand_ins_answer_has_all_words() -> None:
    body = json.loads(ANSWERS.whole.partition(b"\r\n\r\n")[2])
    assert body["choices"][0]["message"]["content"] == TEXT
    assert body["usage"]["completion_tokens"] == WORDS


def test_a_stream_is_whole_however_it_was_cut_into_chunks() -> None:
    text = b"".join(event.split(b"\r\n", 1)[1][:-2] for event in ANSWERS.events[False])
    cut = [text[at : at + 100] for at in range(0, len(text), 100)]
    assert whole(b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in cut) + LAST)


def test_a_stream_that_lacks_a_word_is_not_whole() -> None:
    events = ANSWERS.events[False]
    assert not whole(b"".join([*events[:10], *events[11:]]) + LAST)


def test_a_stream_with_a_word_twice_is_not_whole() -> None:
    events = ANSWERS.events[False]
    assert not whole(b"".join([*events[:10], events[9], *events[10:]]) + LAST)


def test_a_stream_out_of_order_is_not_whole() -> None:
    events = list(ANSWERS.events[False])
    events[10], events[11] = events[11], events[10]
    assert not whole(b"".join(events) + LAST)


def test_a_stream_without_its_end_is_not_whole() -> None:
    assert not whole(b"".join(ANSWERS.events[False][:-1]) + LAST)


def test_what_a_gateway_adds_is_told_by_the_rounds_and_not_by_all_of_them_together() -> None:
    measured = [
        Measured(peer, REQUESTS, 1, number, {"p50_ms": p50, "rate": 1.0})
        for number, direct in enumerate((1.0, 10.0, 2.0))
        for peer, p50 in (("direct", direct), ("nbgpu", direct + 0.5))
    ]
    figures = Figures(measured)
    assert figures.keys()["added_p50_1_ms"] == {"nbgpu": 0.5}
    assert figures.spreads()["p50_1_ms"]["nbgpu"] == [1.5, 10.5]


def test_a_figure_that_was_not_seen_is_left_out() -> None:
    figures = Figures([Measured("litellm", STREAMS, 256, 0, {"rate": 0.0})])
    assert figures.keys() == {"streams_256": {"litellm": 0.0}}
    assert "litellm" in figures.table()
