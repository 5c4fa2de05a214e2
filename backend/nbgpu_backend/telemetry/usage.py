"""What came with each key: counters that are written with the records, and outlive them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as upsert

from nbgpu_backend.store.database import Database
from nbgpu_backend.store.tables import key_usage

COUNTED = ("requests", "tokens_in", "tokens_out", "share_us")
_insert = upsert(key_usage)
ADD = _insert.on_conflict_do_update(
    index_elements=["key", "rate"],
    set_={name: key_usage.c[name] + _insert.excluded[name] for name in COUNTED},
)
HOUR_US = 3_600_000_000


@dataclass(slots=True)
class Usage:
    """`cost` in dollars: its parts of the workers' busy time, each at the rate that it had."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: Decimal = Decimal(0)


def write(connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
    """Count what is among `rows` of `requests`, in the transaction that stores them."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["key"] is None:
            continue
        at = row["key"], row["rate"]
        if (found := sums.get(at)) is None:
            found = sums[at] = {"key": at[0], "rate": at[1], **dict.fromkeys(COUNTED, 0)}
        found["requests"] += 1
        found["tokens_in"] += row["tokens_in"] or 0
        found["tokens_out"] += row["tokens_out"] or 0
        found["share_us"] += row["share_us"]
    if sums:
        connection.execute(ADD, list(sums.values()))


async def usage(database: Database) -> dict[str, Usage]:
    """By the ids of keys. Who asks sees what has happened."""
    await database.writer.flush()
    rows = await database.read(lambda c: c.execute(select(key_usage)).mappings().all())
    found: dict[str, Usage] = {}
    for row in rows:
        total = found.setdefault(row["key"], Usage())
        total.requests += row["requests"]
        total.tokens_in += row["tokens_in"]
        total.tokens_out += row["tokens_out"]
        total.cost += Decimal(row["rate"]) * row["share_us"] / HOUR_US
    return found
