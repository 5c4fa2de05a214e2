"""A stream on its way through, however it is cut into chunks."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from nbgpu_backend.domain.histogram import Histogram
from nbgpu_backend.serving.stream import StreamMeter, ask_for_usage

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5}}\n\n'
EVENTS = [b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % i for i in range(5)]
WHOLE = b"".join(EVENTS) + USAGE + b"data: [DONE]\n\n"


def meter(strip: bool) -> StreamMeter:
    ticks = iter(range(1000))
    return StreamMeter(lambda: next(ticks) / 1000, Histogram(), strip_usage=strip)


@given(st.lists(st.integers(1, len(WHOLE)), max_size=20), st.booleans())
def test_the_bytes_are_the_same_however_they_are_cut(cuts: list[int], strip: bool) -> None:
    edges = sorted({0, len(WHOLE), *cuts})
    found = meter(strip)
    out = b"".join(found.feed(WHOLE[a:b]) for a, b in pairwise(edges))
    assert out + found.rest() == (WHOLE.replace(USAGE, b"") if strip else WHOLE)
    assert found.events == 5 and found.finished
    assert found.usage == {"prompt_tokens": 3, "completion_tokens": 5}


def test_usage_inside_a_last_chunk_with_choices_is_never_stripped() -> None:
    event = b'data: {"choices":[{"delta":{}}],"usage":{"completion_tokens":1}}\n\n'
    assert meter(True).feed(event) == event


def test_usage_is_asked_for_without_touching_the_rest() -> None:
    body = b'{"model":"m", "stream":true}'
    asked, strip = ask_for_usage(body, json.loads(body))
    assert strip and asked.startswith(body[:-1])
    assert json.loads(asked)["stream_options"] == {"include_usage": True}
    again, strip = ask_for_usage(asked, json.loads(asked))
    assert again == asked and not strip
    partly = b'{"stream":true,"stream_options":{"x":1}}'
    asked, strip = ask_for_usage(partly, json.loads(partly))
    assert strip and json.loads(asked)["stream_options"] == {"x": 1, "include_usage": True}


def test_quantiles_come_from_the_buckets() -> None:
    gaps = Histogram()
    for ms in [1.0] * 99 + [1000.0]:
        gaps.add(ms)
    p50, p999 = gaps.quantile(0.5), gaps.quantile(0.999)
    assert p50 and 1.0 <= p50 < 1.5 and p999 and p999 >= 1000
    assert Histogram.from_sparse(gaps.sparse()).counts == gaps.counts
    assert Histogram().quantile(0.5) is None
