"""How long telemetry is kept: DAYS, and never more than ROWS of a table."""

from __future__ import annotations

from sqlalchemy import Connection, Table, delete, func, select

from nbgpu_backend.store.tables import requests, worker_states

DAYS = 90
ROWS = 2_000_000
DAY_US = 86_400_000_000


def prune(connection: Connection, now_us: int) -> int:
    """Drop what is too old or too much; returns how many rows went."""
    gone = 0
    for table, column in (
        (requests, requests.c.arrived_us),
        (worker_states, worker_states.c.at_us),
    ):
        gone += connection.execute(delete(table).where(column < now_us - DAYS * DAY_US)).rowcount
        if _count(connection, table) > ROWS:
            cut = connection.execute(
                select(column).order_by(column.desc()).offset(ROWS).limit(1)
            ).scalar_one()
            gone += connection.execute(delete(table).where(column <= cut)).rowcount
    return gone


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())
