"""What there is to run on: of each place its processors, and its GPUs by type."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping

from nbgpu_backend.control.hosts import Hosts
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.sites import Site
from nbgpu_backend.domain import pods as rules
from nbgpu_backend.domain.placement import LOCAL
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.schema.offers import Offered, OfferList


class Offers:
    """`taken(place)`: indices of the GPUs that pods have there."""

    def __init__(self, services: Services, hosts: Hosts) -> None:
        self._services = services
        self._hosts = hosts

    async def listing(self, taken: Mapping[str, Collection[int]]) -> OfferList:
        """A place that is not heard is listed with the reason, and not waited for."""
        sites = self._services.sites.all()
        found = await asyncio.gather(*(self._of(s, taken.get(s.name, ())) for s in sites))
        return OfferList(offers=[offer for offers in found for offer in offers])

    async def _of(self, site: Site, taken: Collection[int]) -> list[Offered]:
        rate = plain(self._services.rate(site.name).per_hour)
        cores, memory = os.cpu_count(), site.host.available_memory()
        try:
            away = await site.look()
            if site.name != LOCAL:
                facts = (await self._hosts.show(site.name)).facts
                cores, memory = (facts.cpus, facts.memory_available) if facts else (None, 0)
            gpus = [] if away else await site.pods.gpus()
        except NbgpuError as error:
            away, gpus = str(error.what).rstrip("."), []
        rows = [
            Offered(
                place=site.name, gpu=None, total=cores, free=None, away=away,
                memory_available=memory or None, rate_per_hour=rate,
            )
        ]  # fmt: skip
        for offer in rules.offers([(gpu.index, gpu.name) for gpu in gpus], taken):
            rows.append(
                Offered(
                    place=site.name, gpu=offer.gpu, total=offer.total, free=offer.free,
                    memory_available=None, rate_per_hour=rate,
                )
            )  # fmt: skip
        return rows
