"""Settings that are no rates, as they are stored: today the lease of pods."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from nbgpu_backend.control.services import LEASE_POD_S
from nbgpu_backend.store.tables import settings

KEY = "lease.pod"


def load_lease(connection: Connection) -> float:
    """Seconds."""
    found = connection.execute(select(settings.c.value).where(settings.c.key == KEY)).scalar()
    return float(found) if found else LEASE_POD_S


def store_lease(connection: Connection, seconds: float, now_us: int) -> None:
    values = {"value": f"{seconds:g}", "source": "set by hand", "at_us": now_us}
    connection.execute(
        insert(settings)
        .values(key=KEY, **values)
        .on_conflict_do_update(index_elements=["key"], set_=values)
    )
