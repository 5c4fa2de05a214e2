"""`/nbgpu/v1/secrets`: names out, values in."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from nbgpu_backend.control.core import Core
from nbgpu_backend.schema.secrets import Secret, SecretList, SetSecret
from nbgpu_backend.store.secrets import Secrets


def routes(core: Core) -> APIRouter:
    router = APIRouter(prefix="/nbgpu/v1/secrets", tags=["secrets"])
    services = core.services
    stored = Secrets(services.home.secrets)

    @router.get("")
    async def list_secrets() -> SecretList:
        found = await asyncio.to_thread(stored.all)
        return SecretList(
            secrets=[Secret(name=n, changed_us=s.changed_us) for n, s in sorted(found.items())]
        )

    @router.put("/{name}")
    async def set_secret(name: str, given: SetSecret) -> Secret:
        kept = await asyncio.to_thread(stored.put, name, given.value, services.clock.now())
        return Secret(name=name, changed_us=kept.changed_us)

    @router.delete("/{name}", status_code=204)
    async def remove_secret(name: str) -> None:
        await asyncio.to_thread(stored.remove, name)

    return router
