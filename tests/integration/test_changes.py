"""What a live view hears and fetches: events, beats and changes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from nbgpu_backend import runtime

from tests.support.backend import BackendProcess, command_engine
from tests.support.waiting import until

Heard = tuple[str, str | None, dict[str, Any]]


def test_a_snapshot_then_only_what_is_new(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("fresh")
    first = shared_backend.get("/nbgpu/v1/changes")
    assert first["gap"] and first["seq"] == first["events"][-1]["seq"]
    assert "fresh" in [row["name"] for row in first["summary"]["endpoints"]]
    nothing = shared_backend.get(f"/nbgpu/v1/changes?since={first['seq']}")
    assert (nothing["gap"], nothing["events"], nothing["seq"]) == (False, [], first["seq"])
    shared_backend.http.delete("/v2/serverless/fresh").raise_for_status()
    more = shared_backend.get(f"/nbgpu/v1/changes?since={first['seq']}")
    assert not more["gap"] and [e["kind"] for e in more["events"]] == ["endpoint.deleted"]
    assert more["seq"] == more["events"][-1]["seq"]


def test_a_seq_that_was_never_given_is_a_gap(shared_backend: BackendProcess) -> None:
    found = shared_backend.get("/nbgpu/v1/changes?since=999999999")
    assert found["gap"] and found["seq"] < 999999999


def test_too_many_events_leave_a_gap(shared_backend: BackendProcess) -> None:
    start = shared_backend.get("/nbgpu/v1/changes")["seq"]
    for _ in range(501):
        shared_backend.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "0"}})
    found = shared_backend.get(f"/nbgpu/v1/changes?since={start}")
    assert found["gap"] and len(found["events"]) == 500
    assert [e["seq"] for e in found["events"]] == list(range(start + 2, start + 502))
    assert len(shared_backend.get("/nbgpu/v1/changes")["events"]) == 200


def test_a_row_tells_what_a_panel_shows(shared_backend: BackendProcess) -> None:
    shared_backend.deploy(
        "row",
        workers={"min": 0, "max": 1, "idleTimeout": 77},
        nbgpu={"engine": command_engine(), "origin": {"notebook": "a.ipynb"}},
    )
    for _ in range(3):
        assert shared_backend.chat("row").status_code == 200
    row = shared_backend.row("row")
    assert row["workersByState"] == {"idle": 1}
    assert row["requestsPerS"] == 0.05 and sum(row["spark"]) == 3 and len(row["spark"]) == 60
    assert 0 < row["p50Ms"] <= row["p95Ms"]
    assert (row["origin"], row["idleTimeoutS"]) == ("a.ipynb", 77)
    assert row["baseUrl"] == shared_backend.backend.url + "/v2/row/openai/v1"
    assert row["createdUs"] <= row["reasonSinceUs"] <= time.time_ns() // 1000


def test_figures_survive_a_kill(backend: BackendProcess) -> None:
    backend.deploy("kept")
    backend.chat("kept")
    backend.records("kept", 1)  # on the disk
    before = backend.row("kept")
    backend.kill()
    backend.start()
    after = backend.row("kept")
    assert sum(after["spark"]) == 1 and after["p50Ms"] == before["p50Ms"]


def test_requests_are_heard_as_beats_and_quiet_is_quiet(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("beat", workers={"min": 1, "max": 1})
    shared_backend.worker("beat", "idle")
    ours = shared_backend.row("beat")["id"]
    with following(shared_backend, "beat") as stream:
        began = time.monotonic()
        for _ in range(40):
            shared_backend.chat("beat")
        took = time.monotonic() - began
        heard: list[Heard] = []
        with pytest.raises(httpx.ReadTimeout):  # 2 s without a byte
            for item in stream:
                heard.append(item)
    beats = [(number, data) for kind, number, data in heard if kind == "requests"]
    assert beats[0] == (None, {"kind": "requests", "endpointIds": [ours]})
    assert len(beats) <= took / 0.2 + 2


def test_a_change_is_heard_after_it_shows(shared_backend: BackendProcess) -> None:
    """Whoever fetches at the last thing heard sees the last state."""
    shared_backend.deploy("ends", workers={"min": 1, "max": 1})
    shared_backend.worker("ends", "idle")
    looks = []
    with following(shared_backend, "ends") as stream, ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(shared_backend.cli, "stop", "ends")
        with pytest.raises(httpx.ReadTimeout):
            for _ in stream:
                looks.append(shared_backend.row("ends"))
        assert stopping.result().returncode == 0
    assert (looks[-1]["state"], looks[-1]["workers"]) == ("stopped", [])


def test_an_open_stream_does_not_delay_the_end(backend: BackendProcess) -> None:
    pid = backend.backend.pid
    with following(backend) as stream:
        began = time.monotonic()
        backend.http.post("/nbgpu/v1/shutdown", json={"all": False}).raise_for_status()
        assert list(stream) == []
        until(lambda: runtime.start_time(pid) is None)
        assert time.monotonic() - began < 3


def test_events_of_a_burst_all_come_in_their_order(shared_backend: BackendProcess) -> None:
    start = shared_backend.get("/nbgpu/v1/changes")["seq"]

    def change(_: int) -> None:
        shared_backend.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "0"}})

    with following(shared_backend) as heard, ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(100)))
        ids = [int(seq) for _, seq, _ in (next(heard) for _ in range(100)) if seq is not None]
    assert ids == list(range(start + 1, start + 101))


@contextmanager
def following(backend: BackendProcess, endpoint: str | None = None) -> Iterator[Iterator[Heard]]:
    """The stream of events as (kind, id, data); two seconds without a byte are httpx.ReadTimeout."""
    query = f"?endpoint={endpoint}" if endpoint else ""
    with backend.http.stream("GET", "/nbgpu/v1/events" + query, timeout=2.0) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": connected"
        yield _events(lines)


def _events(lines: Iterator[str]) -> Iterator[Heard]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], fields.get("id"), json.loads(fields["data"])
            fields = {}
