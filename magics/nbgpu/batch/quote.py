"""What a map will take and cost, from what the endpoint's jobs took before. Pure but for `ask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import TYPE_CHECKING, Any

from nbgpu.formats import dollars, per_hour, plural, span
from nbgpu.verbs.call import Call

if TYPE_CHECKING:
    from nbgpu_backend.schema.endpoints import Endpoint

    from nbgpu.client import Client

RECENT = 500  # jobs that are looked at


@dataclass(frozen=True, slots=True)
class Quote:
    """`seconds` and `cost` are None where nothing is known; `cost` is dollars for all rows."""

    rows: int
    known: int  # jobs that it is drawn from
    each_s: float | None
    seconds: float | None
    cost: Decimal | None
    per_hour: Decimal

    def text(self) -> str:
        head = plural(self.rows, "row")
        if self.each_s is None:
            free = " It costs nothing: this machine's rate is $0/h." if not self.per_hour else ""
            return f"{head}; how long a job takes is unknown, this is the first time.{free}"
        assert self.seconds is not None and self.cost is not None
        return (
            f"{head}, about {span(self.seconds)} and {dollars(self.cost)} for the jobs themselves: "
            f"{span(self.each_s)} each (median of {plural(self.known, 'job')} here) at "
            f"{per_hour(self.per_hour)} a worker; starts and idle time come on top."
        )


def quote(rows: int, records: Sequence[Mapping[str, Any]], rate: Decimal, workers: int) -> Quote:
    """`records`: rows of the requests table. `workers`: how many will share the work.

    What a job used of a worker follows from its cost, where the rate then was not zero: a worker that runs
    several at a time gives each a part of its time. Else a job counts with its whole execution time.
    """
    done = [r for r in records if r["route"] == "/run" and r["status"] == 200][-RECENT:]
    if not done:
        return Quote(rows, 0, None, None, None if rate else Decimal(0), rate)
    each_s = median((r["total_ms"] - r["queue_ms"]) / 1000 for r in done)
    costs = [Decimal(str(r["cost"])) for r in done if Decimal(str(r["cost"]))]
    cost = median(costs) if costs and rate else Decimal(repr(each_s)) * rate / 3600
    used_s = float(cost * 3600 / rate) if costs and rate else each_s
    return Quote(rows, len(done), each_s, rows * used_s / max(1, workers), rows * cost, rate)


def ask(client: Client, endpoint: Endpoint, rows: int, *, low_priority: bool) -> Quote:
    params: dict[str, str | int | list[str]] = {"endpoint": endpoint.name}
    table = client.send(Call("GET", "/nbgpu/v1/metrics/requests", "Columns", params=params))
    names = ("route", "status", "total_ms", "queue_ms", "cost")
    columns = [table.columns.get(name, [])[-10 * RECENT :] for name in names]
    records = [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    # low priority starts no worker
    workers = max(1, endpoint.workers.min) if low_priority else max(1, endpoint.workers.max)
    return quote(rows, records, Decimal(endpoint.nbgpu.rate_per_hour), workers)
