"""Endpoints and workers as the API shows them."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime

from nbgpu_backend.control.endpoint import EndpointControl
from nbgpu_backend.control.probe import health_check
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.worker import WorkerControl
from nbgpu_backend.domain.placement import LOCAL
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.domain.states import WORKER_STATES
from nbgpu_backend.schema.endpoints import (
    BalancerUrls,
    Change,
    Endpoint,
    EndpointStatus,
    Fetch,
    ModelInfo,
    Phase,
    RequestUrls,
    SkippedPlace,
    Warmth,
    Worker,
    WorkerExtras,
    WorkerList,
    WorkerSummary,
)
from nbgpu_backend.schema.summary import EndpointRow, HoldingRow, Memory, ParentRow, WorkerRow


def rfc3339(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")  # fmt: skip


def camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda m: m[1].upper(), name)


def base_url(control: EndpointControl, services: Services) -> str:
    """Of OpenAI's API, of the job API where it is a handler, or of its own where it is a load balancer."""
    if control.balances:
        return f"{services.url}/lb/{control.name}"
    return f"{services.url}/v2/{control.name}" + ("" if control.pulls else "/openai/v1")


def endpoint_view(
    control: EndpointControl,
    services: Services,
    *,
    outcome: str | None = None,
    changes: list[Change] | None = None,
) -> Endpoint:
    record, spec = control.record, control.record.spec
    now = services.clock.now()
    rate = services.rate(next(iter(control.stock.places()), LOCAL))
    status = EndpointStatus(
        model=ModelInfo(
            ref=record.model.ref,
            source=record.model.source,
            revision=record.model.revision,
            path=record.model.path,
            bytes=record.model.bytes,
            fetch=control.stock.shown.view() if control.stock.shown else Fetch(state="failed"),
        ),
        engine=spec.nbgpu.engine,
        engine_version=control.engine_version,
        place=spec.nbgpu.place,
        policy=spec.nbgpu.policy,
        state=control.status.state(),
        reason=control.status.reason(),
        version=record.version,
        base_url=base_url(control, services),
        queued=control.queue.core.waiting,
        held=control.queue.core.in_progress(),
        workers=[worker_view(w, services) for w in control.live_workers()],
        last_failure=control.last_failure,
        rate_per_hour=plain(rate.per_hour),
        rate_source=rate.source,
        cost_so_far=plain(services.ledger.cost(record.id, now)),
        requests_total=control.requests_total,
        typical_cold_start_s=control.status.typical_cold_start_s(),
        warm=warmth_view(control),
        origin=spec.nbgpu.origin,
        tags=spec.nbgpu.tags,
        created_us=record.created_us,
        outcome=outcome,
        changes=changes or [],
    )
    return Endpoint(
        id=record.id,
        name=record.name,
        type=spec.type,
        image=None,
        args=None,
        disk=None,
        env=spec.env,
        registry=None,
        gpu=None,
        request_urls=request_urls(control, services),
        workers=spec.workers,
        scaling=spec.scaling,
        data_center_ids=[],
        network_volumes=[],
        timeout=spec.timeout,
        flashboot="OFF",
        created_at=rfc3339(record.created_us),
        nbgpu=status,
    )


def request_urls(control: EndpointControl, services: Services) -> RequestUrls | BalancerUrls:
    if control.balances:
        base = f"{services.url}/lb/{control.id}"
        return BalancerUrls(base=base, health=base + health_check(control.record.spec).path)
    base = f"{services.url}/v2/{control.id}"
    return RequestUrls(
        run=f"{base}/run",
        run_sync=f"{base}/runsync",
        status=f"{base}/status/{{id}}",
        stream=f"{base}/stream/{{id}}",
        cancel=f"{base}/cancel/{{id}}",
        retry=f"{base}/retry/{{id}}",
        purge_queue=f"{base}/purge-queue",
        health=f"{base}/health",
    )


