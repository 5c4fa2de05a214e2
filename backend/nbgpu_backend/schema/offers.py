"""`/nbgpu/v1/offers`: what there is to run on, and where."""

from __future__ import annotations

from nbgpu_backend.schema.common import Dollars, Model


class Offered(Model):
    """`gpu` None: the processors of the place, and `free` of them is not counted."""

    place: str
    gpu: str | None
    total: int | None
    free: int | None
    memory_available: int | None
    rate_per_hour: Dollars
    away: str = ""


class OfferList(Model):
    offers: list[Offered]
