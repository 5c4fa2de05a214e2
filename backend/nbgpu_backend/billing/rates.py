"""The rate card: dollars an hour for one worker of a place. Own machines cost 0 unless set."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from nbgpu_backend.errors import BadRequest
from nbgpu_backend.store.tables import settings

PREFIX = "rate."
UNSET = "rate card, not set"


@dataclass(frozen=True, slots=True)
class Rate:
    per_hour: Decimal
    source: str


PARKED = Rate(Decimal(0), "parked")


def parse(text: str) -> Decimal:
    """Decimal text to dollars an hour. Raises BadRequest."""
    try:
        rate = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        raise BadRequest(
            f"'{text}' is no rate.", "Write dollars an hour, such as rate.local=0.10."
        ) from None
    if not rate.is_finite() or rate < 0 or rate > 100_000:
        raise BadRequest(f"A rate of {text} makes no sense.", "Write dollars an hour, 0 or more.")
    return rate


def load(connection: Connection) -> dict[str, Rate]:
    rows = connection.execute(select(settings).where(settings.c.key.startswith(PREFIX))).mappings()
    return {
        row["key"].removeprefix(PREFIX): Rate(Decimal(row["value"]), row["source"]) for row in rows
    }


def store(connection: Connection, place: str, rate: Rate, now_us: int) -> None:
    values = {"value": f"{rate.per_hour:f}", "source": rate.source, "at_us": now_us}
    connection.execute(
        insert(settings)
        .values(key=PREFIX + place, **values)
        .on_conflict_do_update(index_elements=["key"], set_=values)
    )
