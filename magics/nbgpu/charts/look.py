"""The look: a transparent ground, mid-grey text and lines that read on white and on dark."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Any

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind eyes
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#808080"  # contrast 3.9 on white, 5.3 on black
FAINT = "#80808040"
QUEUE = "#A8A8A8"
# the phases of a cold start: one family, from dark to light
STARTS = ("#C04A00", "#E07A1F", "#E69F00", "#EDBE4C", "#F3DB8C")
FIRST, REST = BLUE, SKY
WIDTH, DPI = 8.0, 160


def figure(height: float) -> Figure:
    """`height` in inches; at DPI/2 a notebook shows it sharp on fine screens too."""
    made = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    made.patch.set_alpha(0)
    return made


def dress(axes: Any, *, grid: str = "x") -> None:
    axes.patch.set_alpha(0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=GREY, labelsize=8.5, length=0)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_fontsize(9)


def title(axes: Any, text: str) -> None:
    made = axes.set_title(text, loc="left", fontsize=9.5, color=GREY, pad=8)
    made.set_parse_math(False)  # two dollar signs are no formula


def headline(owner: Figure, text: str) -> None:
    made = owner.suptitle(text, x=0.01, ha="left", fontsize=10.5, color=GREY, fontweight="bold")
    made.set_parse_math(False)


def zone() -> tzinfo | None:
    """Of this machine."""
    return datetime.now().astimezone().tzinfo


def instant(at: datetime) -> str:
    """`14:05`, with the day where that is not today."""
    here = at.astimezone(zone())
    return f"{here:%H:%M}" if here.date() == datetime.now().date() else f"{here:%d %b %H:%M}"


def instants(axes: Any) -> None:
    """An x axis of time, in this machine's zone."""
    locator = AutoDateLocator(tz=zone(), minticks=3, maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone()))
    axes.xaxis.get_offset_text().set_color(GREY)
    axes.xaxis.get_offset_text().set_fontsize(8.5)


def seconds(value: float, _: Any = None) -> str:
    """A tick: `0`, `0.25 s`, `20 s`, `5 min`."""
    return "0" if not value else f"{value / 60:g} min" if value >= 300 else f"{value:g} s"


def legend(owner: Any, handles: list[Any], labels: list[str], **options: Any) -> None:
    made = owner.legend(
        handles, labels, frameon=False, fontsize=8.5, labelcolor=GREY, handlelength=1.1,
        handleheight=1.0, columnspacing=1.4, **options,
    )  # fmt: skip
    for text in made.get_texts():
        text.set_parse_math(False)


def sentence(text: str) -> Figure:
    """A figure that only says why there is nothing to see."""
    made = figure(0.9)
    said = made.text(0.01, 0.5, text, color=GREY, fontsize=10, va="center", wrap=True)
    said.set_parse_math(False)
    return made
