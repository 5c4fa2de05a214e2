"""Workers by state over time, and under them the requests that they were there for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from nbgpu.charts import look, timeline
from nbgpu.charts.chart import Chart
from nbgpu.charts.coldstart import TIERS, UNKNOWN
from nbgpu.formats import plural, span

if TYPE_CHECKING:
    from nbgpu_backend.schema.endpoints import Endpoint

HOUR = pandas.Timedelta(hours=1)
LEAST = pandas.Timedelta(seconds=10)  # a picture of less shows nothing
# from the bottom up; parked ones lie on top, for they count to no limit
STATES = {
    "running": look.SKY, "idle": look.QUEUE, "starting": look.ORANGE, "draining": look.PURPLE,
    "unhealthy": look.VERMILION, "unreachable": look.VERMILION, "throttled": look.VERMILION, "parked": look.GREY,
}  # fmt: skip
REQUESTS = {"running": look.BLUE, "waiting": look.VERMILION}
HATCH = "////"


def workers(
    changes: pandas.DataFrame,
    requests: pandas.DataFrame,
    now: pandas.Timestamp,
    *,
    endpoint: str | None = None,
    found: Endpoint | None = None,
    since: pandas.Timestamp | None = None,
) -> Chart:
    """`changes` and `requests` are the backend's tables `workers` and `requests`; `found` is the endpoint
    now, for its limit. Without `since`: the last hour in which there was something.

    `.df` has a row an instant: workers by state, requests waiting and running.
    """
    now, since = now.as_unit("us"), None if since is None else since.as_unit("us")  # as the tables
    stretches = timeline.states(changes)
    asked = timeline.requests_over(requests)
    window = _window(stretches, asked, now, since)
    if window is not None:
        stretches, asked = _within(stretches, window), _within(asked, window)
    most = found.workers.max if found is not None else None
    whose = f" of {endpoint}" if endpoint else ""
    if window is None or stretches.empty:
        when = f" since {look.instant(since)}" if since is not None else " yet"
        text = f"No worker{whose}{when}. Start one with: %gpu warm {endpoint or 'NAME'}"
        return Chart(look.sentence(text), _table(None, None), text)
    up = timeline.counts(stretches, tuple(STATES), *window)
    busy = timeline.counts(asked, tuple(REQUESTS), *window)
    shown = requests[(requests["arrived"] >= window[0]) & (requests["arrived"] <= window[1])]
    begun = timeline.starts(stretches)
    begun = begun[begun["begin"] > window[0]] if since is not None else begun
    on_its_way = stretches[(stretches["state"] == "starting") & stretches["end"].isna()]
    failed = begun["seconds"].isna() & ~begun["worker_id"].isin(on_its_way["worker_id"])
    begun = begun.assign(failed=failed)
    lines = _said(up, busy, begun, shown, found, most, whose, window[0])
    figure = _draw(up, busy, most, lines, window)
    return Chart(figure, _table(up, busy), "\n".join(lines))


def _window(
    stretches: pandas.DataFrame,
    asked: pandas.DataFrame,
    now: pandas.Timestamp,
    since: pandas.Timestamp | None,
) -> tuple[pandas.Timestamp, pandas.Timestamp] | None:
    """What is shown: up to now while something is up or was asked for, else a little beyond the last change."""
    if since is not None:
        return since, now
    if stretches.empty:
        return None
    last = now
    if stretches["end"].notna().all():
        last = max([stretches["end"].max(), *([asked["end"].max()] if len(asked) else [])])
    first = min([stretches["begin"].min(), *([asked["begin"].min()] if len(asked) else [])])
    first = max(first, last - HOUR)
    margin = max((last - first) * 0.03, (LEAST - (last - first)) / 2)
    return first - margin, min(now, last + margin)


def _within(
    stretches: pandas.DataFrame, window: tuple[pandas.Timestamp, pandas.Timestamp]
) -> pandas.DataFrame:
    ended = stretches["end"].notna() & (stretches["end"] <= window[0])
    return stretches[~ended & (stretches["begin"] <= window[1])]


def _said(
    up: pandas.DataFrame,
    busy: pandas.DataFrame,
    begun: pandas.DataFrame,
    requests: pandas.DataFrame,
    found: Endpoint | None,
    most: int | None,
    whose: str,
    since: pandas.Timestamp,
) -> list[str]:
    """The figures that matter: how many there were at once, the cold starts by tier, the requests."""
    counted = up.drop(columns=["at", "parked", "throttled"]).sum(axis=1)
    parked = int(up["parked"].max())
    head = f"Workers{whose} since {look.instant(since)}: {'rose to' if len(begun) else 'up to'} {counted.max()}"
    head += f" of at most {most}" if most is not None else ""
    head += f", {plural(len(begun), 'start') if len(begun) else 'no start'}"
    if failed := int(begun["failed"].sum()):
        head += (
            f" ({failed} ended before it was ready)"
            if failed == 1
            else f" ({failed} ended before they were ready)"
        )
    head += f", {parked} parked" if parked else ""
    lines = [head]
    ready = begun.dropna(subset=["seconds"])
    if len(ready):
        tiers = _tiers(ready, requests, found)
        parts = []
        for tier in (*TIERS, UNKNOWN):
            took = ready[tiers == tier]["seconds"]
            if len(took):
                kind = "" if tier == UNKNOWN else f" {tier}"
                parts.append(f"{span(float(took.median()))}{kind}" + (f" ({len(took)})" if len(took) > 1 else ""))  # fmt: skip
        many = "s, median" if len(ready) > len(parts) else "s" if len(parts) > 1 else ""
        lines.append(f"cold start{many}: " + ", ".join(parts))
    waits = requests["queue_ms"].astype(float)
    said = plural(len(requests), "request") if len(requests) else "no request"
    if len(requests):
        said += f", at most {busy['waiting'].max():,} waiting at once, the longest for {span(waits.max() / 1000)}"  # fmt: skip
    if found is not None and (found.nbgpu.queued or found.nbgpu.held):
        said += f"; now {found.nbgpu.queued} waiting and {found.nbgpu.held} running"
    return [*lines, said]


def _tiers(
    begun: pandas.DataFrame, requests: pandas.DataFrame, found: Endpoint | None
) -> pandas.Series:
    """How each start was made: as its first cold request says, or the backend of a worker that is up."""
    cold = requests[requests["cold"].astype(bool)] if len(requests) else requests
    live = {w.id: w.nbgpu.tier for w in found.nbgpu.workers} if found is not None else {}
    tiers = [_tier(start, begun, cold, live) for start in begun.to_dict("records")]
    return pandas.Series(tiers, index=begun.index, dtype=object)


def _tier(
    start: dict[Any, Any], begun: pandas.DataFrame, cold: pandas.DataFrame, live: dict[str, str]
) -> str:
    if start["woken"]:
        return "parked"
    ready = start["begin"] + pandas.Timedelta(seconds=start["seconds"])
    mine = cold[cold["worker_id"] == start["worker_id"]]
    assigned = mine["arrived"] + pandas.to_timedelta(mine["queue_ms"].astype(float), unit="ms")
    near = mine[(assigned >= start["begin"]) & (assigned <= ready + LEAST)]
    told = next((t for t in near.get("tier", []) if isinstance(t, str)), None)
    mine = begun[begun["worker_id"] == start["worker_id"]]
    if told is None and mine["begin"].max() == start["begin"]:
        told = live.get(start["worker_id"])
    return told if told in TIERS else UNKNOWN


def _table(up: pandas.DataFrame | None, busy: pandas.DataFrame | None) -> pandas.DataFrame:
    columns = ["at", *STATES, *(f"requests_{name}" for name in REQUESTS)]
    if up is None or busy is None:
        return pandas.DataFrame(columns=columns)
    requests = busy.rename(columns={name: f"requests_{name}" for name in REQUESTS})
    both = up.merge(requests, on="at", how="outer").sort_values("at", ignore_index=True)
    both[columns[1:]] = both[columns[1:]].ffill().fillna(0).astype(int)
    return both[columns]


def _draw(
    up: pandas.DataFrame,
    busy: pandas.DataFrame,
    most: int | None,
    lines: list[str],
    window: tuple[pandas.Timestamp, pandas.Timestamp],
) -> Any:
    figure = look.figure(4.6)
    above, below = figure.subplots(2, 1, height_ratios=[1.25, 1], sharex=True)
    highest = _stack(above, up, STATES)
    if most is not None:
        above.axhline(most, color=look.GREY, linewidth=1, linestyle="--", alpha=0.8)
        above.text(1, most, f"at most {most} ", transform=above.get_yaxis_transform(), ha="right",
                   va="bottom", fontsize=8, color=look.GREY)  # fmt: skip
    above.set_ylim(0, max(highest, most or 0, 1) * 1.22)
    below.set_ylim(0, max(_stack(below, busy, REQUESTS), 1) * 1.1)
    for axes in (above, below):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_xlim(*(instant.tz_convert(look.zone()) for instant in window))
    look.instants(below)
    look.headline(figure, lines[0])
    look.title(above, lines[1] if len(lines) > 2 else "workers")
    look.title(below, lines[-1])
    _key(above, up, STATES)
    _key(below, busy, REQUESTS)
    return figure


def _stack(axes: Any, table: pandas.DataFrame, colours: dict[str, str]) -> float:
    """Steps, one upon the other; returns the height of all. What is parked is hatched, and faint."""
    look.dress(axes, grid="y")
    at = table["at"].dt.tz_convert(look.zone())
    base = table["at"].map(lambda _: 0)
    for state, colour in colours.items():
        top = base + table[state]
        if table[state].any():
            drawn: dict[str, Any] = {"facecolor": colour, "linewidth": 0}
            if state == "parked":
                drawn = {
                    "facecolor": look.FAINT,
                    "edgecolor": look.GREY,
                    "linewidth": 0,
                    "hatch": HATCH,
                }
            axes.fill_between(at, base, top, step="post", **drawn)
        base = top
    return float(base.max())


def _key(axes: Any, table: pandas.DataFrame, colours: dict[str, str]) -> None:
    found = [state for state in colours if table[state].any()]
    if not found:
        return
    handles = [
        Patch(facecolor=look.FAINT, edgecolor=look.GREY, hatch=HATCH, linewidth=0)
        if state == "parked"
        else Patch(color=colours[state])
        for state in found
    ]
    look.legend(axes, handles, found, loc="center left", bbox_to_anchor=(1.0, 0.5))
