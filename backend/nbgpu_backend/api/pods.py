"""`/v2/pods` and `/v2/network-volumes`, in the shape of RunPod's REST v2."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from nbgpu_backend.api.logs import bounded, follow
from nbgpu_backend.control.core import Core
from nbgpu_backend.control.pod_views import pod_view, volume_view
from nbgpu_backend.schema.pods import (
    CreatePod,
    CreateVolume,
    Pod,
    PodAction,
    PodList,
    UpdatePod,
    UpdateVolume,
    Volume,
    VolumeList,
)


def routes(core: Core) -> APIRouter:
    router = APIRouter(prefix="/v2/pods", tags=["pods"])
    services, pods = core.services, core.pods

    @router.get("")
    async def list_pods(includeClusterPods: bool = False) -> PodList:
        return PodList(pods=[pod_view(c, pods, services) for c in pods.all()])

    @router.post("", status_code=201)
    async def create_pod(spec: CreatePod, response: Response) -> Pod:
        """It is on its way when this answers. With `nbgpu.converge` the pod of that name is attached to, or
        changed: 200 then."""
        control, outcome, changes = await pods.open(spec)
        if outcome != "created":
            response.status_code = 200
        return pod_view(control, pods, services, outcome=outcome, changes=changes)

    @router.get("/{pod}")
    async def get_pod(pod: str) -> Pod:
        return pod_view(pods.get(pod), pods, services)

    @router.patch("/{pod}")
    async def update_pod(pod: str, update: UpdatePod) -> Pod:
        control = pods.get(pod)
        changes = await pods.change(control, update)
        outcome = "changed" if changes else "attached"
        return pod_view(control, pods, services, outcome=outcome, changes=changes)

    @router.delete("/{pod}", status_code=204)
    async def delete_pod(pod: str, keepVolume: bool = False) -> None:
        await pods.delete(pods.get(pod), keep_volume=keepVolume)

    @router.post("/{pod}/action", response_model=None)
    async def act(pod: str, action: PodAction) -> Pod | Response:
        control = pods.get(pod)
        match action.action:
            case "start":
                await pods.start(control)
            case "stop":
                await pods.stop(control)
            case "restart":
                await control.restart()
            case "terminate":
                await pods.delete(control, keep_volume=False)
                return Response(status_code=204)
        return pod_view(control, pods, services)

    @router.get("/{pod}/logs")
    async def pod_logs(pod: str, tail: int = 100) -> StreamingResponse:
        """The last lines, then what is added, as server-sent events until it ends."""
        return follow(core.pod_log(pods.get(pod), bounded(tail)))

    return router


def volume_routes(core: Core) -> APIRouter:
    router = APIRouter(prefix="/v2/network-volumes", tags=["volumes"])
    pods, volumes = core.pods, core.pods.volumes

    @router.get("")
    async def list_volumes() -> VolumeList:
        return VolumeList(
            network_volumes=[volume_view(v, pods, await volumes.used(v)) for v in volumes.network()]
        )

    @router.post("", status_code=201)
    async def create_volume(wanted: CreateVolume) -> Volume:
        return volume_view(await volumes.create(wanted), pods)

    @router.get("/{volume}")
    async def get_volume(volume: str) -> Volume:
        found = volumes.get(volume)
        return volume_view(found, pods, await volumes.used(found))

    @router.patch("/{volume}")
    async def update_volume(volume: str, wanted: UpdateVolume) -> Volume:
        found = volumes.get(volume)
        await volumes.change(found, wanted)
        return volume_view(found, pods)

    @router.delete("/{volume}", status_code=204)
    async def delete_volume(volume: str) -> None:
        await pods.delete_volume(volume)

    return router
