"""Dollars over time, by what the workers did."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pandas
from matplotlib.patches import Patch

from nbgpu.charts import look
from nbgpu.charts.chart import Chart
from nbgpu.formats import dollars

if TYPE_CHECKING:
    from nbgpu_backend.schema.metrics import CostSeries

SHARES = (("busy", look.SKY), ("start", look.ORANGE), ("idle", look.QUEUE))


def cost(series: CostSeries, endpoint: str | None, rate: str, place: str) -> Chart:
    """Cumulated dollars, stacked: busy, starting, idle.

    `rate` is dollars an hour of `place` now; the series' `rate_source` tells what was billed.
    """
    table = pandas.DataFrame(
        {
            "at": pandas.to_datetime(
                pandas.Series(series.at_us, dtype="int64"), unit="us", utc=True
            ),
            "start": pandas.Series(series.start, dtype=float),
            "busy": pandas.Series(series.busy, dtype=float),
            "idle": pandas.Series(series.idle, dtype=float),
        }
    )
    what = f"Cost of {endpoint}" if endpoint else "Cost"
    free = not Decimal(rate)
    priced = series.rate_source or f"{dollars(rate)}/h on {place}"
    hint = f"rate 0: set it with %gpu settings rate.{place}=0.10"
    if not Decimal(series.total) or table.empty:
        text = f"{what}: nothing so far, {hint if free else f'at {priced}'}"
        return Chart(look.sentence(text), table, text)
    last = table.iloc[-1]
    shares = ", ".join(f"{name} {dollars(float(last[name]))}" for name, _ in SHARES)
    since = datetime.fromtimestamp(series.since_us / 1e6).astimezone()
    head = f"{what}: {dollars(series.total)} since {look.instant(since)}, at {priced}"
    head += f"; now {hint}" if free else ""
    figure = look.figure(3.2)
    axes = figure.subplots()
    look.dress(axes, grid="y")
    local = table["at"].dt.tz_convert(look.zone())
    axes.stackplot(
        local, *(table[name] for name, _ in SHARES), colors=[colour for _, colour in SHARES],
        linewidth=0, alpha=0.95,
    )  # fmt: skip
    look.instants(axes)
    axes.yaxis.set_major_formatter(_dollar_ticks)
    axes.set_ylim(0, float(Decimal(series.total)) * 1.08)
    axes.margins(x=0)
    look.title(axes, head)
    handles = [Patch(color=colour) for _, colour in reversed(SHARES)]
    labels = [f"{name} {dollars(float(last[name]))}" for name, _ in reversed(SHARES)]
    look.legend(axes, handles, labels, loc="upper left")
    return Chart(figure, table, f"{head}\n{shares}")


def _dollar_ticks(value: float, _: Any) -> str:
    return dollars(round(value, 10))
