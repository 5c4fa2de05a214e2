"""Starts the workers of one endpoint: how and where, when there is room, and not again and again what
cannot start."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbgpu_backend.billing.rates import Rate
from nbgpu_backend.control.endings import certain
from nbgpu_backend.control.probe import health_check
from nbgpu_backend.control.records import InstanceRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.sites import Site
from nbgpu_backend.control.wording import size
from nbgpu_backend.control.worker import PARENT_BYTES, WorkerControl
from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.domain.placement import (
    CPU,
    LOCAL,
    Candidate,
    Choice,
    Trouble,
    Wanted,
    choose_place,
    gpu_list,
)
from nbgpu_backend.domain.scaling import FOREVER
from nbgpu_backend.engines.base import WorkerSpec
from nbgpu_backend.errors import NoMemory, Unavailable
from nbgpu_backend.providers.base import Exit, Observed
from nbgpu_backend.schema.common import Reason

if TYPE_CHECKING:
    from nbgpu_backend.control.endpoint import EndpointControl

START_TRIES = 3  # starts in a row that may fail before the endpoint is held down
KILLED_TRIES = 6  # … where they were killed: what kills may be done with it
CRASHES = 5  # deaths in a row of workers that were ready, without a request answered between
RETRY_S = 2.0  # after a failed start, and while there is too little memory
PATIENCE_S = 3.0  # with other programs that hold what would be needed
TROUBLE_S = 30.0  # a GPU type or a place that refused is not asked again so soon
PLACES = ("away", "coming", "trouble", "memory")  # codes of skips that speak of places


class Launcher:
    def __init__(self, owner: EndpointControl, services: Services) -> None:
        self.generation = 0
        self.throttled: Reason | None = None
        self._owner = owner
        self._services = services
        self._not_before = 0.0  # no launch before this instant of `elapsed`
        self._failures = 0  # starts in a row that failed
        self._crashes = 0
        self._answered = 0  # requests, when the last worker died
        self._evicting: tuple[str, ...] = ()
        self._hopeless_since: float | None = None
        self._troubles: dict[str, Trouble] = {}  # of GPU types

    def grow(self, count: int, now: float) -> float:
        """Start workers, the parked ones first; returns when to ask again."""
        for worker in self._owner.parked_workers()[:count]:
            worker.unpark()
            count -= 1
        if not count:
            return FOREVER
        if now < self._not_before:
            return self._not_before
        for _ in range(count):
            choice = self._choose(now)
            self._bring(choice)
            if choice.gpu is None:
                return self._nowhere(choice, now)
            if not self._admit(self._services.sites.get(choice.place), now):
                return self._not_before
            self._launch(choice)
        return FOREVER

    def _choose(self, now: float) -> Choice:
        stock = self._owner.stock
        several = len(places := stock.places()) > 1
        candidates = []
        for place in places:
            site, weights = self._services.sites.get(place), stock.at(place)
            lacks = "" if weights.look() else weights.words()
            short = ""
            if several and not lacks:
                needed = self._memory_needed(place)
                short = (
                    "" if site.memory.spare(needed) else f"{size(needed)} of memory are not free"
                )
            candidates.append(
                Candidate(
                    place,
                    [*site.host.offers(), *site.gpus.offers()],
                    away=site.away or self._unseen(site),
                    lacks=lacks,
                    short=short,
                    trouble=self._troubles.get(place),
                )
            )
        return choose_place(wanted(self._owner), candidates, self._by_gpu(), self._troubles, now)

    def _unseen(self, site: Site) -> str:
        """What speaks against a place whose GPUs nobody has looked at yet."""
        if not self._owner.record.spec.nbgpu.place.gpu:
            return ""
        site.gpus.look_soon(self._freed)
        unseen = not site.gpus.known and not site.host.offers()
        return "its GPUs are being looked at" if unseen else ""

    def _bring(self, choice: Choice) -> None:
        """What a place lacked that was passed over for it, the first of them."""
        place = next((skip.what for skip in choice.skipped if skip.code == "coming"), None)
        if place is not None:
            self._owner.stock.at(place).start()

    def adopt(self, record: InstanceRecord, seen: Observed) -> None:
        worker = self._control(record, self._rate_of(record))
        self._reserve(worker)
        worker.adopt(seen)

    async def bury(self, record: InstanceRecord, ended: Exit) -> None:
        """Write down the end of a worker that ended while no backend was there."""
        await self._control(record, self._rate_of(record)).bury(ended)

    def succeeded(self) -> None:
        self._failures, self._not_before = 0, 0.0

    def failed(self, ended: Exit, text: str) -> bool:
        """A start failed. True: it would fail again, or has failed too often."""
        self._failures += 1
        port_taken = "port" in text and "in use" in text
        hopeless = certain(self._owner.engine, ended) and not port_taken
        tries = START_TRIES if ended.signal is None else KILLED_TRIES
        if hopeless or self._failures >= tries:
            self._failures = 0
            return True
        self._not_before = self._services.clock.elapsed() + RETRY_S * (self._failures - 1)
        return False

    def crashed(self) -> bool:
        """A worker died that was ready. True: they die one after the other and answer nothing."""
        answered = self._owner.answered
        self._crashes = self._crashes + 1 if answered == self._answered else 1
        self._answered = answered
        if self._crashes < CRASHES:
            return False
        self._crashes = 0
        return True

    def refused(self, what: str, text: str) -> None:
        """There was none of this type of GPU after all, or the place took no launch."""
        self._troubles[what] = Trouble(self._services.clock.elapsed() + TROUBLE_S, text)

    def heard(self, place: str) -> None:
        """A launch that failed since it was not heard says nothing any more."""
        self._troubles.pop(place, None)

    def forgive(self) -> None:
        """A person says: try again."""
        self._troubles.clear()
        self._failures = self._crashes = 0
        self._not_before = 0.0

    def _by_gpu(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for worker in self._owner.live_workers():
            if worker.record.gpu is not None:
                counts[worker.record.gpu] = counts.get(worker.record.gpu, 0) + 1
        return counts

    def _admit(self, site: Site, now: float) -> bool:
        """Is there memory for one more? If not, wait for what will be freed, or say no to who waits."""
        owner = self._owner
        verdict = site.memory.admit(self._memory_needed(site.name), owner.name)
        if verdict.fits and not verdict.evict:
            self.throttled, self._evicting, self._hopeless_since = None, (), None
            return True
        self._not_before = now + RETRY_S
        site.memory.wait(self._freed)
        if verdict.fits:
            if verdict.evict != self._evicting:
                self._evicting = verdict.evict
                many = "engine has" if len(verdict.evict) == 1 else "engines have"
                text = f"{owner.name} needs memory: {len(verdict.evict)} idle {many} to go"
                owner.tell_later("worker.evicting", text, evicted=list(verdict.evict))
            return False
        values: dict[str, Any] = {"needed": verdict.needed, "available": verdict.available}
        self._throttle("no_memory", f"too little memory: {verdict.text}", values)
        if verdict.ever:
            self._hopeless_since = None
        elif self._hopeless_since is None:
            self._hopeless_since = now
        elif now - self._hopeless_since >= PATIENCE_S:
            owner.refuse_waiting(
                NoMemory(
                    f"'{owner.name}' cannot start {_where(site.name)}: {verdict.text}.",
                    "End other programs, or deploy a smaller model, or set a smaller "
                    "--kv-cache-memory-bytes after `--`.",
                    **values,
                )
            )
        return False

    def _freed(self) -> None:
        self._not_before = 0.0
        self._owner.wake()

    def _nowhere(self, choice: Choice, now: float) -> float:
        """Nothing that was asked for can be had; who waits, waits on, if that can help."""
        owner = self._owner
        if not choice.skipped:
            on = owner.record.spec.nbgpu.place.on
            self._throttle("no_place", f"there is no place '{on}' any more", {})
            owner.refuse_waiting(
                Unavailable(
                    f"'{owner.name}' runs on {on}, and there is no such place any more.",
                    f"Say where it shall run: nbgpu deploy --name {owner.name} --on local, and the rest.",
                    code="no_place",
                )
            )
            return FOREVER
        if all(skip.code == "coming" for skip in choice.skipped):
            return FOREVER  # the endpoint says what it waits for, and is woken when it has come
        text = "; ".join(f"{skip.what}: {skip.text}" for skip in choice.skipped)
        values = {
            "skipped": [{"what": s.what, "code": s.code, "text": s.text} for s in choice.skipped]
        }
        gpus = all(skip.code not in PLACES for skip in choice.skipped)
        if gpus:
            self._throttle("no_capacity", f"no GPU can be had: {text}", values)
        else:
            self._throttle("no_place", f"no worker can start now: {text}", values)
        if not choice.ever:
            owner.refuse_waiting(
                Unavailable(
                    f"'{owner.name}' cannot start: {text}.",
                    "Deploy it with another --gpu, or without.",
                    code="no_gpu",
                    **values,
                )
            )
        self._not_before = min(now + RETRY_S, choice.retry_at)
        return self._not_before

    def _throttle(self, code: str, text: str, values: dict[str, Any]) -> None:
        owner, before = self._owner, self.throttled
        since = before.since_us if before else self._services.clock.now()
        reason = Reason(code=code, text=text, since_us=since, values=values)
        if before is None or before.code != code:
            owner.tell_later("worker.throttled", f"{owner.name} waits: {text}", **values)
        self.throttled = owner.last_failure = reason

    def _launch(self, choice: Choice) -> None:
        services, owner = self._services, self._owner
        spec, engine = owner.record.spec, owner.engine
        self.generation += 1
        worker_id = "w-" + secrets.token_hex(5)
        record = InstanceRecord(
            id=worker_id,
            name=f"nbgpu-{services.installation}-{worker_id}-{self.generation}",
            endpoint_id=owner.id,
            provider=choice.place,
            generation=self.generation,
            endpoint_version=owner.version,
            tier="plain",
            port=0,  # is found where it starts
            slots=owner.slots(),
            intent_us=services.clock.now(),
            gpu=choice.gpu if choice.gpu != CPU else None,
            gpu_count=choice.count,
        )
        worker = self._control(record, self._rate(choice), choice)
        self._reserve(worker)
        premises, cwd = owner.stock.premises(choice.place), None
        if premises is not None:
            cwd, cores = premises.cwd, max(1, premises.cores)
            model, env = Path(premises.model) if premises.model else None, dict(spec.env)
        else:
            cwd = spec.nbgpu.cwd if engine.name == "command" else None
            model, cores = self._model_path(), default_threads()
            env = {"HOME": str(services.home.instances / record.name), **spec.env}
        if choice.gpu is not None and worker.site.gpus.has(choice.gpu):
            cards = worker.site.gpus.take(worker_id, choice.gpu, choice.count)
            env = {"CUDA_VISIBLE_DEVICES": ",".join(card.uuid for card in cards), **env}
        wanted_worker = WorkerSpec(
            served_name=owner.name,
            model=model,
            port=0,
            cpu=spec.nbgpu.place.cpu or cores,
            options=spec.nbgpu.engine.options,
            env=env,
            endpoint=owner.id,
            worker=worker_id,
            premises=premises,
        )
        worker.launch(wanted_worker, cwd=cwd, parent=self._parent(wanted_worker, choice))

    def _parent(self, spec: WorkerSpec, choice: Choice) -> ParentSpec | None:
        """The pre-imported parent to fork it from, where that is possible and there is room for one."""
        owner, memory = self._owner, self._services.sites.get(choice.place).memory
        tiers = owner.record.spec.nbgpu.policy.tiers
        if choice.gpu != CPU or "preimported" not in tiers:
            return None
        parent = owner.engine.parent(spec)
        if parent is None or memory.has_parent(parent.key):
            return parent
        # one more process has to fit beside the worker, and nothing goes for its sake
        return parent if memory.spare(PARENT_BYTES) else None

    def _control(
        self, record: InstanceRecord, rate: Rate, choice: Choice | None = None
    ) -> WorkerControl:
        owner = self._owner
        policy = owner.record.spec.nbgpu.policy
        worker = WorkerControl(
            self._services, self._site(record), owner, owner.engine, record,
            unhealthy_s=policy.unhealthy_s, start_s=policy.start_s, rate=rate,
            sleeps=owner.engine.sleeps(owner.record.spec.nbgpu.engine.options),
            skipped=choice.skipped if choice else (), check=health_check(owner.record.spec),
        )  # fmt: skip
        owner.workers[record.id] = worker
        return worker

    def _site(self, record: InstanceRecord) -> Site:
        sites = self._services.sites
        return sites.find(record.provider) or sites.add(record.provider)

    def _reserve(self, worker: WorkerControl) -> None:
        worker.site.memory.reserve(
            worker.id,
            worker.record.name,
            self._memory_needed(worker.site.name),
            lambda why: worker.end("evicted", why),
        )

    def _rate(self, choice: Choice) -> Rate:
        if choice.per_hour is None:
            return self._services.rate(choice.place)
        return Rate(choice.per_hour, f"price of {choice.gpu}")

    def _rate_of(self, record: InstanceRecord) -> Rate:
        """Of one that a backend before had begun to launch, if it is not in the ledger yet."""
        offers = self._site(record).host.offers()
        price = next((o.per_hour for o in offers if o.gpu == record.gpu), None)
        price = None if price is None else price * record.gpu_count
        return self._rate(Choice(record.gpu or CPU, record.gpu_count, price, place=record.provider))

    def _memory_needed(self, place: str) -> int:
        owner = self._owner
        options = owner.record.spec.nbgpu.engine.options
        if self._services.sites.find(place) is None:
            return owner.engine.memory(None, options)
        return owner.engine.memory(self._model_path(), options, owner.stock.premises(place))

    def _model_path(self) -> Path | None:
        path = self._owner.record.model.path
        return Path(path) if path else None


def wanted(owner: EndpointControl) -> Wanted:
    spec = owner.record.spec
    return Wanted(gpu_list(spec.nbgpu.place.gpu), spec.nbgpu.place.cpu, spec.workers.max)


def _where(place: str) -> str:
    return "here" if place == LOCAL else f"on {place}"


def default_threads() -> int:
    """All cores but one, which the gateway and the notebook share."""
    return max(1, len(os.sched_getaffinity(0)) - 1) if hasattr(os, "sched_getaffinity") else 1
