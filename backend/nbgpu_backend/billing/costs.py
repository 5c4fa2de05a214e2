"""What it came to: the ledger as columns, the spending of a day, and the shares over time."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import or_, select

from nbgpu_backend.billing.ledger import interval
from nbgpu_backend.domain.pricing import Flip, Interval, Slice, lifetime_amount, plain, slices
from nbgpu_backend.schema.metrics import Columns, CostSeries
from nbgpu_backend.store.database import Database
from nbgpu_backend.store.tables import ledger
from nbgpu_backend.telemetry.frames import timelines

POINTS = 400  # of a cost series at most


async def rows_since(
    database: Database, *, endpoint_id: str | None, since_us: int
) -> list[dict[str, Any]]:
    """Ledger rows that were open at or after `since_us`."""
    query = select(ledger).where(or_(ledger.c.ended_us.is_(None), ledger.c.ended_us >= since_us))
    if endpoint_id is not None:
        query = query.where(ledger.c.endpoint_id == endpoint_id)
    query = query.order_by(ledger.c.started_us, ledger.c.id)
    return await database.read(lambda c: [dict(r) for r in c.execute(query).mappings()])


async def ledger_columns(
    database: Database,
    *,
    endpoint_id: str | None,
    since_us: int,
    now_us: int,
    names: dict[str, str],
) -> Columns:
    """One row per interval. `amount` is that interval's alone (the rounding of a life is in its last)."""
    rows = await rows_since(database, endpoint_id=endpoint_id, since_us=since_us)
    lives: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        lives.setdefault(row["instance_id"], []).append(row)
    amounts: dict[int, Decimal] = {}
    for life in lives.values():
        before = Decimal(0)
        for i, row in enumerate(life):
            last = i == len(life) - 1
            spans = [interval(r, r["ended_us"] or now_us) for r in life[: i + 1]]
            upto = lifetime_amount(spans) if last else sum(map(_exact, spans), Decimal(0))
            amounts[row["id"]] = upto - before
            before = upto
    return Columns(
        rows=len(rows),
        columns={
            "instance": [r["instance_id"] for r in rows],
            "endpoint": [names.get(r["endpoint_id"], r["endpoint_id"]) for r in rows],
            "rate_per_hour": [r["rate"] for r in rows],
            "rate_source": [r["rate_source"] for r in rows],
            "started_us": [r["started_us"] for r in rows],
            "ended_us": [r["ended_us"] for r in rows],
            "estimated": [bool(r["estimated"]) for r in rows],
            "seconds": [((r["ended_us"] or now_us) - r["started_us"]) / 1e6 for r in rows],
            "amount": [plain(amounts[r["id"]]) for r in rows],
        },
    )


async def spent_between(database: Database, start_us: int, end_us: int) -> Decimal:
    """Dollars of the part of every interval that lies between two instants."""
    total = Decimal(0)
    for row in await rows_since(database, endpoint_id=None, since_us=start_us):
        span = interval(row, row["ended_us"] or end_us)
        begin, end = max(span.start_us, start_us), min(span.end_us, end_us)
        if end > begin:
            total += _exact(Interval(span.instance, begin, end, span.rate))
    return total


async def cost_series(
    state: Database, telemetry: Database, *, endpoint_id: str, since_us: int, now_us: int
) -> CostSeries:
    """Dollars by share, cumulated over time, since `since_us` (0: since the first interval)."""
    rows = await rows_since(state, endpoint_id=endpoint_id, since_us=since_us)
    flips = await timelines(telemetry, endpoint_id=endpoint_id, since_us=0)
    lives: dict[str, list[Interval]] = {}
    for row in rows:
        lives.setdefault(row["instance_id"], []).append(interval(row, row["ended_us"] or now_us))
    parts: list[Slice] = []
    for instance, intervals in lives.items():
        timeline = [Flip(at, name) for at, name in flips.get(instance, [])]
        parts += [p for p in slices(intervals, timeline) if p.end_us > since_us]
    since = max(since_us, min((p.start_us for p in parts), default=now_us))
    edges = _edges(parts, since, now_us)
    series = {
        share: [float(_upto([p for p in parts if p.share == share], at, since)) for at in edges]
        for share in ("start", "busy", "idle")
    }
    sources = list(dict.fromkeys(f"${r['rate']}/h ({r['rate_source']})" for r in rows))
    total = sum((_upto([p], now_us, since) for p in parts), Decimal(0))
    return CostSeries(
        since_us=since,
        until_us=now_us,
        at_us=edges,
        start=series["start"],
        busy=series["busy"],
        idle=series["idle"],
        total=plain(total),
        rate_source=", then ".join(sources),
    )


def _edges(parts: Sequence[Slice], since_us: int, until_us: int) -> list[int]:
    """Where the curves bend; thinned out where there are too many."""
    bends = {since_us, until_us}
    for part in parts:
        bends.update(at for at in (part.start_us, part.end_us) if since_us <= at <= until_us)
    ordered = sorted(bends)
    step = -(-len(ordered) // POINTS)
    thinned = ordered[::step]
    return thinned if thinned[-1] == until_us else [*thinned, until_us]


def _upto(parts: Sequence[Slice], at_us: int, since_us: int) -> Decimal:
    total = Decimal(0)
    for part in parts:
        if at_us >= part.end_us and part.start_us >= since_us:
            total += part.amount
        elif part.end_us > part.start_us:
            begin, end = max(part.start_us, since_us), min(part.end_us, at_us)
            if end > begin:
                total += part.amount * (end - begin) / (part.end_us - part.start_us)
    return total


def _exact(span: Interval) -> Decimal:
    """Without rounding to whole seconds."""
    return span.rate * (span.end_us - span.start_us) / 1_000_000 / 3600
