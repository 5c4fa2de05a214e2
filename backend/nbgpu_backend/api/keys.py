"""`/nbgpu/v1/keys`."""

from __future__ import annotations

from fastapi import APIRouter

from nbgpu_backend.control.core import Core
from nbgpu_backend.control.keys import Keys
from nbgpu_backend.schema.keys import CreateKey, Key, KeyList, NewKey


def routes(core: Core) -> APIRouter:
    router = APIRouter(prefix="/nbgpu/v1/keys", tags=["keys"])
    keys = Keys(core.endpoints, core.services)

    @router.post("", status_code=201)
    async def add_key(wanted: CreateKey) -> NewKey:
        """The secret is in this answer and in no other."""
        return await keys.add(wanted)

    @router.get("")
    async def list_keys(endpoint: str | None = None) -> KeyList:
        return await keys.listing(endpoint)

    @router.delete("/{key}")
    async def revoke_key(key: str) -> Key:
        """Answers with what it was."""
        return await keys.revoke(key)

    return router
