"""How everything stands, in one answer."""

from __future__ import annotations

from nbgpu_backend.control.core import Core
from nbgpu_backend.control.pod_views import pod_row
from nbgpu_backend.control.views import endpoint_row
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.schema.summary import Orphan, Summary


async def summary_of(core: Core) -> Summary:
    services = core.services
    spent = await core.spent_today()
    rows = [endpoint_row(control, services) for control in core.endpoints.all()]
    pods = [pod_row(control, core.pods, services) for control in core.pods.all()]
    return Summary(
        at_us=services.clock.now(),
        per_hour=plain(services.ledger.rate_now()),
        spent_today=plain(spent),
        idle_but_billing=[
            *(row.name for row in rows if row.idle_but_billing),
            *(pod.name for pod in pods if pod.idle_but_billing),
        ],
        endpoints=rows,
        pods=pods,
        hosts=core.hosts.rows(),
        place=await core.hosts.place(),
        orphans=[Orphan(name=seen.name, pid=seen.pid) for seen in core.orphans.values()],
    )
