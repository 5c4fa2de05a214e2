"""One endpoint: its queue, its weights, and the number of its workers.

`wake` is called whenever something changed (an arrival, a completion, a worker's step, a timer); it runs
`decide` once per turn of the event loop and acts on what it says. The decision is pure and O(1), so the
data path may call it for every request.
"""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, update

from nbgpu_backend.control.launcher import Launcher
from nbgpu_backend.control.records import EndpointRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.status import Status
from nbgpu_backend.control.stock import Stock
from nbgpu_backend.control.weights import Weights
from nbgpu_backend.control.wording import span
from nbgpu_backend.control.worker import WorkerControl
from nbgpu_backend.domain import placement, scaling
from nbgpu_backend.domain.placement import WorkerLoad
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.domain.scaling import Observation, ScalingMemory, ScalingPolicy
from nbgpu_backend.domain.states import WORKER_STATES
from nbgpu_backend.engines.base import Engine
from nbgpu_backend.errors import NbgpuError, Unavailable
from nbgpu_backend.providers.base import Exit
from nbgpu_backend.schema.common import Reason
from nbgpu_backend.schema.endpoints import QueueDelay
from nbgpu_backend.serving.affinity import worker_gone
from nbgpu_backend.serving.board import JobBoard, JobLimits
from nbgpu_backend.serving.push_jobs import JobRunner
from nbgpu_backend.serving.queue import EndpointQueue
from nbgpu_backend.serving.target import Limits
from nbgpu_backend.serving.worker import PushWorker
from nbgpu_backend.store.state import Draft
from nbgpu_backend.store.tables import endpoints

log = logging.getLogger(__name__)

COLD_STARTS = 50  # that are remembered
HEALTH_STATES = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")
DEATH_S = 1.0  # between a broken connection and the notice of the death behind it


