"""`/metrics`, in Prometheus's text format or OpenMetrics', as the scraper accepts."""

from __future__ import annotations

from fastapi import APIRouter, Header, Response

from nbgpu_backend.control.core import Core
from nbgpu_backend.control.exposition import exposition


def routes(core: Core) -> APIRouter:
    router = APIRouter(tags=["prometheus"])

    @router.get("/metrics")
    async def metrics(accept: str = Header("")) -> Response:
        body, content_type = await exposition(core, accept)
        return Response(body, media_type=content_type)

    return router
