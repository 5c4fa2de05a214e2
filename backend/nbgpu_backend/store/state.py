"""`state.db` as the backend uses it: transactions that carry their events with them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from nbgpu_backend.schema.events import Event
from nbgpu_backend.store.database import Database
from nbgpu_backend.store.tables import events, meta


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that is not stored yet: it gets its `seq` in the transaction of the change it tells of."""

    at_us: int
    kind: str
    text: str
    endpoint_id: str | None = None
    endpoint: str | None = None
    worker_id: str | None = None
    values: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return {
            "at_us": self.at_us, "kind": self.kind, "text": self.text, "endpoint_id": self.endpoint_id,
            "endpoint": self.endpoint, "worker_id": self.worker_id, "values": self.values,
        }  # fmt: skip


class Listener(Protocol):
    def __call__(self, event: Event) -> None: ...


class State:
    """The database and whoever listens to its events."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event once it is committed; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def commit(
        self, change: Callable[[Connection], None] | None, *drafts: Draft
    ) -> list[Event]:
        """One transaction: the change and its events. Raises DiskError."""

        def work(connection: Connection) -> list[Event]:
            if change is not None:
                change(connection)
            return [_insert(connection, draft) for draft in drafts]

        stored = await self.database.writer.write(work)
        for event in stored:
            for listener in list(self._listeners):
                listener(event)
        return stored

    async def events_since(
        self, seq: int, *, endpoint_id: str | None = None, limit: int = 1000
    ) -> list[Event]:
        query = select(events).where(events.c.seq > seq).order_by(events.c.seq).limit(limit)
        if endpoint_id is not None:
            query = query.where(events.c.endpoint_id == endpoint_id)
        return await self.database.read(lambda c: [_event(r) for r in c.execute(query).mappings()])

    async def last_events(
        self, endpoint_id: str | None, limit: int, *, since: int = 0
    ) -> list[Event]:
        """Newest first."""
        query = select(events).where(events.c.seq > since).order_by(events.c.seq.desc())
        query = query.limit(limit)
        if endpoint_id is not None:
            query = query.where(events.c.endpoint_id == endpoint_id)
        return await self.database.read(lambda c: [_event(r) for r in c.execute(query).mappings()])

    async def rows(self, query: Any) -> Sequence[dict[str, Any]]:
        return await self.database.read(lambda c: [dict(r) for r in c.execute(query).mappings()])


def installation_id(connection: Connection) -> str:
    """Six letters that mark this installation's instances; made once."""
    found = connection.execute(select(meta.c.value).where(meta.c.key == "installation")).scalar()
    if found:
        return str(found)
    fresh = "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(6))
    connection.execute(upsert(meta).values(key="installation", value=fresh))
    return fresh


def _insert(connection: Connection, draft: Draft) -> Event:
    result = connection.execute(insert(events).values(**draft.row()))
    key = result.inserted_primary_key
    assert key is not None
    return Event(seq=int(key[0]), **draft.row())


def _event(row: Any) -> Event:
    return Event(**dict(row))
