"""Keys of endpoints: made, listed, revoked; and when each was used last, stored now and then."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from nbgpu_backend.clock import Clock
from nbgpu_backend.control.endpoints import Endpoints
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.views import base_url
from nbgpu_backend.domain.limits import Allowance
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.errors import NotFound
from nbgpu_backend.schema import keys as schema
from nbgpu_backend.serving.keys import SHOWN, Key, Keyring, digest, new_secret
from nbgpu_backend.store.state import Draft, State
from nbgpu_backend.store.tables import endpoints, keys
from nbgpu_backend.telemetry.usage import Usage, usage

COLUMNS = ("id", "endpoint_id", "prefix", "label", "per_minute", "at_once", "created_us", "used_us")


class Keys:
    def __init__(self, endpoints: Endpoints, services: Services) -> None:
        self._endpoints = endpoints
        self._services = services

    async def add(self, wanted: schema.CreateKey) -> schema.NewKey:
        """In force when it returns. Raises NotFound, DiskError."""
        services, control = self._services, self._endpoints.get(wanted.endpoint)
        now, secret = services.clock.now(), new_secret()
        hashed = digest(secret.encode())
        row: dict[str, Any] = {
            "id": "key-" + secrets.token_hex(5), "endpoint_id": control.id,
            "prefix": secret[:SHOWN], "label": wanted.label, "per_minute": wanted.per_minute,
            "at_once": wanted.at_once, "created_us": now, "used_us": None,
        }  # fmt: skip

        def change(connection: Connection) -> None:
            connection.execute(insert(keys).values(**row, hash=hashed))

        key = key_of(row, services.clock)
        text = f"{control.name} has a new key, {named(key)}"
        draft = Draft(now, "key.added", text, control.id, control.name, values={"key": key.id})
        await services.state.commit(change, draft)
        if self._endpoints.by_id(control.id) is not None:  # or it was deleted meanwhile
            services.keys.add(hashed, key)
        shown = self._view(key, Usage()).model_dump()
        return schema.NewKey(**shown, secret=secret, base_url=base_url(control, services))

    async def listing(self, endpoint: str | None) -> schema.KeyList:
        """In the order in which they were made. Raises NotFound for an unknown endpoint."""
        wanted = self._endpoints.get(endpoint).id if endpoint else None
        used = await usage(self._services.telemetry)
        return schema.KeyList(
            keys=[
                self._view(key, used.get(key.id, Usage()))
                for key in self._services.keys
                if wanted in (None, key.endpoint_id)
            ]
        )

    async def revoke(self, key_id: str) -> schema.Key:
        """It opens nothing any more when this returns; what it has in progress goes on. Raises NotFound."""
        services = self._services
        key = services.keys.by_id(key_id)
        if key is None:
            raise NotFound(
                f"There is no key {key_id}.",
                "See their ids with: nbgpu key ls",
                code="key_not_found",
            )
        now, name = services.clock.now(), self._name(key)

        def change(connection: Connection) -> None:
            connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_us=now))

        text = f"The key {named(key)} of {name} is revoked"
        draft = Draft(now, "key.revoked", text, key.endpoint_id, name, values={"key": key_id})
        await services.state.commit(change, draft)
        services.keys.remove(key_id)
        return self._view(key, (await usage(services.telemetry)).get(key_id, Usage()))

    def _name(self, key: Key) -> str:
        control = self._endpoints.by_id(key.endpoint_id)
        return control.name if control else "(deleted)"

    def _view(self, key: Key, used: Usage) -> schema.Key:
        return schema.Key(
            id=key.id, endpoint=self._name(key), endpoint_id=key.endpoint_id, prefix=key.prefix,
            label=key.label, per_minute=key.per_minute, at_once=key.at_once,
            created_us=key.created_us, used_us=key.used_us, requests=used.requests,
            tokens_in=used.tokens_in, tokens_out=used.tokens_out, cost=plain(used.cost),
        )  # fmt: skip


def named(key: Key) -> str:
    return f"'{key.label}' ({key.prefix}…)" if key.label else f"{key.prefix}…"


def key_of(row: dict[str, Any], clock: Clock) -> Key:
    """Its allowance is full: what was asked before this backend is not known."""
    now_us = int(clock.elapsed() * 1e6)
    return Key(
        **{name: row[name] for name in COLUMNS},
        stored_us=row["used_us"],
        allowance=Allowance(row["per_minute"], row["at_once"], now_us),
    )


def load(connection: Connection, clock: Clock) -> Keyring:
    """Every key that is in force."""
    ring = Keyring()
    there = select(endpoints.c.id).where(endpoints.c.deleted_us.is_(None))
    query = select(keys).where(keys.c.revoked_us.is_(None), keys.c.endpoint_id.in_(there))
    query = query.order_by(keys.c.created_us)
    for row in connection.execute(query).mappings():
        ring.add(row["hash"], key_of(dict(row), clock))
    return ring


async def store_uses(ring: Keyring, state: State) -> None:
    """Raises DiskError."""
    used = [key for key in ring if key.used_us != key.stored_us]
    if not used:
        return
    rows = [{"key": key.id, "at": key.used_us} for key in used]
    query = update(keys).where(keys.c.id == bindparam("key")).values(used_us=bindparam("at"))

    def change(connection: Connection) -> None:
        connection.execute(query, rows)

    await state.commit(change)
    for key, row in zip(used, rows, strict=True):
        key.stored_us = row["at"]  # type: ignore[assignment]
