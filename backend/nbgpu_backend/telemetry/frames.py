"""Records as columns, for frames and charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any

from sqlalchemy import Select, select

from nbgpu_backend.domain.histogram import Histogram
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.schema.metrics import Columns
from nbgpu_backend.store.database import Database
from nbgpu_backend.store.tables import requests, worker_states

LIMIT = 50_000  # rows of one answer; the newest ones

Row = dict[str, Any]


async def request_columns(database: Database, *, endpoint_id: str | None, since_us: int) -> Columns:
    """One row per request, in the order of arrival. Durations in milliseconds."""
    query = select(requests).where(requests.c.arrived_us >= since_us)
    if endpoint_id is not None:
        query = query.where(requests.c.endpoint_id == endpoint_id)
    rows = await _newest(database, query.order_by(requests.c.arrived_us.desc()))
    return _columns(
        rows,
        {
            "id": lambda r: r["id"],
            "endpoint": lambda r: r["endpoint"],
            "worker_id": lambda r: r["worker_id"],
            "arrived_us": lambda r: r["arrived_us"],
            "queue_ms": lambda r: _ms(r["queue_us"]),
            "cold": lambda r: bool(r["cold"]),
            "start_ms": lambda r: _ms(r["start_us"]),
            "tier": lambda r: r["tier"],
            "phases": lambda r: {name: _ms(us) for name, us in r["phases"].items()},
            "first_byte_ms": lambda r: _ms(r["first_byte_us"]),
            "total_ms": lambda r: _ms(r["total_us"]),
            "tokens_in": lambda r: r["tokens_in"],
            "tokens_out": lambda r: r["tokens_out"],
            "gap_p50_ms": lambda r: Histogram.from_sparse(r["gaps"]).quantile(0.5),
            "gap_p99_ms": lambda r: Histogram.from_sparse(r["gaps"]).quantile(0.99),
            "status": lambda r: r["status"],
            "error": lambda r: r["error"],
            "route": lambda r: r["route"],
            "streamed": lambda r: bool(r["streamed"]),
            "notebook": lambda r: r["origin"].get("notebook"),
            "retries": lambda r: r["retries"],
            "key": lambda r: r["key"],
            "trace": lambda r: r["trace"],
            "cost": lambda r: plain(Decimal(r["rate"]) * r["share_us"] / 1_000_000 / 3600),
        },
    )


async def worker_columns(database: Database, *, endpoint_id: str | None, since_us: int) -> Columns:
    """One row per change of a worker's state, in order."""
    query = select(worker_states).where(worker_states.c.at_us >= since_us)
    if endpoint_id is not None:
        query = query.where(worker_states.c.endpoint_id == endpoint_id)
    rows = await _newest(database, query.order_by(worker_states.c.id.desc()))
    names = ("worker_id", "endpoint_id", "at_us", "state", "reason")
    return _columns(rows, {name: itemgetter(name) for name in names})


async def timelines(
    database: Database, *, endpoint_id: str | None, since_us: int
) -> dict[str, list[tuple[int, str]]]:
    """worker id -> its (at_us, state) in order."""
    columns = (await worker_columns(database, endpoint_id=endpoint_id, since_us=since_us)).columns
    result: dict[str, list[tuple[int, str]]] = {}
    for worker, at, state in zip(
        columns["worker_id"], columns["at_us"], columns["state"], strict=True
    ):
        result.setdefault(worker, []).append((at, state))
    return result


async def _newest(database: Database, query: Select[Any]) -> Sequence[Row]:
    """The newest LIMIT rows (one more, to know that there are more), oldest first."""

    def work(connection: Any) -> list[Row]:
        return [dict(r) for r in connection.execute(query.limit(LIMIT + 1)).mappings()][::-1]

    await database.writer.flush()  # who asks sees what has happened
    return await database.read(work)


def _columns(rows: Sequence[Row], makers: dict[str, Callable[[Row], Any]]) -> Columns:
    truncated = len(rows) > LIMIT
    kept = rows[-LIMIT:]
    return Columns(
        rows=len(kept),
        columns={name: [make(row) for row in kept] for name, make in makers.items()},
        truncated=truncated,
    )


def _ms(us: int | None) -> float | None:
    return None if us is None else us / 1000
