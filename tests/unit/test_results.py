"""What comes back shows itself: in HTML that is escaped, and in text that stands alone."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from nbgpu.client import connect
from nbgpu.results.answer import Answer
from nbgpu.results.shape import Rich

from tests.support.api import Api

EVIL = "<script>alert(1)</script>"
TAGS = {"table", "thead", "tbody", "tr", "th", "td", "div", "span", "b", "pre"}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.add(tag)
        self.open.append(tag)
        assert "background:#" not in str(attrs) and "background:white" not in str(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(found: Rich) -> None:
    tags = Tags()
    tags.feed(found._repr_html_())
    assert tags.found <= TAGS and tags.open == []
    assert repr(found).strip()
    assert found.json()


@pytest.fixture
def gpu(api: Api) -> Any:
    client = connect()
    client.deploy(EVIL, name="chat")
    found = api.endpoints["chat"]
    found.nbgpu.reason.text = found.nbgpu.workers[0].nbgpu.tier = EVIL
    return client


@pytest.mark.parametrize("verb", ["status", "ls", "settings"])
def test_what_there_is(gpu: Any, verb: str) -> None:
    found = gpu.run(verb)
    check(found)
    assert len(found.df) == 1


@pytest.mark.parametrize("verb", ["show", "why", "logs", "stop", "delete"])
def test_one_endpoint(gpu: Any, verb: str) -> None:
    check(gpu.run(verb, name="chat"))


def test_answers(gpu: Any) -> None:
    found = gpu.ask("chat", EVIL)
    check(found)
    assert EVIL in str(found) and len(found.df) == 1
    check(Answer("chat", "hi"))


def test_an_empty_list_says_what_to_type(api: Api) -> None:
    assert "%gpu deploy" in connect().ls().text()


def test_a_cold_badge_tells_queue_start_and_first_token() -> None:
    timings = {"queue_ms": 21000.0, "cold": True, "start_ms": 20700.0, "phases": {}, "first_byte_ms": 21400.0,
               "total_ms": 22000.0, "tokens_in": 3, "tokens_out": 1, "cost": "0"}  # fmt: skip
    badge = Answer("chat", "x", timings=timings, finish_reason="length").badge()
    assert badge == (
        "answered in 22.0 s: 20.7 s cold start, 0.3 s in the queue, first token 0.4 s · 1 token · $0 · "
        "cut at the longest answer (--max-tokens)"
    )
