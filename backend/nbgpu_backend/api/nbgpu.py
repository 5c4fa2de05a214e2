"""`/nbgpu/v1`: what RunPod has no resource for."""

from __future__ import annotations

import os
from collections.abc import Callable

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from nbgpu_backend import runtime
from nbgpu_backend.api.logs import follow as followed
from nbgpu_backend.api.logs import nothing
from nbgpu_backend.billing.costs import cost_series, ledger_columns
from nbgpu_backend.billing.rates import Rate, parse
from nbgpu_backend.control.core import Core
from nbgpu_backend.control.summary import summary_of
from nbgpu_backend.control.views import endpoint_view, memory_view
from nbgpu_backend.control.why import Explainer
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.schema.endpoints import Endpoint, Warm
from nbgpu_backend.schema.events import EventList
from nbgpu_backend.schema.metrics import Columns, CostSeries
from nbgpu_backend.schema.offers import OfferList
from nbgpu_backend.schema.summary import (
    Health,
    LogLines,
    Memory,
    Settings,
    SettingsChange,
    ShutdownRequest,
    Stopped,
    Summary,
    Why,
)
from nbgpu_backend.telemetry.frames import request_columns, worker_columns


def routes(core: Core, version: str, shutdown: Callable[[bool], None]) -> APIRouter:
    router = APIRouter(prefix="/nbgpu/v1", tags=["nbgpu"])
    services, endpoints = core.services, core.endpoints
    state, explainer, pods = services.state, Explainer(endpoints, core.pods, services), core.pods

    def _id(name: str | None) -> str | None:
        if name and (pod := pods.find(name)) is not None:
            return pod.id
        return endpoints.get(name).id if name else None

    def _names() -> dict[str, str]:
        found = {control.id: control.name for control in endpoints.all()}
        return found | {pod.id: pod.name for pod in pods.all()}

    @router.get("/health")
    async def health() -> Health:
        return Health(
            status="ok",
            pid=os.getpid(),
            version=version,
            api_version=runtime.API_VERSION,
            installation=services.installation,
            started_us=core.started_us,
            loop_lag_ms=core.lag_ms,
        )

    @router.get("/summary")
    async def summary() -> Summary:
        return await summary_of(core)

    @router.get("/why/{subject}")
    async def explain(subject: str) -> Why:
        """Of an endpoint, a pod, a worker (`w-…`) or a request (`req-…`)."""
        return await explainer.why(subject)

    @router.post("/warm/{endpoint}")
    async def warm(endpoint: str, wanted: Warm) -> Endpoint:
        """Workers start at once, without a request, and are kept up until then."""
        control = endpoints.get(endpoint)
        await endpoints.warm(control, wanted.seconds, wanted.workers)
        return endpoint_view(control, services)

    @router.get("/history")
    async def history(
        endpoint: str | None = None, limit: int = Query(50, ge=1, le=1000), since: int = 0
    ) -> EventList:
        """What happened, newest first; `since` is a seq."""
        found = await state.last_events(_id(endpoint), limit, since=since)
        return EventList(events=found)

    @router.get("/offers")
    async def offers() -> OfferList:
        """What there is to run on, and where."""
        return await core.offers()

    @router.get("/memory")
    async def memory() -> Memory:
        await services.memory.measure()
        return memory_view(services)

    @router.get("/logs/{endpoint}", response_model=LogLines)
    async def logs(
        endpoint: str, tail: int = Query(100, ge=1, le=5000), follow: bool = False
    ) -> LogLines | StreamingResponse:
        """`follow`: as server-sent events, until that pod or worker has ended."""
        if (pod := pods.find(endpoint)) is not None:
            if follow:
                return followed(core.pod_log(pod, tail))
            running = pod.instance.id if pod.instance else None
            return LogLines(worker=running, lines=await core.pod_lines(pod, tail))
        control = endpoints.get(endpoint)
        newest = next(reversed(control.workers.values()), None)
        if follow:
            return followed(newest.follow(tail) if newest is not None else nothing())
        if newest is None:
            return LogLines(worker=None, lines=[])
        try:
            lines = await newest.site.host.logs(newest.record.name, tail)
        except NbgpuError:  # it has ended, and its folder is gone
            lines = list(newest.exit.tail)[-tail:] if newest.exit else []
        return LogLines(worker=newest.id, lines=lines)

    @router.get("/metrics/requests")
    async def metrics_requests(endpoint: str | None = None, since_us: int = 0) -> Columns:
        return await request_columns(
            services.telemetry, endpoint_id=_id(endpoint), since_us=since_us
        )

    @router.get("/metrics/workers")
    async def metrics_workers(endpoint: str | None = None, since_us: int = 0) -> Columns:
        found = await worker_columns(
            services.telemetry, endpoint_id=_id(endpoint), since_us=since_us
        )
        names = _names()
        ids = found.columns.pop("endpoint_id")
        found.columns["endpoint"] = [names.get(i, i) for i in ids]
        return found

    @router.get("/metrics/ledger")
    async def metrics_ledger(endpoint: str | None = None, since_us: int = 0) -> Columns:
        return await ledger_columns(
            state.database,
            endpoint_id=_id(endpoint),
            since_us=since_us,
            now_us=services.clock.now(),
            names=_names(),
        )

    @router.get("/metrics/cost")
    async def metrics_cost(endpoint: str, since_us: int = 0) -> CostSeries:
        return await cost_series(
            state.database,
            services.telemetry,
            endpoint_id=_id(endpoint) or "",
            since_us=since_us,
            now_us=services.clock.now(),
        )

    @router.get("/settings")
    async def settings() -> Settings:
        rates = {place: services.rate(place) for place in services.sites.names()}
        return Settings(
            rates={place: f"{rate.per_hour:f}" for place, rate in rates.items()},
            rate_sources={place: rate.source for place, rate in rates.items()},
            lease_pod_s=services.lease_pod_s,
            place=await core.hosts.place(),
        )

    @router.patch("/settings")
    async def change_settings(change: SettingsChange) -> Settings:
        parsed = {place: parse(text) for place, text in change.rates.items()}
        for place in parsed:
            services.sites.get(place)
        for place, per_hour in parsed.items():
            await core.set_rate(place, Rate(per_hour, change.source))
        if change.place is not None:
            await core.hosts.use(change.place)
        if change.lease_pod_s is not None:
            await core.set_lease(change.lease_pod_s)
        return await settings()

    @router.post("/stop-all")
    async def stop_all() -> Stopped:
        """Every pod and every endpoint; returns when nothing of them runs."""
        return Stopped(stopped=await core.stop_all())

    @router.post("/shutdown", status_code=202)
    async def stop(request: ShutdownRequest) -> dict[str, bool]:
        shutdown(request.all)
        return {"all": request.all}

    return router