class EndpointControl:
    def __init__(self, services: Services, record: EndpointRecord, engine: Engine) -> None:
        self.record = record
        self.use(engine)
        self.workers: dict[str, WorkerControl] = {}
        self.stock = Stock(
            record,
            services,
            engine.release,
            self._weights_arrived,
            self._weights_failed,
            lambda: services.pulse.touch(record.id),
        )
        self.last_failure: Reason | None = None
        self.cold_starts: list[tuple[str, float]] = []  # tier, seconds; the last ones
        self.requests_total = self.requests_answered = 0
        self.status = Status(self, services.clock)
        queue_max = record.spec.nbgpu.policy.queue_max
        self.queue = EndpointQueue(record.name, queue_max, services.clock, self.wake)
        self.board = JobBoard(
            record.id, record.name, self.queue, services.jobs, services.clock, self._job_limits
        )
        self.board.runner = JobRunner(self, services.session)
        self.board.tell = lambda job_id: services.webhooks.due(self.board, job_id)
        self._services = services
        self._memory = ScalingMemory()
        self.launcher = Launcher(self, services)
        self._looks: tuple[object, ...] = ()
        self._scheduled = False
        self._closing = self._on_hold = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def use(self, engine: Engine) -> None:
        self.engine = engine
        try:
            self.engine_version: str | None = engine.version()
        except NbgpuError:
            self.engine_version = None  # it was removed since; a launch will say so

    # --- what the data path sees (serving.target.Target) --------------------------------------

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def version(self) -> int:
        return self.record.version

    @property
    def limits(self) -> Limits:
        policy = self.record.spec.nbgpu.policy
        return Limits(
            policy.hold_s,
            policy.first_byte_s,
            self.record.spec.timeout / 1000,
            policy.heartbeat_s,
            policy.affinity_s,
        )

    def _job_limits(self) -> JobLimits:
        policy = self.record.spec.nbgpu.policy
        return JobLimits(self.record.spec.timeout / 1000, policy.jobs_max, policy.results_kept_s)

    @property
    def pulls(self) -> bool:
        return self.engine.pull

    @property
    def balances(self) -> bool:
        return self.record.spec.type == "LOAD_BALANCER"

    def pin(self, worker_id: str, *, resume: bool) -> bool:
        worker = self.workers.get(worker_id)
        if worker is None or worker.stale() or self.refusal() is not None:
            return False
        if worker.state != "parked":
            # one that initialises again, or that was woken, will serve
            return worker.state in ("idle", "running", "starting")
        if not resume:
            return False
        here = [w for w in self.live_workers() if w.state != "parked" and not w.was_parked]
        if len(here) < self.policy().max:
            worker.unpark()
            self.wake()
        return True

    @property
    def throttled(self) -> Reason | None:
        """Why no worker is started though one is needed."""
        return self.launcher.throttled

    def worker_counts(self) -> dict[str, int]:
        counts = dict.fromkeys(HEALTH_STATES, 0)
        for state in self.worker_states():
            if (name := WORKER_STATES[state].health) is not None:
                counts[name] += 1
        if self.throttled is not None:
            counts["throttled"] += 1
        return counts

    def worker_states(self) -> list[str]:
        """Of its own workers, and of those that poll without having been started here."""
        return [w.state for w in self.live_workers()] + [
            "running" if w.held else "idle" for w in self._services.externals.of(self.board)
        ]

    def ready_workers(self) -> list[str]:
        own = [w.id for w in self.live_workers() if w.state in ("idle", "running")]
        return own + [w.id for w in self._services.externals.of(self.board)]

    @property
    def created_s(self) -> int:
        return self.record.created_us // 1_000_000

    def refusal(self) -> NbgpuError | None:
        if self.record.stopped:
            return Unavailable(
                f"The endpoint '{self.name}' is stopped.",
                f"Start it with: nbgpu start {self.name}",
                code="endpoint_stopped",
            )
        if self.record.failure is not None:
            return Unavailable(
                f"The endpoint '{self.name}' does not start: {self.record.failure['text']}.",
                f"Mend that, then try again with: nbgpu start {self.name}",
                code="endpoint_failed",
            )
        return None

    def progress(self) -> dict[str, Any]:
        return self.status.progress(plain(self.cost()))

    def cost(self) -> Decimal:
        """Dollars so far."""
        return self._services.ledger.cost(self.id, self._services.clock.now())

    async def fence(self, worker_id: str) -> bool:
        worker = self.workers.get(worker_id)
        if worker is None:
            return True
        try:  # most often it is dead, and that is about to be noticed
            await asyncio.wait_for(worker.ended.wait(), DEATH_S)
        except TimeoutError:
            return await self.suspect(worker_id)
        return True

    async def suspect(self, worker_id: str) -> bool:
        worker = self.workers.get(worker_id)
        if worker is None or not worker.live:
            return True
        if await worker.check():
            return False
        await worker.out.wait()
        return True

    def _glance(self) -> None:
        """Tell who watches that it looks different now; most turns change nothing that is shown."""
        core, starting = self.queue.core, self.status.starting()
        looks = (
            self.status.note(), core.waiting, core.in_progress(), [w.state for w in self.live_workers()],
            starting.timer.current if starting else None,
        )  # fmt: skip
        if looks != self._looks:
            self._looks = looks
            self._services.pulse.touch(self.id)

    @property
    def answered(self) -> int:
        """Requests and jobs that came to a good end."""
        return self.requests_answered + int(self.board.counts["completed"])

    def live_workers(self) -> list[WorkerControl]:
        return [w for w in self.workers.values() if w.live]

    def parked_workers(self) -> list[WorkerControl]:
        """Those that can be woken, the last one parked first: what it needs is most likely at hand."""
        parked = [w for w in self.live_workers() if w.state == "parked" and not w.stale()]
        return sorted(parked, key=lambda w: -w.parked_at)

    def warmth(self) -> int:
        """Workers that are kept up for a while because somebody said so."""
        warm = self.record.warm
        if warm is None or warm["until_us"] <= self._services.clock.now():
            return 0
        return warm["workers"]

    # --- the scaler -------------------------------------------------------------------------------

    def hold(self) -> None:
        """Start and end nothing until `go`: what runs already is not known yet."""
        self._on_hold = True

    def go(self) -> None:
        self._on_hold = False
        self.wake()

    def wake(self) -> None:
        if not self._scheduled and not self._on_hold:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._tick)

    def policy(self) -> ScalingPolicy:
        spec = self.record.spec
        down = self.record.stopped or self.record.failure is not None or self._closing
        if isinstance(spec.scaling, QueueDelay):
            kind, value = "queue_delay", spec.scaling.queue_delay
        else:
            kind, value = "request_count", float(spec.scaling.request_count)
        most = 0 if down else spec.workers.max
        return ScalingPolicy(
            kind,  # type: ignore[arg-type]
            value,
            min(most, max(spec.workers.min, self.warmth())),
            most,
            float(spec.workers.idle_timeout),
        )

    def _tick(self) -> None:
        self._scheduled = False
        self._glance()
        now = self._services.clock.elapsed()
        self._end_stale()
        live = self.live_workers()
        serving = [w for w in live if w.state in ("idle", "running")]
        coming = [w for w in live if w.state in ("initializing", "starting") or w.returns()]
        leaving = [w for w in live if w.state in ("draining", "unhealthy") and not w.was_parked]
        core = self.queue.core
        seen = Observation(
            queued=core.waiting,
            queued_low=core.waiting_low + core.waiting_busy(),
            oldest=core.oldest() if core.waiting else None,
            held=core.in_progress(),
            up=len(serving),
            coming=len(coming),
            slots=self.slots(),
            leaving=len(leaving),
        )
        decision = scaling.decide(self.policy(), seen, self._memory, now)
        self._memory = decision.memory
        have = len(serving) + len(coming)
        blinks = [w.given_up_at for w in coming if w.state == "unreachable" and w.given_up_at > now]
        wake_at = min(decision.wake_at, self._end_parked(now), *blinks)
        if decision.start:
            wake_at = min(wake_at, self.launcher.grow(decision.start, now))
        elif decision.target < have:
            self._shrink(
                [*serving, *(w for w in coming if w.state != "unreachable")],
                have - decision.target,
                now,
            )
        if self.warmth() and self.record.warm is not None:
            left = self.record.warm["until_us"] - self._services.clock.now()
            wake_at = min(wake_at, now + left / 1e6)
        if self.throttled is not None and not core.waiting and decision.target <= have:
            self.launcher.throttled = None
        self._schedule(wake_at, now)

    def _schedule(self, wake_at: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at != scaling.FOREVER:
            delay = max(0.001, wake_at - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self.wake)

    def _shrink(self, workers: list[WorkerControl], surplus: int, now: float) -> None:
        loads = [
            WorkerLoad(w.id, w.held, w.serving is not None, w.idle_since, w.rate.per_hour)
            for w in workers
        ]
        idle = self.record.spec.workers.idle_timeout
        for worker_id in placement.victims(loads, surplus):
            worker = self.workers[worker_id]
            self.queue.withdraw(worker_id)
            # one that is only stopped would go on holding its GPU's memory
            keeps = worker.sleeps or worker.record.gpu is None
            if worker.state == "idle" and keeps and self._room_to_park(worker):
                kept = span(self.park_s())
                worker.park(f"without work for {idle} s; it is kept for {kept}")
            else:
                worker.end("idle_timeout", f"idle for {idle} s")

    def park_s(self) -> float:
        """How long an idle engine is kept parked; 0: it ends."""
        policy = self.record.spec.nbgpu.policy
        if self.engine.pull or "parked" not in policy.tiers:
            return 0.0
        return self.engine.park_s if policy.park_s is None else policy.park_s

    def _room_to_park(self, worker: WorkerControl) -> bool:
        most = self.policy().max
        return self.park_s() > 0 and len(self.parked_workers()) < most and worker.site.memory.room()

    def _end_parked(self, now: float) -> float:
        """End those that were kept long enough, or that no request will wake; returns when to look again."""
        down, kept, again = not self.policy().max, self.park_s(), scaling.FOREVER
        for worker in self.live_workers():
            if worker.state != "parked":
                continue
            if down or worker.stale() or now >= worker.parked_at + kept:
                worker.end("park_timeout", f"it was parked for {span(now - worker.parked_at)}")
            else:
                again = min(again, worker.parked_at + kept)
        return again

    def _end_stale(self) -> None:
        """Workers of an earlier version of the settings: at once when idle, else after their requests."""
        for worker in self.live_workers():
            if worker.stale() and worker.state in ("idle", "running", "starting", "initializing"):
                self.queue.withdraw(worker.id)
                worker.end("rolled", "its settings were changed")

    def slots(self) -> int:
        """Of one worker. What a handler takes at a time is known from what it asks for."""
        if self.engine.pull:
            return max((w.slots for w in self.board.workers.values()), default=1)
        options = self.record.spec.nbgpu.engine.options
        return self.engine.concurrency(options, balanced=self.balances)

    # --- what a worker tells (worker.Owner) -------------------------------------------------------------

    def holding(self, worker_id: str) -> int:
        return self.queue.core.holding(worker_id)

    def somebody_waits(self) -> bool:
        return self.queue.core.waiting > 0 or self.policy().min > 0

    def worker_ready(self, worker: WorkerControl) -> None:
        worker.site.memory.table.taken(worker.id)
        self.launcher.succeeded()
        if worker.timer.done:  # not an adopted one
            self.cold_starts.append((worker.record.tier, worker.age()))
            self._services.tallies.cold_start(self.id, worker.record.tier, worker.age())
            del self.cold_starts[:-COLD_STARTS]
        self.worker_back(worker)

    def worker_back(self, worker: WorkerControl) -> None:
        push = worker.serving
        if isinstance(push, PushWorker) and not worker.stale() and not self.record.stopped:
            self.queue.offer(push)

    def worker_changed(self, worker: WorkerControl) -> None:
        if worker.state not in ("idle", "running"):
            self.queue.withdraw(worker.id)
        if worker.state in ("draining", "unhealthy", "unreachable", "stopped"):
            self.queue.fail_line(worker.id, worker_gone(self.name, worker.id))
        self.wake()

    def worker_ended(self, worker: WorkerControl, ended: Exit) -> None:
        if self.engine.pull:
            self.board.gone(worker.id, worker.reason.text)
        self.queue.fence(worker.id)
        worker.site.memory.release(worker.id)
        worker.site.gpus.release(worker.id)
        if not worker.stopped_on_purpose():
            text = worker.reason.text
            values = {"worker": worker.id, "tail": list(ended.tail)[-12:]}
            self.last_failure = Reason(
                code="worker_died", text=text, since_us=ended.ended_us, values=values
            )
            tail = {"tail": list(ended.tail)[-12:]}
            if ended.reason == "no_capacity":
                self.launcher.refused(worker.record.gpu or placement.CPU, text)
            elif ended.reason == "host_away":
                self.launcher.refused(worker.site.name, text)
            elif worker.record.ready_us is not None:
                if self.launcher.crashed():
                    again = f"its workers die again and again and answer nothing: {text}"
                    self._hold_down("crash_loop", again, tail)
            elif self.launcher.failed(ended, text):
                self._hold_down("start_failed", text, tail)
        self._drop_others(worker)
        self.wake()

    def has_room(self, worker: WorkerControl) -> bool:
        others = ("idle", "running", "starting", "initializing")
        up = sum(w.state in others for w in self.live_workers() if w is not worker)
        return up < self.policy().max and not worker.stale()

    def worker_fell_back(self, worker: WorkerControl, text: str) -> None:
        self.tell_later("worker.fell_back", f"A worker of {self.name}: {text}", worker=worker.id)

    def _drop_others(self, worker: WorkerControl) -> None:
        """Keep the last one that ended, for its log lines; forget the others."""
        for other in list(self.workers.values()):
            if other is not worker and not other.live:
                self.workers.pop(other.id, None)

    # --- changes -----------------------------------------------------------------------------------------

    def refuse_waiting(self, error: NbgpuError) -> None:
        """No worker will come for the requests and jobs that wait."""
        self.queue.fail_waiting(error)
        self._later(self.board.fail_queued(str(error)))

    def _hold_down(self, code: str, text: str, values: dict[str, Any]) -> None:
        """Give up: nothing is started or billed until a person says `start`."""
        reason = Reason(code=code, text=text, since_us=self._services.clock.now(), values=values)
        self.record.failure = reason.model_dump()
        error = self.refusal()
        assert error is not None
        self.refuse_waiting(error)
        self._later(self.save("endpoint.failed", f"{self.name} does not start: {text}"))

    async def save(self, kind: str | None, text: str = "", **values: Any) -> None:
        row = self.record.row()

        def change(connection: Connection) -> None:
            connection.execute(update(endpoints).where(endpoints.c.id == self.id).values(**row))

        drafts = [self._draft(kind, text, values)] if kind else []
        await self._services.state.commit(change, *drafts)

    async def stop_workers(self, code: str, text: str, grace_s: float | None = None) -> None:
        """Return when none is left but on hosts that are not heard, where they end later."""
        for worker in self.live_workers():
            self.queue.withdraw(worker.id)
            worker.end(code, text, grace_s)
        for worker in self.live_workers():
            await worker.out.wait()

    def out_of_reach(self) -> list[WorkerControl]:
        """Those that may run on, on hosts that are not heard."""
        return [w for w in self.live_workers() if w.out.is_set()]

    async def _weights_arrived(self, weights: Weights) -> None:
        await self.save("model.fetched", weights.arrived_words(self.name))
        self.wake()

    async def _weights_failed(self, weights: Weights, error: NbgpuError) -> None:
        supply = weights.supply
        lacking = Unavailable(
            f"{supply.lacking(self.name)}: {error.what}", error.next_step, code=error.code
        )
        if not self.ready_workers():  # else another place serves
            self.refuse_waiting(lacking)
        await self._tell("model.failed", f"{supply.failed(self.name)}: {error}")

    def launch_no_more(self) -> None:
        self._closing = True

    async def close(self) -> None:
        """This backend lets go of it; processes live on."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self.board.close()
        await self.stock.close()
        for worker in self.live_workers():
            worker.forget_backend()

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def tell_later(self, kind: str, text: str, **values: Any) -> None:
        self._later(self._tell(kind, text, **values))

    async def _tell(self, kind: str, text: str, **values: Any) -> None:
        await self._services.state.commit(None, self._draft(kind, text, values))

    def _draft(self, kind: str, text: str, values: dict[str, Any]) -> Draft:
        return Draft(
            at_us=self._services.clock.now(), kind=kind, text=text,
            endpoint_id=self.id, endpoint=self.name, values=values,
        )  # fmt: skip
