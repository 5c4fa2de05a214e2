"""What there is to run on: OfferListing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbgpu.errors import UsageProblem, closest
from nbgpu.formats import per_hour, size
from nbgpu.results.shape import Rich, html_table, text_table

if TYPE_CHECKING:
    from nbgpu_backend.schema.offers import Offered, OfferList

HEADS = ("place", "what", "free", "memory free", "$/h", "")


def _row(offer: Offered) -> tuple[str, ...]:
    count = "" if offer.total is None else str(offer.total)
    what = offer.gpu if offer.gpu is not None else f"{count} processors".strip()
    free = "" if offer.free is None else f"{offer.free} of {count}"
    memory = size(offer.memory_available) if offer.memory_available else ""
    return (offer.place, what, free, memory, per_hour(offer.rate_per_hour), offer.away)


class OfferListing(Rich):
    """`gpu`: only GPUs whose type begins so. Raises UsageProblem where there is none of it."""

    def __init__(self, found: OfferList, gpu: str = "") -> None:
        self.offers = [
            offer for offer in found.offers if (offer.gpu or "").lower().startswith(gpu.lower())
        ]
        if not self.offers:
            kinds = sorted({offer.gpu for offer in found.offers if offer.gpu is not None})
            raise UsageProblem(
                f"No place has a GPU of type {gpu}.{closest(gpu, kinds)}",
                f"There is: {', '.join(kinds)}." if kinds else "No place that is heard has a GPU.",
            )

    def text(self) -> str:
        return text_table(HEADS, map(_row, self.offers))

    def html(self) -> str:
        return html_table(HEADS, map(_row, self.offers))

    def to_dict(self) -> dict[str, Any]:
        return {"offers": [offer.wire() for offer in self.offers]}
