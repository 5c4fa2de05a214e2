"""What there is to run on: of each place its processors, and its GPUs by type."""

from __future__ import annotations

import asyncio
import os

from nbgpu_backend.control.hosts import Hosts
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.sites import Site
from nbgpu_backend.domain.placement import LOCAL
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.schema.offers import Offered, OfferList


class Offers:
    def __init__(self, services: Services, hosts: Hosts) -> None:
        self._services = services
        self._hosts = hosts

    async def listing(self) -> OfferList:
        """A place that is not heard is listed with the reason, and not waited for."""
        sites = self._services.sites.all()
        found = await asyncio.gather(*(self._of(site) for site in sites))
        return OfferList(offers=[offer for offers in found for offer in offers])

    async def _of(self, site: Site) -> list[Offered]:
        rate = plain(self._services.rate(site.name).per_hour)
        cores, memory = os.cpu_count(), site.host.available_memory()
        try:
            away = await site.look()
            if site.name != LOCAL:
                facts = (await self._hosts.show(site.name)).facts
                cores, memory = (facts.cpus, facts.memory_available) if facts else (None, 0)
            if not away:
                await site.gpus.look()
        except NbgpuError as error:
            away = str(error.what).rstrip(".")
        rows = [
            Offered(
                place=site.name, gpu=None, total=cores, free=None, away=away,
                memory_available=memory or None, rate_per_hour=rate,
            )
        ]  # fmt: skip
        for offer in () if away else site.gpus.offers():
            rows.append(
                Offered(
                    place=site.name, gpu=offer.gpu, total=offer.total, free=offer.free,
                    memory_available=None, rate_per_hour=rate,
                )
            )  # fmt: skip
        return rows
