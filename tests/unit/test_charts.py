"""Charts, from measurements to pixels."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pandas
import pytest
from nbgpu.charts.coldstart import coldstart
from nbgpu.charts.cost import cost
from nbgpu.charts.latency import FIRST, OTHER, QUEUE, REST, latency
from nbgpu.charts.workers import workers
from nbgpu.client import connect
from nbgpu.frames import frame
from nbgpu_backend.schema.metrics import Columns, CostSeries

from tests.support.api import CHANGE, PHASES, change_row, endpoint, now_us, request_row, worker


def table(rows: list[dict[str, Any]]) -> Any:
    names = list(request_row(0))
    return frame(Columns(rows=len(rows), columns={n: [r[n] for r in rows] for n in names}))


def test_parts_of_a_request_add_up() -> None:
    late = {**request_row(1, cold=True), "start_ms": 700.0, "queue_ms": 705.0, "first_byte_ms": 905.0,
            "total_ms": 1605.0}  # fmt: skip
    found = latency(table([request_row(0, cold=True), late, request_row(2)])).df
    parts = [QUEUE, *(f"start: {p}" for p in PHASES), OTHER, FIRST, REST]
    assert found[parts].sum(axis=1).tolist() == pytest.approx(found["total"].tolist())
    first, second, warm = found.to_dict("records")
    assert first["start: import"] == pytest.approx(0.9) and first[QUEUE] == pytest.approx(0.005)
    # it came in the middle of a start: only the later phases kept it waiting
    assert second["start: import"] == 0 and second["start: engine"] == pytest.approx(0.4)
    assert warm["start: weights"] == 0 and warm[FIRST] == pytest.approx(0.2)


def test_a_failed_request_without_times_is_drawn() -> None:
    dead = {**request_row(0, status=502), "first_byte_ms": None, "phases": {}, "total_ms": 3000.0}
    chart = latency(table([dead]), "chat")
    assert "1 failed" in chart.text() and chart.png


def test_failed_requests_do_not_make_it_look_quick() -> None:
    quick = {**request_row(0, status=404), "total_ms": 2.0, "first_byte_ms": 2.0, "queue_ms": 0.0}
    chart = latency(table([quick, request_row(1)]), "chat")
    assert "warm, 2 requests: 0.91 s" in chart.text()


def test_a_chart_in_json_is_json() -> None:
    dead = {**request_row(0), "tokens_out": None}
    (row,) = json.loads(json.dumps(latency(table([dead])).to_dict(), allow_nan=False))["rows"]
    assert row["tokens_out"] is None and row["arrived"].endswith("Z")


def test_no_requests_say_what_to_type() -> None:
    chart = latency(table([]), "chat")
    assert chart.text() == "No requests yet. Ask something with: %%gpu ask chat" and chart.png


@pytest.mark.parametrize("count", [1, 7, 31, 5000])
def test_any_number_of_requests_is_drawn(count: int) -> None:
    chart = latency(table([request_row(n, cold=n % 100 == 0) for n in range(count)]), "chat")
    width, height = size(chart.png)
    assert width == 1280 and height < 2400
    assert len(chart.df) == count and f"{count:,} request" in chart.text()


def test_a_chart_shows_itself_once_and_without_pyplot() -> None:
    chart = latency(table([request_row(0)]), "chat")
    data, metadata = chart._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"} and metadata["image/png"]["width"] == 640
    assert not hasattr(chart, "_repr_html_") and "matplotlib.pyplot" not in sys.modules


def test_the_ground_is_transparent() -> None:
    from matplotlib.image import imread

    chart = latency(table([request_row(0)]), "chat")
    assert imread(io.BytesIO(chart.png))[0, 0, 3] == 0


def series(total: str) -> CostSeries:
    at = [1_800_000_000_000_000 + n * 1_000_000 for n in range(3)]
    return CostSeries(since_us=at[0], until_us=at[-1], at_us=at, start=[0, 0.01, 0.01], busy=[0, 0, 0.02],
                      idle=[0, 0, 0.01], total=total, rate_source="$0.10/h (set by hand)")  # fmt: skip


def test_cost_names_total_rate_and_source() -> None:
    chart = cost(series("0.04"), "chat", "0.10", "local")
    assert "$0.04 since" in chart.text() and "at $0.10/h (set by hand)" in chart.text()
    assert "busy $0.02, start $0.01, idle $0.01" in chart.text() and chart.png


def test_a_rate_of_nothing_says_how_to_set_it() -> None:
    said = cost(series("0"), "chat", "0", "local").text()
    assert "rate 0: set it with %gpu settings rate.local=" in said


START_US = 1_800_000_000_000_000


def at(seconds: float) -> int:
    return START_US + round(seconds * 1e6)


def changes(*rows: tuple[str, float, str, str]) -> Any:
    made = [change_row(worker, at(s), state, reason) for worker, s, state, reason in rows]
    return frame(Columns(rows=len(made), columns={n: [r[n] for r in made] for n in CHANGE}))


def life(worker: str, begin: float, ready: float, end: float, how: str = "launched") -> list[Any]:
    return [(worker, begin, "starting", how), (worker, ready, "idle", "ready"),
            (worker, ready, "running", "busy"), (worker, end, "stopped", "idle_timeout")]  # fmt: skip


def asked(n: int, arrived: float, queue: float, total: float, **more: Any) -> dict[str, Any]:
    return {
        **request_row(n),
        "arrived_us": at(arrived),
        "queue_ms": queue * 1e3,
        "total_ms": total * 1e3,
        **more,
    }


def instant(seconds: float) -> pandas.Timestamp:
    return pandas.Timestamp(at(seconds), unit="us", tz="UTC")


def limited(most: int) -> Any:
    from nbgpu_backend.schema.endpoints import CreateEndpoint

    found = endpoint(CreateEndpoint.model_validate({"name": "chat", "nbgpu": {"model": "m"}}))
    found.workers.max, found.nbgpu.workers = most, []
    return found


def test_workers_and_requests_are_counted_over_time() -> None:
    table_ = changes(
        *life("w-1", 0, 20, 100), *life("w-2", 10, 12, 90), ("w-2", 50, "parked", "parked")
    )
    requests = table([
        asked(0, 0, 20, 30, cold=True, worker_id="w-1", tier="plain"),
        asked(1, 9, 3, 40, cold=True, worker_id="w-2", tier="preimported"), asked(2, 25, 0, 5),
    ])  # fmt: skip
    chart = workers(table_, requests, instant(200), endpoint="chat", found=limited(3))
    head, starts, said = chart.text().split("\n")
    assert head.endswith("rose to 2 of at most 3, 2 starts, 1 parked")
    assert starts == "cold starts: 20.0 s plain, 2.0 s preimported"
    assert said == "3 requests, at most 2 waiting at once, the longest for 20.0 s"
    rows = chart.df.set_index("at")
    states = ["starting", "running", "parked", "requests_waiting", "requests_running"]
    assert rows.loc[: instant(11), states].iloc[-1].tolist() == [2, 0, 0, 2, 0]
    assert rows.loc[: instant(26), states].iloc[-1].tolist() == [0, 2, 0, 0, 3]
    assert rows.loc[: instant(60), states].iloc[-1].tolist() == [0, 1, 1, 0, 0]
    assert rows[[*states, "idle"]].iloc[-1].sum() == 0 and chart.png
    assert rows.index[-1] < instant(104)  # what came after the last worker is not shown


def test_a_waking_is_told_from_a_launch() -> None:
    woken = changes(("w-1", 0, "starting", "launched"), ("w-1", 20, "idle", "ready"),
                    ("w-1", 80, "parked", "parked"), ("w-1", 100, "starting", "resumed"),
                    ("w-1", 100.1, "idle", "ready"))  # fmt: skip
    chart = workers(woken, table([]), instant(120), endpoint="chat", found=limited(1))
    head, starts, said = chart.text().split("\n")
    assert "2 starts, 1 parked" in head and starts == "cold starts: 0.1 s parked, 20.0 s"
    assert said == "no request" and chart.png


def test_since_keeps_what_began_before_and_lasts() -> None:
    long_ago = changes(("w-1", -9000, "starting", "launched"), ("w-1", -8980, "idle", "ready"))
    chart = workers(
        long_ago, table([]), instant(0), endpoint="chat", found=limited(2), since=instant(-600)
    )
    assert "up to 1 of at most 2, no start" in chart.text()
    assert chart.df["idle"].tolist() == [1, 1] and chart.png
    over = changes(*life("w-1", -9000, -8980, -8000))
    chart = workers(over, table([]), instant(0), endpoint="chat", since=instant(-600))
    assert chart.text().startswith("No worker of chat since ") and chart.png


def test_a_start_that_is_told_again_after_adoption_is_one_start() -> None:
    twice = changes(("w-1", 0, "starting", "launched"), ("w-1", 0, "starting", "adopted"),
                    ("w-1", 20, "idle", "ready"))  # fmt: skip
    chart = workers(twice, table([]), instant(30), found=limited(1))
    assert "1 start\ncold start: 20.0 s" in chart.text()


def test_a_worker_that_never_got_ready_is_a_start_without_a_time() -> None:
    broken = changes(("w-1", 0, "starting", "launched"), ("w-1", 5, "stopped", "exited"))
    text = workers(broken, table([]), instant(30), found=limited(1)).text()
    assert "rose to 1 of at most 1, 1 start (1 ended before it was ready)\nno request" in text
    coming = changes(("w-1", 0, "starting", "launched"))
    text = workers(coming, table([]), instant(30), found=limited(1)).text()
    assert "rose to 1 of at most 1, 1 start\nno request" in text


def test_a_burst_of_thousands_is_drawn_with_its_peak() -> None:
    rows = [asked(n, n / 500, 5, 10) for n in range(5000)]
    chart = workers(changes(*life("w-1", 0, 3, 60)), table(rows), instant(90), found=limited(1))
    assert len(chart.df) < 7000 and chart.df["requests_waiting"].max() == 2500
    assert "5,000 requests, at most 2,500 waiting at once" in chart.text() and chart.png


def test_no_workers_say_what_to_type() -> None:
    chart = workers(changes(), table([]), instant(0), endpoint="chat", found=limited(1))
    assert chart.text() == "No worker of chat yet. Start one with: %gpu warm chat" and chart.png
    assert list(chart.df["running"]) == []


def test_cold_starts_are_compared_by_tier_and_counted_once() -> None:
    plain = {"import": 8500.0, "engine": 9000.0}
    rows = [
        asked(0, 0, 18, 20, cold=True, worker_id="w-1", tier="plain", phases=plain),
        asked(1, 5, 13, 20, cold=True, worker_id="w-1", tier="plain", phases=plain),
        asked(2, 50, 2, 5, cold=True, worker_id="w-2", tier="preimported",
              phases={"fork": 100.0, "engine": 1900.0}),
        asked(3, 90, 0.1, 2, cold=True, worker_id="w-1", tier="parked", phases={"resume": 90.0}),
        asked(4, 95, 0, 2),
    ]  # fmt: skip
    chart = coldstart(table(rows), "chat")
    assert chart.text().split("\n") == [
        "Cold starts of chat: 3 starts",
        "plain, 1 start: 17.5 s; import 8.5 s, engine 9.0 s",
        "preimported, 1 start: 2.0 s; fork 0.1 s, engine 1.9 s",
        "parked, 1 start: 90 ms; resume 90 ms",
    ]
    assert list(chart.df["tier"]) == ["plain", "preimported", "parked"] and chart.png
    assert json.loads(json.dumps(chart.to_dict()))["rows"][0]["total"] == 17.5


def test_a_start_without_a_request_is_known_from_its_worker() -> None:
    found = limited(1)
    found.nbgpu.workers = [worker()]
    assert "1 start: 9.8 s; import 9.8 s" in coldstart(table([]), "chat", found).text()
    empty = coldstart(table([]), "chat")
    assert empty.text() == "No cold start of chat yet. Start a worker with: %gpu warm chat"


@pytest.mark.parametrize("kind", ["workers", "coldstart"])
def test_a_chart_of_the_backends_tables(api: Any, kind: str) -> None:
    gpu = connect()
    gpu.deploy("Org/M", name="chat")
    api.requests = [request_row(0, cold=True), request_row(1)]
    api.changes = [change_row("w1", now_us() - 60_000_000, "starting", "launched"),
                   change_row("w1", now_us() - 40_000_000, "idle", "ready")]  # fmt: skip
    for since in (None, 3600):
        chart = gpu.chart("chat", kind, since=since)
        assert "of chat" in chart.text() and len(chart.df) and size(chart.png)[0] == 1280
    assert gpu.endpoint("chat").chart(kind).png


def size(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
