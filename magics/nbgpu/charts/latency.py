"""Where the time of requests went."""

from __future__ import annotations

from typing import Any

import numpy
import pandas
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nbgpu.charts import look
from nbgpu.charts.chart import Chart
from nbgpu.formats import plural, span

BARS = 30  # more requests than this are shown as percentiles
QUEUE, OTHER, FIRST, REST = "queue", "other start", "to first token", "rest of generation"
LEVELS = (50, 95, 99)
NEGLIGIBLE_MS = 50
FEW = 5  # of fewer requests a percentile says nothing


def latency(requests: pandas.DataFrame, endpoint: str | None = None) -> Chart:
    """One bar a request up to BARS requests, percentiles above; cold and warm requests apart.

    `requests` is the `requests` table of the backend. `.df` of the chart has a row a request and a
    column a part, in seconds.
    """
    if requests.empty:
        name = endpoint or "NAME"
        text = f"No requests yet. Ask something with: %%gpu ask {name}"
        return Chart(look.sentence(text), parts(requests), text)
    table = parts(requests)
    groups = [
        (word, table[table["cold"] == cold]) for word, cold in (("cold", True), ("warm", False))
    ]
    groups = [(word, rows) for word, rows in groups if len(rows)]
    lines = [line(word, rows) for word, rows in groups]
    head = f"Latency of {endpoint}" if endpoint else "Latency"
    failed = int((table["status"] >= 400).sum())
    summary = "\n".join(
        [
            f"{head}, {plural(len(table), 'request')}" + (f", {failed} failed" if failed else ""),
            *lines,
        ]
    )
    if len(table) <= BARS:
        figure = _bars(groups)
    else:
        answered = [(word, rows[rows["status"] < 400]) for word, rows in groups]
        figure = _percentiles([(w, rows) for w, rows in answered if len(rows)] or groups)
    look.headline(figure, summary.partition("\n")[0])
    return Chart(figure, table, summary)


def parts(requests: pandas.DataFrame) -> pandas.DataFrame:
    """Each request's time by part, in seconds: queue, the phases of a start, first token, rest.

    A request that came in the middle of a worker's start waited for the later phases only: phases are
    counted from the last one back, until they make up what it waited.
    """
    rows: list[dict[str, Any]] = []
    for record in requests.to_dict("records"):
        queue, start = (
            _ms(record["queue_ms"]),
            min(_ms(record["start_ms"]), _ms(record["queue_ms"])),
        )
        first, total = _ms(record["first_byte_ms"]), _ms(record["total_ms"])
        first = min(max(first, queue), max(total, queue)) if first else queue
        row = {
            "arrived": record["arrived"], "endpoint": record["endpoint"], "cold": bool(record["cold"]),
            "status": record["status"], "tokens_out": record["tokens_out"], QUEUE: queue - start,
        }  # fmt: skip
        left = start
        phases = record["phases"] if isinstance(record["phases"], dict) else {}
        for phase, took in reversed(phases.items()):
            used = min(left, _ms(took))
            left -= used
            if used > 0:
                row[f"start: {phase}"] = used
        if left < NEGLIGIBLE_MS:  # between the launch and the first line of a log
            row[QUEUE] += left
            left = 0.0
        row[OTHER] = left
        row[FIRST] = first - queue
        row[REST] = max(total - first, 0.0)
        row["total"] = max(total, queue)
        rows.append(row)
    fixed = ["arrived", "endpoint", "cold", "status", "tokens_out", QUEUE]
    starts = _in_order(requests)
    columns = [*fixed, *starts, OTHER, FIRST, REST, "total"]
    table = pandas.DataFrame(rows, columns=columns)
    numbers = [c for c in columns if c not in fixed[:5]]
    table[numbers] = table[numbers].astype(float).fillna(0.0) / 1000
    return table


def _in_order(requests: pandas.DataFrame) -> list[str]:
    """The phases' columns, in the order of a start."""
    seen: dict[str, None] = {}
    for phases in requests.get("phases", []):
        if isinstance(phases, dict):
            seen.update(dict.fromkeys(f"start: {phase}" for phase in phases))
    return list(seen)


def _ms(value: Any) -> float:
    return 0.0 if value is None or pandas.isna(value) else float(value)


def line(word: str, rows: pandas.DataFrame) -> str:
    """`warm, 12 requests: p50 0.45 s, p95 0.9 s, p99 1.1 s; first token p50 0.2 s`."""
    answered = rows[rows["status"] < 400]  # a failure may be quick
    counted = answered if len(answered) else rows
    totals = counted["total"].to_numpy()
    if len(counted) == 1:
        said = span(totals[0])
    elif len(counted) < FEW:
        said = f"{span(totals.min())} to {span(totals.max())}"
    else:
        said = ", ".join(f"p{p} {span(numpy.percentile(totals, p))}" for p in LEVELS)
    first = (counted["total"] - counted[REST]).to_numpy()
    return (
        f"{word}, {plural(len(rows), 'request')}: {said}; first token {span(numpy.median(first))}"
    )


def shares(rows: pandas.DataFrame) -> list[tuple[str, str]]:
    """The parts that occur, in order, with their colours."""
    starts = [c for c in rows.columns if c.startswith("start: ")]
    found = [(QUEUE, look.QUEUE)]
    spread = numpy.linspace(0, len(look.STARTS) - 1, max(len(starts), 1)).round().astype(int)
    found += [(c, look.STARTS[i]) for c, i in zip(starts, spread, strict=False)]
    found += [(OTHER, look.STARTS[-1]), (FIRST, look.FIRST), (REST, look.REST)]
    return [(c, colour) for c, colour in found if (rows[c] > 0).any()]


