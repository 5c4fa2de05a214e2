"""What cold starts are made of, by the way in which the worker started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import pandas
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.patches import Patch

from nbgpu.charts import look
from nbgpu.charts.chart import Chart
from nbgpu.formats import plural, span

if TYPE_CHECKING:
    from nbgpu_backend.schema.endpoints import Endpoint

TIERS = ("plain", "preimported", "parked")
UNKNOWN = "start"  # of records that do not say how
BARS = 15  # of one tier, the newest; more are no easier to compare
FIXED = ("at", "worker_id", "tier", "total")


def coldstart(
    requests: pandas.DataFrame, endpoint: str | None = None, found: Endpoint | None = None
) -> Chart:
    """One bar a cold start, the newest BARS of each tier. `.df` has all: a column a phase, in seconds.

    From the `requests` that waited for one; workers of `found` that started without a request come
    from what the backend says of them now.
    """
    table = starts(requests, found)
    whose = f" of {endpoint}" if endpoint else ""
    if table.empty:
        text = f"No cold start{whose} yet. Start a worker with: %gpu warm {endpoint or 'NAME'}"
        return Chart(look.sentence(text), table, text)
    tiers = [t for t in (*TIERS, UNKNOWN) if (table["tier"] == t).any()]
    groups = [(tier, table[table["tier"] == tier]) for tier in tiers]
    lines = [line(tier, rows) for tier, rows in groups]
    head = f"Cold starts{whose}: {plural(len(table), 'start')}"
    return Chart(_draw(groups, lines, head), table, "\n".join([head, *lines]))


def starts(requests: pandas.DataFrame, found: Endpoint | None = None) -> pandas.DataFrame:
    """One row a cold start, oldest first: at, worker_id, tier, a column a phase, total; seconds.

    Requests that waited for the same start tell of the same phases.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in requests.to_dict("records"):
        phases = record["phases"] if isinstance(record["phases"], dict) else {}
        if not record["cold"] or not phases:
            continue
        took = {name: float(ms) / 1000 for name, ms in phases.items() if ms is not None}
        row = _row(record["arrived"], record["worker_id"], record.get("tier"), took)
        rows.setdefault(_key(row, took), row)
    for worker in found.nbgpu.workers if found is not None else []:
        n = worker.nbgpu
        took = {phase.name: phase.seconds for phase in n.phases}
        if n.ready_seconds is None or not took:
            continue
        at = pandas.Timestamp(worker.started_at) if worker.started_at else pandas.NaT
        row = _row(at, worker.id, n.tier, took)
        rows.setdefault(_key(row, took), row)
    phases_seen: list[str] = []
    for row in rows.values():
        _merge(phases_seen, [name for name in row if name not in FIXED])
    table = pandas.DataFrame(
        list(rows.values()), columns=[*FIXED[:3], *phases_seen, FIXED[3]]
    )  # fmt: skip
    numbers = [*phases_seen, "total"]
    table[numbers] = table[numbers].astype(float).fillna(0.0)
    return table.sort_values("at", ignore_index=True)


def _merge(seen: list[str], phases: list[str]) -> None:
    """Add what is new, each before the one that it comes before: a fork before the import it spares."""
    place = len(seen)
    for phase in reversed(phases):
        if phase in seen:
            place = seen.index(phase)
        else:
            seen.insert(place, phase)


def _row(at: Any, worker: Any, tier: Any, took: dict[str, float]) -> dict[str, Any]:
    known = tier if isinstance(tier, str) and tier in TIERS else UNKNOWN
    return {"at": at, "worker_id": worker, "tier": known, **took, "total": sum(took.values())}


def _key(row: dict[str, Any], took: dict[str, float]) -> tuple[Any, ...]:
    return row["worker_id"], tuple((name, round(seconds, 3)) for name, seconds in took.items())


def line(tier: str, rows: pandas.DataFrame) -> str:
    """`preimported, 3 starts: median 2.1 s; engine 1.6 s, import 0.5 s`."""
    phases = [c for c in rows.columns if c not in FIXED]
    middle = {c: float(rows[c].median()) for c in phases}
    said = ", ".join(f"{c} {span(s)}" for c, s in middle.items() if s >= 0.01)
    total = float(rows["total"].median())
    word = "median " if len(rows) > 1 else ""
    return f"{tier}, {plural(len(rows), 'start')}: {word}{span(total)}" + (
        f"; {said}" if said else ""
    )


def _draw(groups: list[tuple[str, pandas.DataFrame]], lines: list[str], head: str) -> Any:
    shown = [rows.tail(BARS) for _, rows in groups]
    heights = [0.62 + 0.2 * max(len(rows), 2) for rows in shown]
    figure = look.figure(1.0 + sum(heights))
    # one scale for all: that one tier is ten times as quick is what there is to see
    axes_of = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False, sharex=True)[
        :, 0
    ]
    longest = max(float(rows["total"].max()) for rows in shown) or 1.0
    colours = _colours(pandas.concat(shown))
    for axes, rows, text in zip(axes_of, shown, lines, strict=True):
        _bars(axes, rows, colours, longest)
        look.title(axes, text)
    axes_of[0].set_xlim(0, longest * 1.12)
    look.headline(figure, head)
    look.legend(figure, [Patch(color=c) for c in colours.values()], list(colours),
                loc="outside lower left", ncols=min(len(colours), 8))  # fmt: skip
    return figure


def _colours(rows: pandas.DataFrame) -> dict[str, str]:
    """The phases that occur, from dark to light in their order."""
    phases = [c for c in rows.columns if c not in FIXED and (rows[c] > 0).any()]
    family = LinearSegmentedColormap.from_list("starts", look.STARTS)
    spread = numpy.linspace(0, 1, max(len(phases), 2))
    return {phase: to_hex(family(at)) for phase, at in zip(phases, spread, strict=False)}


def _bars(axes: Any, rows: pandas.DataFrame, colours: dict[str, str], longest: float) -> None:
    look.dress(axes)
    left, places = numpy.zeros(len(rows)), numpy.arange(len(rows))
    for phase, colour in colours.items():
        widths = rows[phase].to_numpy()
        axes.barh(places, widths, left=left, color=colour, height=0.72)
        left = left + widths
    for place, total in zip(places, rows["total"], strict=True):
        axes.text(total + longest * 0.008, place, span(total), va="center", fontsize=8, color=look.GREY)  # fmt: skip
    labels = ["" if pandas.isna(at) else f"{at.tz_convert(look.zone()):%H:%M:%S}" for at in rows["at"]]  # fmt: skip
    axes.set_yticks(places, labels)
    axes.set_ylim(max(len(rows), 2) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(look.seconds)
