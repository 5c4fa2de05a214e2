"""Pods and volumes as the API shows them."""

from __future__ import annotations

import os

from nbgpu_backend.control.pod import PodControl
from nbgpu_backend.control.pod_records import VolumeRecord
from nbgpu_backend.control.pods import Pods
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.views import rfc3339
from nbgpu_backend.domain import pods as rules
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.schema.endpoints import Change, SkippedPlace
from nbgpu_backend.schema.pods import (
    Gauge,
    GpuGauge,
    Kernel,
    KernelConnection,
    Pod,
    PodCpu,
    PodGpu,
    PodRow,
    PodRuntime,
    PodState,
    PodUse,
    Run,
    RuntimePort,
    Volume,
    VolumeExtras,
)

GB = 1_000_000_000
TAIL = 12


def pod_view(
    control: PodControl,
    pods: Pods,
    services: Services,
    *,
    outcome: str | None = None,
    changes: list[Change] | None = None,
) -> Pod:
    record, spec, now = control.record, control.record.spec, services.clock.now()
    gpu, end, volume = control.gpu(), control.next_end(), pods.volumes.by_id(record.volume_id)
    separation, started = control.separation, _started_us(control)
    live_rate = services.ledger.rate_now(record.id)
    cores = spec.nbgpu.place.cpu or os.cpu_count() or 1
    return Pod(
        id=record.id,
        name=record.name,
        status=rules.STATUS[control.state],
        actions=rules.actions(control.state),
        image=spec.image,
        args=spec.args,
        disk=None,
        env=spec.env,
        ports=spec.ports,
        mounts=spec.mounts,
        gpu=PodGpu(id=gpu[0], count=gpu[1]) if gpu else None,
        cpu=None if gpu else PodCpu(id="cpu", vcpu_count=cores, memory=control.memory_limit // GB),
        data_center_id=spec.nbgpu.place.on,
        cost=float(live_rate),
        runtime=_runtime(control, started, now, cores),
        created_at=rfc3339(record.created_us),
        started_at=rfc3339(started) if started else None,
        nbgpu=PodState(
            state=control.state,
            reason=control.reason,
            place=spec.nbgpu.place,
            isolation=separation.level if separation else None,
            isolation_text=separation.text if separation else "",
            network=spec.nbgpu.network,
            limits=spec.nbgpu.limits,
            requirements=spec.nbgpu.requirements,
            secrets=spec.nbgpu.secrets,
            before_stop=spec.nbgpu.before_stop,
            volume_id=record.volume_id,
            volume_name=volume.name if volume and volume.pod_id is None else None,
            workspace=pods.volumes.path(volume) if volume else "",
            preparation=control.preparation,
            kernel=kernel_view(control.seen.get("kernel")),
            kernelspec=control.kernelspec,
            run=_run(control),
            active_us=control.active_us,
            stops_at_us=end.at_us if end else None,
            stops_why=end.text if end else "",
            use=use_view(control),
            skipped=[SkippedPlace(what=s.what, code=s.code, text=s.text) for s in control.skipped],
            rate_per_hour=plain(control.rate.per_hour),
            rate_source=control.rate.source,
            cost_so_far=plain(services.ledger.cost(record.id, now)),
            origin=spec.nbgpu.origin,
            tags=spec.nbgpu.tags,
            version=record.version,
            created_us=record.created_us,
            started_us=started,
            tail=list(control.tail)[-TAIL:] if control.state == "failed" else [],
            outcome=outcome,
            changes=changes or [],
        ),
    )


def pod_row(control: PodControl, pods: Pods, services: Services) -> PodRow:
    record, now = control.record, services.clock.now()
    spec, gpu, end = record.spec, control.gpu(), control.next_end()
    rate = services.ledger.rate_now(record.id)
    volume = pods.volumes.by_id(record.volume_id)
    kernel = kernel_view(control.seen.get("kernel"))
    return PodRow(
        id=record.id,
        name=record.name,
        state=control.state,
        status=rules.STATUS[control.state],
        reason=control.reason.text,
        reason_since_us=control.reason.since_us,
        on=spec.nbgpu.place.on,
        gpu=gpu[0] + (f":{gpu[1]}" if gpu[1] > 1 else "") if gpu else None,
        cpu=None if gpu else spec.nbgpu.place.cpu,
        isolation=control.separation.level if control.separation else None,
        kernel=kernel.state if kernel else "none",
        kernelspec=control.kernelspec,
        use=use_view(control),
        rate_per_hour=plain(rate),
        cost_so_far=plain(services.ledger.cost(record.id, now)),
        idle_but_billing=control.state == "idle" and rate > 0,
        active_us=control.active_us,
        stops_at_us=end.at_us if end else None,
        stops_why=end.text if end else "",
        volume_name=volume.name if volume and volume.pod_id is None else None,
        origin=spec.nbgpu.origin.notebook,
        created_us=record.created_us,
        started_us=_started_us(control),
    )


def use_view(control: PodControl) -> PodUse:
    seen = control.seen
    return PodUse(
        memory_bytes=int(seen.get("rss") or 0),
        memory_limit=control.memory_limit if control.live else 0,
        cpu=round(control.cpu_share, 2),
        processes=int(seen.get("processes") or 0),
        terminals=int(seen.get("terminals") or 0),
    )


def kernel_view(said: object, sockets: str | None = None) -> Kernel | None:
    """As the agent told of it; with `sockets`, what their paths begin with here."""
    if not isinstance(said, dict):
        return None
    connection = said.get("connection")
    known = {k: v for k, v in said.items() if k in Kernel.model_fields and k != "connection"}
    if sockets is None or not isinstance(connection, dict):
        return Kernel(**known)
    return Kernel(**known, connection=KernelConnection(**{**connection, "ip": sockets}))


def _run(control: PodControl) -> Run | None:
    said = control.seen.get("run")
    return Run(**said) if isinstance(said, dict) else None


def _started_us(control: PodControl) -> int | None:
    if control.instance is None:
        return None
    return control.instance.started_us or control.instance.intent_us


def _runtime(control: PodControl, started: int | None, now: int, cores: int) -> PodRuntime | None:
    if not control.running or started is None:
        return None
    use = use_view(control)
    gpus = [
        GpuGauge(util=g["util"], memory_util=g["memory_util"])
        for g in control.seen.get("gpus") or ()
    ]
    return PodRuntime(
        uptime=max(0, (now - started) // 1_000_000),
        gpus=gpus,
        cpu=Gauge(util=round(100 * use.cpu / cores)),
        memory=Gauge(util=round(100 * use.memory_bytes / max(1, use.memory_limit))),
        ports=[
            RuntimePort(private=p.port, public=p.local_port, type="http", ip="127.0.0.1")
            for p in control.ports.all()
        ],
    )


def volume_view(record: VolumeRecord, pods: Pods, used: int | None = None) -> Volume:
    return Volume(
        id=record.id,
        name=record.name,
        size=record.size_gb,
        data_center=record.place,
        type=record.type,
        nbgpu=VolumeExtras(
            path=pods.volumes.path(record),
            pods=pods.users(record.id),
            created_us=record.created_us,
            bytes_used=used,
        ),
    )


def with_sockets(said: dict[str, object], control: PodControl) -> Kernel:
    found = kernel_view(said.get("kernel"), control.sockets) or Kernel(state="none")
    found.instance = control.instance.id if control.instance else None
    return found
