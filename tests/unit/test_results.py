"""What comes back shows itself: in HTML that is escaped, and in text that stands alone."""

from __future__ import annotations

from html import escape
from html.parser import HTMLParser
from typing import Any

import pytest
from nbgpu import words
from nbgpu.client import connect
from nbgpu.results.answer import Answer
from nbgpu.results.shape import Rich
from nbgpu_backend.schema.endpoints import SkippedPlace, Warmth
from nbgpu_backend.schema.events import Event

from tests.support.api import Api, now_us, worker

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


def event(seq: int, text: str) -> Event:
    return Event(seq=seq, at_us=now_us(), kind="worker.ready", endpoint_id="ep", endpoint="chat",
                 worker_id="w1", text=text)  # fmt: skip


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
    extras = found.nbgpu.workers[0].nbgpu
    extras.fell_back = extras.reason.text = EVIL
    extras.skipped = [SkippedPlace(what="H100", code="taken", text=EVIL)]
    api.events = [event(2, EVIL), event(1, "chat was deployed")]
    return client


@pytest.mark.parametrize("verb", ["status", "ls", "settings"])
def test_what_there_is(gpu: Any, verb: str) -> None:
    found = gpu.do(verb)
    check(found)
    assert len(found.df) == (3 if verb == "settings" else 1)  # a rate, the place, the lease of pods


@pytest.mark.parametrize("verb", ["show", "why", "logs", "events", "stop", "delete"])
def test_one_endpoint(gpu: Any, verb: str) -> None:
    check(gpu.do(verb, name="chat"))


@pytest.mark.parametrize("subject", ["w-0123456789", "req-0123456789abcdef"])
def test_why_of_a_worker_and_of_a_request_has_the_backends_words(gpu: Any, subject: str) -> None:
    found = gpu.why(subject)
    check(found)
    kind = "worker" if subject.startswith("w-") else "request"
    assert found.text().startswith(f"{kind} {subject} is ")
    for line in ("tier: plain start", "  not on H100: <taken>"):
        assert line in found.text().split("\n", 1)[1] and escape(line) in found.html()
    assert ("took" if kind == "request" else "3.2 s ago") in found.text()


def test_show_tells_of_each_worker_and_of_how_it_scales(gpu: Any, api: Api) -> None:
    n = api.endpoints["chat"].nbgpu
    extras = n.workers[0].nbgpu
    extras.tier, extras.fell_back, extras.memory_bytes = (
        "plain",
        "its parent was busy",
        1_200_000_000,
    )
    extras.reason.text, extras.skipped[0].text = "ready", "2 of 2 are taken"
    n.warm = Warmth(until_us=now_us() + 600_000_000, workers=2)
    found = gpu.show("chat")
    said = found.text()
    row = next(line for line in said.split("\n") if line.startswith("w1"))
    assert "● idle" in row and "plain" in row and "1.2 GB" in row and "$0.41" in row
    for line in ("ready", "import 9.8 s", "no sooner start: its parent was busy",
                 "not on H100: 2 of 2 are taken", "pid 4711, port 8001"):  # fmt: skip
        assert f"\n  {line}" in said and f"<div>{line}</div>" in found.html()
    assert f"until {words.clock(n.warm.until_us)}, 2 workers" in said
    assert "another worker once a request has waited 4 s" in said
    assert "from a pre-imported parent, or woken where it was parked" in said
    assert found.df["phases"][0] == {"import": 9.8} and str(found.df["since"].dtype).endswith(
        "UTC]"
    )


def test_the_list_counts_workers_by_state_and_the_status_stays_short(gpu: Any, api: Api) -> None:
    running, parked = worker("w2"), worker("w3")
    running.nbgpu.state, parked.nbgpu.state = "running", "parked"
    api.endpoints["chat"].nbgpu.workers += [running, parked]
    assert "1 running, 1 idle, 1 parked, max 1" in gpu.ls().text()
    assert gpu.ls().df[["workers", "workers_parked"]].values.tolist() == [[2, 1]]
    status = gpu.status().text()
    assert "· 2 workers, 1 parked ·" in status and "2 of 1, 1 parked" in status
    api.endpoints["chat"].nbgpu.workers = []
    assert "none, max 1" in gpu.ls().text()


def test_events_come_newest_last(gpu: Any, api: Api) -> None:
    found = gpu.events("chat")
    assert found.text().split("\n")[1].endswith("chat was deployed")
    assert [e["seq"] for e in found.to_dict()["events"]] == [1, 2]
    assert list(found.df["seq"]) == [1, 2] and str(found.df["at"].dtype).endswith("UTC]")
    assert "endpoint" in gpu.events().text() and len(gpu.events(limit=1)) == 1
    api.events = []
    check(gpu.events())
    assert gpu.events("chat").text() == "Nothing has happened to chat yet."


def test_the_handle_scales_and_warms(gpu: Any, api: Api) -> None:
    ep = gpu.endpoint("chat")
    assert ep.scale(workers=3).data.workers.max == 3
    assert ep.warm("1m").data.nbgpu.warm.workers == 1 and api.bodies[-1]["seconds"] == 60
    assert ep.cool().data.nbgpu.warm is None
    assert len(ep.events()) == 2


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