def worker_view(worker: WorkerControl, services: Services) -> Worker:
    record, now = worker.record, services.clock.now()
    account = services.ledger.accounts.get(record.id)
    began = record.started_us or record.intent_us
    holding = worker.site.memory.table.table.get(record.id)
    return Worker(
        id=record.id,
        status=WORKER_STATES[worker.state].v2 or "UNHEALTHY",
        is_stale=worker.stale(),
        version=record.endpoint_version,
        gpu_count=record.gpu_count,
        image=None,
        uptime_seconds=max(0, (now - began) // 1_000_000),
        gpu_type_id=record.gpu,
        data_center_id=None,
        started_at=rfc3339(began),
        nbgpu=WorkerExtras(
            state=worker.state,
            pid=record.pid,
            port=record.port,
            tier=record.tier,
            fell_back=worker.fell_back,
            gpu=record.gpu,
            skipped=[SkippedPlace(what=s.what, code=s.code, text=s.text) for s in worker.skipped],
            memory_bytes=holding.held if holding else None,
            generation=record.generation,
            place=record.provider,
            reason=worker.reason,
            held=worker.held,
            phases=[Phase(name=n, seconds=s) for n, s in worker.phases()],
            ready_seconds=ready_seconds(worker),
            rate_per_hour=plain((account.rate if account else worker.rate).per_hour),
            cost_so_far=plain(account.amount(now)) if account else "0",
        ),
    )  # fmt: skip


def ready_seconds(worker: WorkerControl) -> float | None:
    """Of its start, or of its last waking."""
    record = worker.record
    if record.ready_us is None or not record.phases:
        return None
    return round(sum(seconds for _, seconds in record.phases), 3)


def warmth_view(control: EndpointControl) -> Warmth | None:
    return Warmth(**control.record.warm) if control.warmth() and control.record.warm else None


def worker_row(worker: WorkerControl, services: Services, now: int) -> WorkerRow:
    record, account = worker.record, services.ledger.accounts.get(worker.id)
    return WorkerRow(
        id=worker.id, pid=record.pid, port=record.port, state=worker.state, tier=record.tier,
        reason=worker.reason.text, since_us=worker.reason.since_us, held=worker.held, gpu=record.gpu,
        place=record.provider, rate_per_hour=plain(account.rate.per_hour if account else worker.rate.per_hour),
        cost_so_far=plain(account.amount(now)) if account else "0",
    )  # fmt: skip


def memory_view(services: Services) -> Memory:
    keeper = services.memory
    return Memory(
        available=services.provider.available_memory(),
        floor=keeper.table.floor,
        holdings=[
            HoldingRow(holder=h.holder, kind=h.kind, bytes_reserved=h.reserved, bytes_held=h.held)
            for h in keeper.table.table.values()
        ],
        parents=[
            ParentRow(
                key=p.key, pid=p.pid, ready=p.ready, ready_seconds=p.ready_s,
                idle_seconds=p.idle_s, memory_bytes=p.pss,
            )
            for p in keeper.parents
        ],
    )  # fmt: skip


def worker_list(control: EndpointControl, services: Services) -> WorkerList:
    workers = [worker_view(w, services) for w in control.live_workers()]
    counts = {
        key: sum(w.status == key.upper() for w in workers)
        for key in ("running", "idle", "initializing", "throttled", "unhealthy")
    }
    return WorkerList(
        workers=workers,
        summary=WorkerSummary(**counts, total=len(workers)),
        endpoint_version=control.record.version,
    )


def endpoint_row(control: EndpointControl, services: Services) -> EndpointRow:
    record, now = control.record, services.clock.now()
    state, reason = control.status.state(), control.status.reason()
    workers, rate = control.live_workers(), services.ledger.rate_now(record.id)
    vitals = services.pulse.vitals(record.id)
    p50, p95 = vitals.quantiles_ms()
    return EndpointRow(
        id=record.id,
        name=record.name,
        model=record.model.ref,
        state=state,
        reason=reason.text,
        on=record.spec.nbgpu.place.on,
        workers=[worker_row(w, services, now) for w in workers],
        workers_max=record.spec.workers.max,
        workers_min=control.policy().min,
        warm_until_us=record.warm["until_us"] if control.warmth() and record.warm else None,
        typical_cold_start_s=control.status.typical_cold_start_s(),
        queued=control.queue.core.waiting,
        held=control.queue.core.in_progress(),
        requests_total=control.requests_total,
        rate_per_hour=plain(rate),
        cost_so_far=plain(services.ledger.cost(record.id, now)),
        idle_but_billing=state == "ready" and rate > 0,
        reason_since_us=reason.since_us,
        workers_by_state=Counter(w.state for w in workers),
        requests_per_s=vitals.per_second(),
        p50_ms=p50,
        p95_ms=p95,
        spark=vitals.spark(),
        origin=record.spec.nbgpu.origin.notebook,
        base_url=base_url(control, services),
        idle_timeout_s=record.spec.workers.idle_timeout,
        created_us=record.created_us,
    )  # fmt: skip
