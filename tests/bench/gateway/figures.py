"""What the rounds have found: medians and spreads by peer, as keys of a JSON object, a table and a plot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.gateway.peers import NAMES
from tests.bench.gateway.rounds import PACED_STREAMS, REQUESTS, STREAMS, Measured

DIRECT = "direct"
# kind -> figure -> the key of the JSON, {c} being the number of connections
KEYS = {
    REQUESTS: {
        "rate": "requests_{c}",
        "p50_ms": "p50_{c}_ms",
        "p99_ms": "p99_{c}_ms",
        "added_p50_ms": "added_p50_{c}_ms",
        "cpu_s_per_1000": "cpu_s_per_1000_requests_{c}",
    },
    STREAMS: {
        "rate": "streams_{c}",
        "p50_ms": "streams_p50_{c}_ms",
        "p99_ms": "streams_p99_{c}_ms",
        "added_p50_ms": "streams_added_p50_{c}_ms",
        "first_byte_p50_ms": "streams_{c}_first_byte_p50_ms",
        "first_byte_p99_ms": "streams_{c}_first_byte_p99_ms",
        "cpu_s_per_1000": "cpu_s_per_1000_streams_{c}",
    },
    PACED_STREAMS: {
        "rate": "paced_{c}",
        "p50_ms": "paced_p50_{c}_ms",
        "p99_ms": "paced_p99_{c}_ms",
        "first_byte_p50_ms": "paced_{c}_first_byte_p50_ms",
        "first_byte_p99_ms": "paced_{c}_first_byte_p99_ms",
        "merged_chunks": "paced_{c}_merged_chunks",
        "cpu_s_per_1000": "cpu_s_per_1000_paced_{c}",
    },
}
MERGED = "paced_merged_chunks"  # at the most connections
RSS = "rss_mb"
TITLES = {
    REQUESTS: "answers in one piece", STREAMS: "streams of 64 chunks, no pause between them",
    PACED_STREAMS: "streams of 64 chunks, 20 ms apart",
}  # fmt: skip
COLUMNS = (
    ("rate", "/s", "{}"), ("p50_ms", "p50 ms", "{:.2f}"), ("added_p50_ms", "added p50", "{:+.2f}"),
    ("p99_ms", "p99 ms", "{:.2f}"), ("first_byte_p50_ms", "first p50", "{:.2f}"),
    ("first_byte_p99_ms", "first p99", "{:.2f}"), ("merged_chunks", "merged/64", "{:.1f}"),
    ("cpu_s_per_1000", "CPU s/1000", "{:.3f}"), ("rss_mb", "RSS MB", "{:.0f}"),
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Of the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values))


Load = tuple[str, int]  # kind, connections


class Figures:
    def __init__(self, measured: Iterable[Measured], names: Sequence[str] = NAMES) -> None:
        rows = list(measured)
        _add(rows)
        values: dict[tuple[str, int, str, str], list[float]] = defaultdict(list)
        for row in rows:
            for name, value in row.figures.items():
                values[row.kind, row.connections, row.peer, name].append(value)
        self._spreads = {key: Spread.of(found) for key, found in values.items()}
        self.peers = [name for name in names if any(row.peer == name for row in rows)]
        self.loads: list[Load] = list(dict.fromkeys((row.kind, row.connections) for row in rows))

    def get(self, load: Load, peer: str, name: str) -> Spread | None:
        return self._spreads.get((*load, peer, name))

    def keys(self) -> dict[str, dict[str, float]]:
        """Medians: {key: {peer: value}}."""
        return {
            key: {peer: round(spread.median, 4) for peer, spread in some.items()}
            for key, some in self._all()
        }

    def spreads(self) -> dict[str, dict[str, list[float]]]:
        """The least and the most of the rounds, as `keys`."""
        return {
            key: {p: [round(s.least, 4), round(s.most, 4)] for p, s in some.items()}
            for key, some in self._all()
        }

    def _all(self) -> Iterator[tuple[str, dict[str, Spread]]]:
        for kind, connections in self.loads:
            for name, key in KEYS[kind].items():
                if some := self._of((kind, connections), name):
                    yield key.format(c=connections), some
        paced = [load for load in self.loads if load[0] == PACED_STREAMS]
        if paced:
            yield MERGED, self._of(max(paced, key=lambda load: load[1]), "merged_chunks")
        most: dict[str, Spread] = {}
        for peer in self.peers:
            seen = [s for load in self.loads if (s := self.get(load, peer, RSS)) is not None]
            if peer != DIRECT and seen:
                most[peer] = max(seen, key=lambda spread: spread.most)
        if most:
            yield RSS, most

    def _of(self, load: Load, name: str) -> dict[str, Spread]:
        found = ((peer, self.get(load, peer, name)) for peer in self.peers)
        return {peer: spread for peer, spread in found if spread is not None}

    def table(self, title: str = "") -> str:
        """A block for each kind; of the rate also the spread."""
        lines = [title, ""] if title else []
        for kind in dict.fromkeys(kind for kind, _ in self.loads):
            loads = [load for load in self.loads if load[0] == kind]
            shown = [c for c in COLUMNS if any(self._of(load, c[0]) for load in loads)]
            lines.append(TITLES[kind])
            lines.append(f"  {'':>4} {'':<12}{'':>18}" + "".join(f"{c[1]:>12}" for c in shown))
            for load in loads:
                for peer in self.peers:
                    lines.append(self._line(load, peer, shown))
            lines.append("")
        return "\n".join(lines)

    def _line(self, load: Load, peer: str, shown: list[tuple[str, str, str]]) -> str:
        rate = self.get(load, peer, "rate")
        range_ = f"{_rate(rate.least)}..{_rate(rate.most)}" if rate is not None else ""
        cells = ""
        for name, _, form in shown:
            spread = self.get(load, peer, name)
            hidden = peer == DIRECT and name in ("added_p50_ms", "cpu_s_per_1000", "rss_mb")
            shape = _rate if name == "rate" else form.format
            cells += f"{shape(spread.median) if spread and not hidden else '-':>12}"
        return f"  {load[1]:>4} {peer:<12}{range_:>18}{cells}"

    def plot(self, target: Path, title: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        asked = (
            ("rate", "per second"),
            ("p99_ms", "p99, ms"),
            ("cpu_s_per_1000", "CPU s per 1,000"),
        )
        kinds = [
            kind for kind in (REQUESTS, STREAMS) if any(load[0] == kind for load in self.loads)
        ]
        figure, axes = pyplot.subplots(len(kinds), 3, figsize=(13, 3.6 * len(kinds)), squeeze=False)
        for row, kind in zip(axes, kinds, strict=True):
            for axis, (name, label) in zip(row, asked, strict=True):
                self._bars(axis, kind, name)
                axis.set(title=f"{TITLES[kind]}: {label}", yscale="log", xlabel="connections")
                axis.title.set_fontsize(8)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=8)
        figure.suptitle(title, fontsize=9)
        figure.tight_layout(rect=(0, 0.04, 1, 1))
        figure.savefig(target, dpi=110)
        pyplot.close(figure)

    def _bars(self, axis: Any, kind: str, name: str) -> None:
        loads = [load for load in self.loads if load[0] == kind]
        width = 0.8 / max(1, len(self.peers))
        for place, peer in enumerate(self.peers):
            if peer == DIRECT and name == "cpu_s_per_1000":
                continue
            at, heights, down, up = [], [], [], []
            for number, load in enumerate(loads):
                if (spread := self.get(load, peer, name)) is not None and spread.median > 0:
                    at.append(number + place * width)
                    heights.append(spread.median)
                    down.append(spread.median - spread.least)
                    up.append(spread.most - spread.median)
            colour = f"C{NAMES.index(peer)}"
            axis.bar(at, heights, width, label=peer, color=colour, yerr=(down, up), ecolor="0.3")
        axis.set_xticks(
            [n + 0.4 - width / 2 for n in range(len(loads))], [str(c) for _, c in loads]
        )


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _add(rows: list[Measured]) -> None:
    """What a gateway adds: its median less the direct one of the same round. Of percentiles no other
    difference is taken."""
    direct = {
        (row.kind, row.connections, row.round): row.figures["p50_ms"]
        for row in rows
        if row.peer == DIRECT and "p50_ms" in row.figures
    }
    for row in rows:
        beside = direct.get((row.kind, row.connections, row.round))
        if (
            row.kind != PACED_STREAMS
            and row.peer != DIRECT
            and beside is not None
            and "p50_ms" in row.figures
        ):
            row.figures["added_p50_ms"] = row.figures["p50_ms"] - beside
