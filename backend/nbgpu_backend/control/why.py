"""`why`: the state of an endpoint, a worker or a request in words, with its cost, what is typical here,
what happened before, and what to type. Every face shows these words."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import select

from nbgpu_backend.billing.costs import rows_since
from nbgpu_backend.billing.ledger import interval
from nbgpu_backend.control.endpoint import EndpointControl
from nbgpu_backend.control.endpoints import Endpoints
from nbgpu_backend.control.pods import Pods
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.why_pod import pod_why
from nbgpu_backend.control.wording import at, size, span
from nbgpu_backend.control.worker import WorkerControl
from nbgpu_backend.domain.dispatch import QUEUED, Ticket
from nbgpu_backend.domain.pricing import lifetime_amount, plain
from nbgpu_backend.errors import NotFound
from nbgpu_backend.schema.common import Reason
from nbgpu_backend.schema.endpoints import Phase
from nbgpu_backend.schema.events import Event
from nbgpu_backend.schema.summary import Why
from nbgpu_backend.store.tables import events, instances, requests

HISTORY = 8
WAITING_SHOWN = 5
TIERS = {
    "plain": "plain start",
    "preimported": "start from a pre-imported parent",
    "parked": "waking of a parked engine",
}


class Explainer:
    def __init__(self, endpoints: Endpoints, pods: Pods, services: Services) -> None:
        self._endpoints = endpoints
        self._pods = pods
        self._services = services

    async def why(self, subject: str) -> Why:
        """`subject` is an endpoint's or a pod's name or id, a worker's id or a request's. Raises
        NotFound."""
        if (pod := self._pods.find(subject)) is not None:
            services = self._services
            events_ = await services.state.last_events(pod.id, HISTORY)
            history = [_line(event, services.clock.now()) for event in events_]
            return pod_why(pod, self._pods, services, history)
        if self._endpoints.find(subject) is None:  # one may be named w-1
            if subject.startswith("w-"):
                return await self._worker(subject)
            if subject.startswith("req-"):
                return await self._request(subject)
        return await self._endpoint(self._endpoints.get(subject))

    # --- an endpoint ------------------------------------------------------------------------------

    async def _endpoint(self, control: EndpointControl) -> Why:
        services, now = self._services, self._services.clock.now()
        state, reason = control.status.state(), control.status.reason()
        history = await services.state.last_events(control.id, HISTORY)
        starting = control.status.starting()
        tier = control.status.tier_of(starting) if starting else None
        newest = next(reversed(control.workers.values()), None)
        return Why(
            subject="endpoint",
            name=control.name,
            endpoint=control.name,
            state=state,
            reason=reason,
            seconds=_seconds(now, reason.since_us),
            cost_so_far=plain(services.ledger.cost(control.id, now)),
            typical=_typical(control, tier),
            next_step=_next_step(control, state),
            facts=self._facts(control),
            history=[_line(event, now) for event in history],
            phases=_phases(newest),
            tail=_failure_tail(control, state),
        )

    def _facts(self, control: EndpointControl) -> list[str]:
        """What it has, what waits, and what holds it up."""
        elapsed = self._services.clock.elapsed()
        core, facts = control.queue.core, []
        if core.waiting:
            waits = _count(core.waiting, "request waits", "requests wait")
            if (oldest := core.oldest()) is not None:
                waits += f", the oldest for {span(elapsed - oldest)}"
            if core.waiting_low:
                waits += f"; {core.waiting_low} of low priority, which start no worker"
            facts.append(waits)
            for ticket in core.first(WAITING_SHOWN):
                if not ticket.durable:
                    facts.append(
                        f"  {ticket.id} for {span(elapsed - ticket.arrived)}, from {ticket.client}"
                    )
        workers = control.live_workers()
        for worker in workers:
            facts.append(f"worker {worker.id} {worker.state}: {worker.reason.text}")
        policy = control.policy()
        up = sum(w.state not in ("parked", "unreachable") for w in workers)
        if core.waiting and up >= policy.max > 0:
            facts.append(f"no worker is added: {up} of at most {policy.max} are there")
        warm = control.record.warm
        if control.warmth() and warm is not None:
            facts.append(
                f"kept warm until {at(warm['until_us'])}: {_count(warm['workers'], 'worker', 'workers')}"
            )
        if workers and (skipped := workers[-1].skipped):
            facts += [f"not on {skip.what}: {skip.text}" for skip in skipped]
        return facts

    # --- a worker ---------------------------------------------------------------------------------

    async def _worker(self, worker_id: str) -> Why:
        for control in self._endpoints.all():
            worker = control.workers.get(worker_id)
            if worker is not None and worker.live:
                return await self._live_worker(control, worker)
        return await self._ended_worker(worker_id)

    async def _live_worker(self, control: EndpointControl, worker: WorkerControl) -> Why:
        services, now = self._services, self._services.clock.now()
        account = services.ledger.accounts.get(worker.id)
        held = worker.site.memory.table.table.get(worker.id)
        facts = [f"tier: {TIERS.get(worker.record.tier, worker.record.tier)}"]
        if worker.fell_back:
            facts.append(f"no sooner one: {worker.fell_back}")
        facts += [f"not on {skip.what}: {skip.text}" for skip in worker.skipped]
        if worker.held:
            facts.append(f"it holds {_count(worker.held, 'request', 'requests')}")
        if held is not None and held.held:
            facts.append(f"it holds {size(held.held)} of memory")
        if worker.stale():
            facts.append("its settings have changed since: it takes no new requests")
        name = control.name
        tier = control.status.tier_of(worker)
        return Why(
            subject="worker",
            name=worker.id,
            endpoint=name,
            state=worker.state,
            reason=worker.reason,
            seconds=_seconds(now, worker.reason.since_us),
            cost_so_far=plain(account.amount(now)) if account else "0",
            typical=_typical(control, tier)
            if worker.state in ("starting", "initializing")
            else None,
            next_step={
                "starting": f"wait: requests are held; nbgpu logs {name}   shows the engine",
                "parked": f"nbgpu ask {name} hello   wakes it; it holds memory until then",
                "idle": f"it ends by itself after {control.record.spec.workers.idle_timeout} s without work; "
                f"nbgpu scale {name} --idle 5m   keeps it longer",
                "draining": "wait: it ends when what it holds is answered",
            }.get(worker.state, f"nbgpu show {name}   shows all of its workers"),
            facts=facts,
            history=await self._history(worker.id, now),
            phases=_phases(worker),
        )

    async def _ended_worker(self, worker_id: str) -> Why:
        services, now = self._services, self._services.clock.now()
        rows = await services.state.rows(select(instances).where(instances.c.id == worker_id))
        if not rows:
            raise NotFound(
                f"There is no worker {worker_id}.",
                "See what there is with: nbgpu ls, and nbgpu events for what ended.",
                code="worker_not_found",
            )
        row = rows[0]
        control = self._endpoints.by_id(row["endpoint_id"])
        name = control.name if control else "(deleted)"
        ended, exit_ = row["ended_us"] or row["intent_us"], row["exit"] or {}
        history = await self._history(worker_id, now)
        last = history[0].partition("  ")[2] if history else "it has ended"
        bills = await rows_since(
            services.state.database, endpoint_id=row["endpoint_id"], since_us=0
        )
        spans = [interval(b, b["ended_us"] or now) for b in bills if b["instance_id"] == worker_id]
        return Why(
            subject="worker",
            name=worker_id,
            endpoint=name,
            state="stopped",
            reason=Reason(code=str(exit_.get("reason", "ended")), text=last, since_us=ended),
            seconds=_seconds(now, ended),
            cost_so_far=plain(lifetime_amount(spans)),
            typical=None,
            next_step=f"nbgpu why {name}   tells how its endpoint is now",
            history=history,
            phases=[Phase(name=n, seconds=s) for n, s in row["phases"] or ()],
            tail=[str(line) for line in exit_.get("tail", [])][-12:],
        )

    async def _history(self, worker_id: str, now: int) -> list[str]:
        query = select(events).where(events.c.worker_id == worker_id)
        rows = await self._services.state.rows(query.order_by(events.c.seq.desc()).limit(HISTORY))
        return [_line(Event(**row), now) for row in rows]

    # --- a request --------------------------------------------------------------------------------

    async def _request(self, request_id: str) -> Why:
        for control in self._endpoints.all():
            if (ticket := control.queue.core.find(request_id)) is not None:
                return self._held_request(control, ticket)
        telemetry = self._services.telemetry
        await telemetry.writer.flush()

        def look(connection: Any) -> dict[str, Any] | None:
            found = connection.execute(select(requests).where(requests.c.id == request_id))
            row = found.mappings().first()
            return None if row is None else dict(row)

        row = await telemetry.read(look)
        if row is None:
            raise NotFound(
                f"There is no request {request_id}.",
                "Its id is in the header X-Nbgpu-Request of its answer.",
                code="request_not_found",
            )
        return self._recorded(row)

    def _held_request(self, control: EndpointControl, ticket: Ticket) -> Why:
        now, elapsed = self._services.clock.now(), self._services.clock.elapsed()
        age = elapsed - ticket.arrived
        status, waiting = control.status, ticket.state == QUEUED
        starting = status.starting()
        if waiting:
            text = f"it waits for a worker: {status.reason().text}"
        else:
            text = f"worker {ticket.worker} answers it"
        return Why(
            subject="request",
            name=ticket.id,
            endpoint=control.name,
            state="waiting" if waiting else "running",
            reason=Reason(
                code="queued" if waiting else "running", text=text, since_us=now - int(age * 1e6)
            ),
            seconds=round(age, 1),
            cost_so_far="0",
            typical=_typical(control, status.tier_of(starting) if starting else None),
            next_step="wait: it is held, and given up by itself after "
            f"{span(max(0.0, ticket.deadline - elapsed))} more"
            if waiting
            else f"nbgpu logs {control.name}   shows the engine",
            facts=self._facts(control) if waiting else [],
            history=[],
        )

    def _recorded(self, row: dict[str, Any]) -> Why:
        queue, start = row["queue_us"] / 1e6, row["start_us"] / 1e6
        first, total = row["first_byte_us"], row["total_us"] / 1e6
        facts = [f"{span(queue)} until it had a worker"]
        if row["cold"]:
            tier = TIERS.get(row["tier"] or "", "start")
            facts.append(f"of these {span(start)} for a cold start ({tier})")
        if first is not None:
            facts.append(f"{span(first / 1e6 - queue)} more to the first byte")
        facts.append(f"{span(total)} in all, {row['tokens_out'] or 0} tokens")
        if row["retries"]:
            facts.append(f"{row['retries']} times tried again, because a worker died")
        if row["key"] is not None:
            key = self._services.keys.by_id(row["key"])
            facts.append(f"with the key {row['key']}" + (f", '{key.label}'" if key and key.label else ""))  # fmt: skip
        if row["trace"] is not None:
            facts.append(f"trace {row['trace']}")
        cost = Decimal(row["rate"]) * row["share_us"] / 1_000_000 / 3600
        good = row["status"] < 400
        return Why(
            subject="request",
            name=row["id"],
            endpoint=row["endpoint"],
            state="answered" if good else "failed",
            reason=Reason(
                code=str(row["status"]),
                text=f"answered by worker {row['worker_id']}" if good else str(row["error"]),
                since_us=row["arrived_us"],
            ),
            seconds=round(total, 3),
            cost_so_far=plain(cost),
            typical=None,
            next_step=f"nbgpu chart {row['endpoint']} latency   shows it beside the others",
            facts=facts,
            history=[],
            phases=[Phase(name=n, seconds=us / 1e6) for n, us in row["phases"].items()],
        )


def _typical(control: EndpointControl, tier: str | None) -> str | None:
    seconds = control.status.typical_cold_start_s(tier)
    if seconds is None:
        return None
    kind = f"a {TIERS[tier]}" if tier in TIERS else "a cold start"
    return f"{kind} takes {span(seconds)} here"


def _next_step(control: EndpointControl, state: str) -> str:
    name = control.name
    if (shown := control.stock.shown) is not None and shown.error is not None:
        deploy = f"nbgpu deploy {control.record.model.ref} --name {name}"
        if control.record.model.source == "handler":
            return f"{deploy}   tries again once requirements.txt is corrected"
        return f"{deploy}   goes on where the fetch broke"
    use = f"nbgpu ask {name} hello"
    if control.pulls:
        use = f'nbgpu.connect().endpoint("{name}").run({{…}})'
    if control.balances:
        use = f"a request to /lb/{name}/"
    if state == "throttled" and control.throttled is not None:
        if control.throttled.code == "no_capacity":
            return (
                f"wait: it is tried again; nbgpu deploy … --name {name} --gpu …   widens the choice"
            )
        return "nbgpu ls   shows what else runs; nbgpu stop NAME   frees its memory"
    return {
        "stopped": f"nbgpu start {name}   lets requests in again",
        "failed": f"nbgpu logs {name}   shows what the engine said; nbgpu start {name}   tries again",
        "asleep": f"{use}   wakes it; nbgpu warm {name}   starts it now",
        "fetching": "wait: requests are held until that is done",
        "starting": f"wait: requests are held; nbgpu logs {name}   shows the engine",
        "ready": f"{use}, or nbgpu stop {name}   to stop paying for it",
        "draining": f"{use}   starts another one",
        "busy": f"nbgpu show {name}   shows its workers; nbgpu scale {name} --workers N   allows more",
    }.get(state, "")


def _failure_tail(control: EndpointControl, state: str) -> list[str]:
    if state == "failed" and control.record.failure:
        return [str(line) for line in control.record.failure.get("values", {}).get("tail", [])]
    return []


def _phases(worker: WorkerControl | None) -> list[Phase]:
    return [Phase(name=n, seconds=s) for n, s in worker.phases()] if worker else []


def _seconds(now: int, since_us: int) -> float:
    return round(max(0, now - since_us) / 1e6, 1)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _line(event: Event, now_us: int) -> str:
    at_ = datetime.fromtimestamp(event.at_us / 1e6).astimezone()
    stamp = at_.strftime(
        "%H:%M:%S" if now_us - event.at_us < 12 * 3600 * 1_000_000 else "%Y-%m-%d %H:%M"
    )
    return f"{stamp}  {event.text}"
