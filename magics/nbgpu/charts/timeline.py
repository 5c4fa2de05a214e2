"""Records as counts over time: how many workers were in which state, how many requests waited or ran.

Pure, on frames; instants are UTC datetimes. Counts hold from their instant to the next one.
"""

from __future__ import annotations

from typing import Any

import numpy
import pandas

SHOWN_AS = {"initializing": "starting"}  # for a person both are a start
POINTS = 3000  # more instants than that are told apart by no eye
GONE = "stopped"
WOKEN = "resumed"  # the reason of a start that is the waking of a parked engine


def states(changes: pandas.DataFrame) -> pandas.DataFrame:
    """One row a stretch that a worker was in a state: worker_id, state, reason, begin, end.

    `changes` is the backend's table `workers`. The end of a state that lasts is NaT.
    """
    table = changes.assign(state=changes["state"].replace(SHOWN_AS))
    # what was adopted is told once more, as of its start
    table = table.sort_values("at", kind="stable").drop_duplicates(["worker_id", "state", "at"])
    table["end"] = table.groupby("worker_id")["at"].shift(-1)
    found = table[table["state"] != GONE].rename(columns={"at": "begin"})
    return found[["worker_id", "state", "reason", "begin", "end"]].reset_index(drop=True)


def starts(stretches: pandas.DataFrame) -> pandas.DataFrame:
    """One row a start of a worker: worker_id, begin, woken (it was parked), seconds (NaN: never ready)."""
    rows: list[dict[str, Any]] = []
    for worker, mine in stretches.groupby("worker_id", sort=False):
        began: dict[str, Any] | None = None
        for row in mine.to_dict("records"):
            if row["state"] == "starting":
                if began is None:
                    began = {
                        "worker_id": worker,
                        "begin": row["begin"],
                        "woken": row["reason"] == WOKEN,
                    }
                    rows.append(began)
                continue
            if began is not None and row["state"] in ("idle", "running"):
                began["seconds"] = (row["begin"] - began["begin"]).total_seconds()
            began = None
    found = pandas.DataFrame(rows, columns=["worker_id", "begin", "woken", "seconds"])
    found = found.assign(seconds=found["seconds"].astype(float))
    return found.sort_values("begin", ignore_index=True)


def requests_over(requests: pandas.DataFrame) -> pandas.DataFrame:
    """One row a stretch that a request waited or ran: state, begin, end. From the `requests` table."""
    queue = pandas.to_timedelta(requests["queue_ms"].astype(float).fillna(0), unit="ms")
    total = pandas.to_timedelta(requests["total_ms"].astype(float).fillna(0), unit="ms")
    arrived = requests["arrived"]
    assigned, ended = arrived + queue, arrived + total.where(total > queue, queue)
    return pandas.concat(
        [
            pandas.DataFrame({"state": "waiting", "begin": arrived, "end": assigned}),
            pandas.DataFrame({"state": "running", "begin": assigned, "end": ended}),
        ],
        ignore_index=True,
    )


def counts(
    stretches: pandas.DataFrame, order: tuple[str, ...], since: Any, until: Any
) -> pandas.DataFrame:
    """How many are in each state of `order`, at every instant at which that changes, from since to until.

    Of more than POINTS instants the largest count of each of so many equal times is kept.
    """
    begun = stretches["begin"].clip(lower=since)
    shown = (begun <= until) & ~(stretches["end"] <= begun)
    ups = pandas.DataFrame({"state": stretches["state"], "at": begun, "step": 1})[shown]
    # what lasts, or ends later, has no step down here
    downs = pandas.DataFrame({"state": stretches["state"], "at": stretches["end"], "step": -1})
    steps = pandas.concat([ups, downs[shown & (stretches["end"] <= until)]], ignore_index=True)
    table = steps.pivot_table(
        index="at", columns="state", values="step", aggfunc="sum", fill_value=0
    )
    edges = pandas.DatetimeIndex([since, until])
    table = table.reindex(table.index.union(edges), fill_value=0).cumsum()
    table = table.reindex(columns=list(order), fill_value=0).astype(int)
    if len(table) > POINTS:
        last = table.iloc[-1]
        places = numpy.linspace(0, 1, POINTS, endpoint=False)
        grid = since + (until - since) * places
        nearest = numpy.searchsorted(grid, table.index, side="right") - 1
        table = table.groupby(grid[nearest]).max()
        table.loc[until] = last
    found: pandas.DataFrame = table.rename_axis("at").reset_index()
    return found
