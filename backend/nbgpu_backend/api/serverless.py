"""`/v2/serverless`, in the shape of RunPod's REST v2."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from nbgpu_backend.api.logs import bounded, follow
from nbgpu_backend.control.core import Core
from nbgpu_backend.control.views import endpoint_view, worker_list
from nbgpu_backend.errors import NotFound
from nbgpu_backend.schema.endpoints import (
    CreateEndpoint,
    Endpoint,
    EndpointAction,
    EndpointList,
    UpdateEndpoint,
    WorkerList,
)


def routes(core: Core) -> APIRouter:
    router = APIRouter(prefix="/v2/serverless", tags=["serverless"])
    services, endpoints = core.services, core.endpoints

    @router.get("")
    async def list_endpoints() -> EndpointList:
        return EndpointList(endpoints=[endpoint_view(c, services) for c in endpoints.all()])

    @router.post("", status_code=201)
    async def create_endpoint(spec: CreateEndpoint, response: Response) -> Endpoint:
        """With `nbgpu.converge` the endpoint of that name is attached to, or changed: 200 then."""
        control, outcome, changes = await endpoints.deploy(spec)
        if outcome != "created":
            response.status_code = 200
        return endpoint_view(control, services, outcome=outcome, changes=changes)

    @router.get("/{endpoint}")
    async def get_endpoint(endpoint: str) -> Endpoint:
        return endpoint_view(endpoints.get(endpoint), services)

    @router.patch("/{endpoint}")
    async def update_endpoint(endpoint: str, update: UpdateEndpoint) -> Endpoint:
        control = endpoints.get(endpoint)
        changes = await endpoints.change(control, update)
        return endpoint_view(control, services, outcome="changed" if changes else "attached", changes=changes)  # fmt: skip

    @router.delete("/{endpoint}", status_code=204)
    async def delete_endpoint(endpoint: str) -> None:
        await endpoints.delete(endpoints.get(endpoint))

    @router.post("/{endpoint}/action")
    async def act(endpoint: str, action: EndpointAction) -> Endpoint:
        control = endpoints.get(endpoint)
        await (endpoints.stop(control) if action.action == "stop" else endpoints.start(control))
        return endpoint_view(control, services)

    @router.get("/{endpoint}/workers")
    async def list_workers(endpoint: str) -> WorkerList:
        return worker_list(endpoints.get(endpoint), services)

    @router.get("/{endpoint}/workers/{worker}/logs")
    async def worker_logs(endpoint: str, worker: str, tail: int = 100) -> StreamingResponse:
        """The last lines, then what is added, as server-sent events until the worker ends."""
        control = endpoints.get(endpoint)
        found = control.workers.get(worker)
        if found is None:
            raise NotFound(f"'{control.name}' has no worker '{worker}'.", f"See: nbgpu show {control.name}")  # fmt: skip
        return follow(found.follow(bounded(tail)))

    return router
