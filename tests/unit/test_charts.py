"""Charts, from measurements to pixels."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from nbgpu.charts.cost import cost
from nbgpu.charts.latency import FIRST, OTHER, QUEUE, REST, latency
from nbgpu.frames import frame
from nbgpu_backend.schema.metrics import Columns, CostSeries

from tests.support.api import PHASES, request_row


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


def size(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