def _bars(groups: list[tuple[str, pandas.DataFrame]]) -> Figure:
    heights = [0.62 + 0.2 * max(len(rows) + (len(rows) >= FEW), 2) for _, rows in groups]
    figure = look.figure(1.0 + sum(heights))
    axes_of = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (word, rows) in zip(axes_of, groups, strict=True):
        look.title(axes, line(word, rows))
        labels = [f"{at:%H:%M:%S}" for at in rows["arrived"].dt.tz_convert(look.zone())]
        _stack(axes, rows, labels)
        if len(rows) >= FEW:
            _guides(axes, rows["total"].to_numpy())
    _key(figure, pandas.concat([rows for _, rows in groups]))
    return figure


def _stack(axes: Any, rows: pandas.DataFrame, labels: list[str]) -> None:
    """One horizontal bar a row, from the top down."""
    look.dress(axes)
    left = numpy.zeros(len(rows))
    places = numpy.arange(len(rows))
    for column, colour in shares(rows):
        widths = rows[column].to_numpy()
        axes.barh(places, widths, left=left, color=colour, height=0.72)
        left = left + widths
    longest = float(left.max()) or 1.0
    for place, total, status in zip(places, left, rows["status"], strict=True):
        bad = status >= 400
        text = span(total) + (f"  ✕ {status:.0f}" if bad else "")
        colour = look.VERMILION if bad else look.GREY
        axes.text(total + longest * 0.008, place, text, va="center", fontsize=8, color=colour)
    axes.set_yticks(places, labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.12)
    axes.xaxis.set_major_formatter(look.seconds)


def _guides(axes: Any, totals: Any) -> None:
    """p50 and p95 as lines behind the bars, named above them."""
    axes.set_ylim(len(totals) - 0.4, -1.5)
    for level, style in ((50, "-"), (95, "--")):
        at = float(numpy.percentile(totals, level))
        axes.axvline(at, color=look.GREY, linewidth=1, linestyle=style, alpha=0.6, zorder=0.5)
        axes.text(at, -1, f" p{level}", va="center", fontsize=8, color=look.GREY)


def _key(figure: Figure, rows: pandas.DataFrame) -> None:
    found = shares(rows)
    handles = [Patch(color=colour) for _, colour in found]
    look.legend(figure, handles, [column for column, _ in found],
                loc="outside lower left", ncols=min(len(found), 5))  # fmt: skip


def _percentiles(groups: list[tuple[str, pandas.DataFrame]]) -> Figure:
    """Bars of what a request at p50, p95 and p99 is made of, and the whole curve of the warm ones."""
    warm = next((rows for word, rows in groups if word == "warm" and len(rows) >= FEW), None)
    heights = [1.0] * len(groups) + ([2.2] if warm is not None else [])
    figure = look.figure(0.9 + 1.25 * sum(heights) / 1.1)
    axes_of = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (word, rows) in zip(axes_of, groups, strict=False):
        look.title(axes, line(word, rows))
        _stack(axes, typical(rows), [f"p{level}" for level in LEVELS])
    if warm is not None:
        _curve(axes_of[-1], warm)
    _key(figure, pandas.concat([rows for _, rows in groups]))
    return figure


def typical(rows: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each of LEVELS: the mean parts of the requests nearest to that percentile."""
    found = []
    starts = [c for c in rows.columns if c.startswith("start: ")]
    columns = [QUEUE, *starts, OTHER, FIRST, REST]
    for level in LEVELS:
        at = float(numpy.percentile(rows["total"], level))
        near = (rows["total"] - at).abs().nsmallest(max(1, len(rows) // 50)).index
        mean = rows.loc[near, columns].mean()
        found.append(mean * (at / float(mean.sum() or 1.0)))
    table = pandas.DataFrame(found).reset_index(drop=True)
    return table.assign(status=0)


def _curve(axes: Any, rows: pandas.DataFrame) -> None:
    """How many warm requests had their first token, and their whole answer, within which time."""
    look.dress(axes, grid="both")
    share = numpy.linspace(0, 100, 400)
    for values, colour in (
        (rows["total"] - rows[REST], look.FIRST),
        (rows["total"], look.REST),
    ):
        axes.plot(numpy.percentile(values, share), share, color=colour, linewidth=2)
    for level in LEVELS:
        at = float(numpy.percentile(rows["total"], level))
        axes.plot([at], [level], "o", color=look.REST, markersize=4.5)
        # beside the curve or below it: labels near the top would lie on it
        axes.annotate(f"p{level} {span(at)}", (at, level), (7, -12 if level > 90 else -3),
                      textcoords="offset points", fontsize=8.5, color=look.GREY)  # fmt: skip
    axes.set_ylim(0, 104)
    axes.set_yticks([0, 25, 50, 75, 100])
    # the slowest one in a hundred would press the rest to the left edge
    axes.set_xlim(
        0, min(float(rows["total"].max()) * 1.12, float(numpy.percentile(rows["total"], 99)) * 1.35)
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
    axes.xaxis.set_major_formatter(look.seconds)
    look.title(axes, "warm: share of requests with their first token (dark), and all of it, within")
