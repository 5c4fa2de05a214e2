"""`/nbgpu/v1/hosts`."""

from __future__ import annotations

from fastapi import APIRouter

from nbgpu_backend.billing.rates import Rate, parse
from nbgpu_backend.control.core import Core
from nbgpu_backend.schema.hosts import AddHost, AskContact, Contact, Host, HostList


def routes(core: Core) -> APIRouter:
    router = APIRouter(prefix="/nbgpu/v1/hosts", tags=["hosts"])
    hosts = core.hosts

    @router.get("")
    async def list_hosts() -> HostList:
        return await hosts.listing()

    @router.post("", status_code=201)
    async def add_host(wanted: AddHost) -> Host:
        """It is logged in to before this answers."""
        rate = parse(wanted.rate) if wanted.rate is not None else None
        added = await hosts.add(wanted)
        if rate is None:
            return added
        await core.set_rate(wanted.name, Rate(rate, "set by hand"))
        return await hosts.show(wanted.name)

    @router.post("/contact")
    async def contact(asked: AskContact) -> Contact:
        """The keys that it and those before it show, to be accepted by a person."""
        return await hosts.contact(asked)

    @router.get("/{host}")
    async def get_host(host: str) -> Host:
        return await hosts.show(host)

    @router.post("/{host}/check")
    async def check_host(host: str) -> Host:
        return await hosts.check(host)

    @router.post("/{host}/reconnect")
    async def reconnect_host(host: str) -> Host:
        return await hosts.reconnect(host)

    @router.delete("/{host}", status_code=204)
    async def remove_host(host: str) -> None:
        """What was made there stays on its disk, in ~/.nbgpu."""
        await hosts.remove(host)

    return router
