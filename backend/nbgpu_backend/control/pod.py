"""The life of one pod: its room made, launched, ready, used, ended.

A pod that is wanted runs until somebody stops it or a limit does. What ended it is kept as its reason. The
backend comes and goes: one that finds it running takes it over where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Coroutine
from decimal import Decimal
from typing import Any

from nbgpu_backend.billing.rates import Rate
from nbgpu_backend.control.kernelspecs import KernelSpecs, spec_name
from nbgpu_backend.control.pod_agent import PodAgent, Silent
from nbgpu_backend.control.pod_book import PodBook
from nbgpu_backend.control.pod_ports import Ports
from nbgpu_backend.control.pod_records import PodRecord
from nbgpu_backend.control.records import InstanceRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.sites import Site
from nbgpu_backend.control.wording import span
from nbgpu_backend.domain import pods as rules
from nbgpu_backend.domain.placement import CPU, LOCAL, Choice, Skip, Wanted, choose, gpu_list
from nbgpu_backend.errors import NbgpuError, NotFound, Unavailable
from nbgpu_backend.providers.base import (
    Exit,
    Gpu,
    LaunchSpec,
    Observed,
    PodPlan,
    Separation,
)
from nbgpu_backend.providers.ssh.errors import AWAY
from nbgpu_backend.schema.common import Reason
from nbgpu_backend.schema.pods import Preparation
from nbgpu_backend.store.secrets import Secrets, unknown

log = logging.getLogger(__name__)

POLL_S = 1.0
SOON_S = 0.05  # between looks while somebody waits for it to be ready
RENEWALS = 3  # in the length of a lease
READY_S = 90.0
AWAY_S = 5.0  # without a word of an agent on a host
LEAD_S = 5.0
KERNEL_S = 75.0
RETRY_S = 2.0  # while there is no room
MEMORY_NEEDED = 300_000_000  # of an agent and a kernel that have not begun to work
OOM_POD = 300  # between the backend and workers
END_S = 5.0  # beyond the grace
ENDED_WELL = ("asked", "lease", "until")
WORDS = {
    "lease": "nobody used it while no backend was there",
    "lost": "its process is gone, and nothing says why (its parent was killed, or the machine restarted)",
}


class PodControl:
    def __init__(self, services: Services, site: Site, record: PodRecord) -> None:
        self.record = record
        self._services = services
        self.site = site
        self.agent = PodAgent(site.pods, record.id, record.name, services.clock.now)
        self.ports = Ports(self.agent)
        self.state = "stopped"
        self.reason = self._reason("stopped", "it was not started yet")
        self.instance: InstanceRecord | None = None
        self.separation: Separation | None = None
        self.preparation = Preparation(state="none")
        self.seen: dict[str, Any] = {}  # what its agent said last
        self.seen_at = 0.0
        self.sockets = ""  # what the paths of its kernel's sockets begin with
        self._led_at = 0.0
        self._postponed = asyncio.Event()  # it is ended once its host is heard
        self._ending: asyncio.Task[None] | None = None
        self.skipped: tuple[Skip, ...] = ()
        self.tail: tuple[str, ...] = ()  # of the log of the last one that ended
        self.memory_limit = 0
        self.generation = 0
        self._host = site.pods
        self._book = PodBook(services, site.host, record)
        self._specs = KernelSpecs(services.home.kernels, services.home.root)
        self._life: asyncio.Task[None] | None = None
        self._stop: Reason | None = None
        self._wish = asyncio.Event()  # something changed that its follower should see
        self._over = asyncio.Event()  # nothing of it runs
        self._over.set()
        self._warned_us = 0
        self._cpu = (0.0, 0.0)  # processor seconds, and when
        self.cpu_share = 0.0
        self._told = (0.0, 0)  # figures that were last said to have moved
        if record.reason is not None:
            self.state = "failed" if record.failed else "stopped"
            self.reason = Reason(**record.reason)

    # --- what it is -------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def live(self) -> bool:
        return self.state in rules.LIVE

    @property
    def running(self) -> bool:
        """Its agent answers."""
        return self.state in ("idle", "busy")

    @property
    def ended(self) -> bool:
        """Nothing of it runs, as far as is known."""
        return self._over.is_set()

    @property
    def containers(self) -> list[str]:
        """Names of those that it may have now."""
        if self.record.spec.image is None or self.ended:
            return []
        return [self._room, *([self.instance.name] if self.instance is not None else [])]

    @property
    def _room(self) -> str:
        """What makes its room is called so."""
        return f"nbgpu-{self._services.installation}-{self.id}"

    @property
    def kernelspec(self) -> str | None:
        return spec_name(self.name) if self.running else None

    @property
    def rate(self) -> Rate:
        account = self._account
        return account.rate if account else self._services.rate(self.record.spec.nbgpu.place.on)

    @property
    def _account(self) -> Any:
        return self._services.ledger.accounts.get(self.instance.id) if self.instance else None

    @property
    def active_us(self) -> int | None:
        """The last sign of use."""
        return self.seen.get("active_us") if self.live else None

    def gpu(self) -> tuple[str, int] | None:
        if self.instance is None or self.instance.gpu is None:
            return None
        return self.instance.gpu, self.instance.gpu_count

    def limits(self) -> rules.Limits:
        given = self.record.spec.nbgpu.limits
        cost = Decimal(given.max_cost) if given.max_cost is not None else None
        return rules.Limits(given.idle_stop_s, given.until_us, cost, self.record.kept_until_us)

    def hard_end(self) -> rules.End | None:
        account, now = self._account, self._services.clock.now()
        if account is None:
            return None
        return rules.hard_end(
            self.limits(), spent=account.amount(now), now_us=now, per_hour=account.rate.per_hour
        )

    def next_end(self) -> rules.End | None:
        """The nearest instant at which it ends by itself."""
        if not self.running or not self.seen:
            return self.hard_end()
        busy = bool(self.seen.get("busy"))
        idle = rules.idle_end(self.limits(), active_us=int(self.seen["active_us"]), busy=busy)
        return rules.nearest(idle, self.hard_end())

    def require(self) -> PodAgent:
        """Its agent. Raises Unavailable where it does not run."""
        if self.running:
            return self.agent
        if self.state in ("stopped", "failed"):
            raise Unavailable(
                f"'{self.name}' does not run: {self.reason.text}.",
                f"Start it with: nbgpu start {self.name}",
                code="pod_stopped",
            )
        raise Unavailable(
            f"'{self.name}' is {self.state}: {self.reason.text}.",
            f"Try again soon, or see: nbgpu why {self.name}",
            code="host_unreachable" if self.state == "unreachable" else "pod_not_ready",
        )

    def plan(self, container: str) -> PodPlan:
        spec = self.record.spec
        return PodPlan(
            id=self.id,
            name=self.name,
            volume=self.record.volume_id,
            requirements=tuple(spec.nbgpu.requirements),
            network=spec.nbgpu.network,
            gpus=self.gpus,
            image=spec.image,
            container=container,
            installation=self._services.installation,
            memory_bytes=self.memory_limit,
            processes=spec.nbgpu.limits.processes,
        )

    # --- verbs ------------------------------------------------------------------------------------

    def go(self) -> None:
        """Start it, unless it is on its way or there."""
        if self._life is None or self._life.done():
            self._stop = None
            self._over.clear()
            self._postponed.clear()
            self._become("preparing", "preparing", "its room is made")
            self._life = asyncio.create_task(self._guard(self._begin()))

    async def stop(self, code: str, text: str) -> None:
        """End it; returns when nothing of it runs, or its host is not heard: then it is ended once it is.
        Whoever says it first is the reason."""
        if self._stop is None and not self._over.is_set():
            self._stop = self._reason(code, text)
            if self.instance is None:
                await self._end_life()
                await self._rest()
            else:
                self._become("stopping", code, text)
                await self._book.tell("pod.stopping", f"{self.name} stops: {text}")
                self._ending = asyncio.create_task(self._end_instance())
        waits = [asyncio.create_task(e.wait()) for e in (self._over, self._postponed)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()

    async def restart(self) -> None:
        await self.stop("restart", "it is started again")
        self.record.wanted, self.record.failed, self.record.reason = "running", False, None
        await self._book.save(None)
        self.go()

    async def save(self, kind: str | None, text: str = "", **values: Any) -> None:
        await self._book.save(kind, text, **values)
        self._wish.set()

    def renew_soon(self) -> None:
        """Something that its shim must know has changed."""
        self._wish.set()

    async def tell(self, kind: str, text: str, **values: Any) -> None:
        await self._book.tell(kind, text, **values)

    async def close(self) -> None:
        """This backend ends; the pod runs on."""
        self.ports.close()
        await self._end_life()
        if self._ending is not None:
            self._ending.cancel()

    def adopt(self, instance: InstanceRecord, seen: Observed) -> None:
        """Take over one that runs already."""
        self._stop = None
        self._over.clear()
        self._postponed.clear()
        self._remember(seen)
        instance.pid = seen.pid or instance.pid
        instance.started_us = instance.started_us or seen.started_us
        self.instance = instance
        self._become("starting", "adopted", "found running, and taken over")
        self._life = asyncio.create_task(self._guard(self._resume()))

    async def bury(self, instance: InstanceRecord, ended: Exit) -> None:
        """Write down the end of one that ended while no backend was there."""
        self.instance = instance
        await self._finish(ended)

    # --- beginnings -------------------------------------------------------------------------------

    async def _guard(self, life: Coroutine[Any, Any, None]) -> None:
        """A fault in our own code must not leave a process that nobody watches."""
        try:
            await life
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("pod %s", self.name)
            text = str(error) or type(error).__name__
            if self.instance is not None:
                with contextlib.suppress(NbgpuError):
                    await self.site.host.stop(self.instance.name, 0)
                await self._finish(Exit(None, None, "fault", self._services.clock.now(), (text,)))
            else:
                await self._fail("fault", text)

    async def _begin(self) -> None:
        began = self._services.clock.elapsed()
        try:
            await self._prepare()
            prepared = self._services.clock.elapsed() - began
            if not await self._launch(await self._place(), prepared):
                return
        except NbgpuError as error:
            await self._fail(error.code, str(error).rstrip("."))
            return
        await self._live()

    async def _prepare(self) -> None:
        self.separation = await self._host.separation(self.record.spec.image)
        self.preparation = Preparation(state="running", began_us=self._services.clock.now())
        await self._book.tell("pod.preparing", f"{self.name}: its room is made")

        def told(text: str) -> None:
            self.preparation = self.preparation.model_copy(update={"text": text})
            self._become("preparing", "environment", f"making its environment: {text}")
            self._services.pulse.touch(self.id)

        try:
            await self._host.prepare(self.plan(self._room), told)
        except NbgpuError as error:
            self.preparation = Preparation(state="failed", error=str(error))
            raise
        self.preparation = self.preparation.model_copy(update={"state": "done", "text": ""})

    async def _place(self) -> Choice:
        """Wait for memory and for a GPU that was asked for. Raises Unavailable where that is in vain."""
        services, place, gpus = self._services, self.record.spec.nbgpu.place, self.site.gpus
        wanted = Wanted(gpu_list(place.gpu), place.cpu)
        while True:
            if place.gpu:
                await gpus.look()
            choice = choose(wanted, gpus.offers(), {}, {}, services.clock.elapsed())
            self.skipped = choice.skipped
            said = "; ".join(f"{skip.what}: {skip.text}" for skip in choice.skipped)
            verdict = self.site.memory.admit(MEMORY_NEEDED, self.name)
            if choice.gpu is not None and verdict.fits and not verdict.evict:
                if place.gpu:
                    gpus.take(self.id, choice.gpu, choice.count)
                return choice
            if choice.gpu is None and not choice.ever:
                raise Unavailable(f"No GPU that was asked for is here: {said}.", code="no_gpu")
            if choice.gpu is None:
                self._become("preparing", "no_capacity", f"it waits for a GPU: {said}")
            else:
                self._become("preparing", "no_memory", f"it waits for memory: {verdict.text}")
            await asyncio.sleep(RETRY_S)

    async def _launch(self, choice: Choice, prepared_s: float) -> bool:
        """False: it failed, and that is written down."""
        services, record, spec = self._services, self.record, self.record.spec
        limits = spec.nbgpu.limits
        free = self.site.host.available_memory() - self.site.memory.table.floor
        self.memory_limit = limits.memory_bytes or max(MEMORY_NEEDED, free)
        rate = services.rate(spec.nbgpu.place.on)
        if choice.per_hour is not None:
            rate = Rate(choice.per_hour, f"price of {choice.gpu}")
        self.generation = generation = self.generation + 1
        token = secrets.token_urlsafe(32)
        record.token_hash = hashlib.sha256(token.encode()).digest()
        instance_id = "p-" + secrets.token_hex(5)
        instance = InstanceRecord(
            id=instance_id,
            name=f"nbgpu-{services.installation}-{instance_id}-{generation}",
            endpoint_id=record.id,
            provider=spec.nbgpu.place.on,
            generation=generation,
            endpoint_version=record.version,
            tier="plain",
            port=0,
            slots=0,
            intent_us=services.clock.now(),
            gpu=choice.gpu if choice.gpu != CPU else None,
            gpu_count=choice.count,
            phases=[("environment", round(prepared_s, 3))],
        )
        config = {
            "pod": record.name, "id": record.id, "before_stop": spec.nbgpu.before_stop,
            "grace_s": limits.grace_s,
        }  # fmt: skip
        command = await self._host.command(
            self.plan(instance.name), config, self._env(token, instance)
        )
        self.site.memory.reserve_pod(instance.id, MEMORY_NEEDED)
        self.instance = instance
        await self._book.intent(instance)
        self._become("starting", "launched", "its kernel starts")
        ends = [e.at_us for e in [self._first_end(rate)] if e is not None]
        try:
            launched = await self.site.host.launch(
                LaunchSpec(
                    name=instance.name,
                    generation=generation,
                    argv=command.argv,
                    env=command.env,
                    ttl_s=services.lease_pod_s,
                    grace_s=limits.grace_s + END_S,
                    cwd=command.cwd,
                    meta={
                        "pod": record.name,
                        "gpus": [gpu.index for gpu in self.gpus],
                        "memory": self.memory_limit,
                    },
                    gpu=instance.gpu,
                    gpu_count=instance.gpu_count,
                    oom_score_adj=OOM_POD,
                    until_us=ends[0] if ends else None,
                    busy_file=command.busy_file,
                    memory_bytes=self.memory_limit,
                    process_limit=limits.processes,
                    spare_leader=command.spare_leader,
                )
            )
        except NbgpuError as error:
            seen = await self._patiently(instance.name)  # an ambiguous failure?
            if seen.state != "running" or seen.pid is None:
                await self._finish(Exit(None, None, "launch", services.clock.now(), (str(error),)))
                return False
            instance.pid, instance.started_us = seen.pid, seen.started_us
        else:
            instance.pid, instance.started_us = launched.pid, launched.started_us
        await self._book.opened(instance, rate)
        return True

    def _first_end(self, rate: Rate) -> rules.End | None:
        now = self._services.clock.now()
        return rules.hard_end(self.limits(), spent=Decimal(0), now_us=now, per_hour=rate.per_hour)

    def _env(self, token: str, instance: InstanceRecord) -> dict[str, str]:
        """Raises NotFound for a secret that is not stored."""
        spec = self.record.spec
        env = dict(spec.env)
        stored = Secrets(self._services.home.secrets).all() if spec.nbgpu.secrets else {}
        for name in spec.nbgpu.secrets:
            if name not in stored:
                raise unknown(name)
            env[name] = stored[name].value
        cores = str(spec.nbgpu.place.cpu or os.cpu_count() or 1)
        if spec.nbgpu.place.cpu is not None:
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
                env.setdefault(name, cores)
        return {
            **env,
            "NBGPU_POD": self.name,
            # from a host this backend cannot be reached
            **(
                {"NBGPU_URL": self._services.url, "NBGPU_TOKEN": token}
                if self.site.name == LOCAL
                else {}
            ),
            "RUNPOD_POD_ID": self.id,
            "RUNPOD_POD_HOSTNAME": self.name,
            "RUNPOD_DC_ID": instance.provider,
            "RUNPOD_CPU_COUNT": cores,
            "RUNPOD_GPU_COUNT": str(instance.gpu_count),
            "RUNPOD_VOLUME_ID": self.record.volume_id,
        }

    async def _resume(self) -> None:
        services, instance = self._services, self.instance
        assert instance is not None
        if self.site.name != LOCAL and not await self._found_there(instance):
            return
        self.separation = await self._host.separation(self.record.spec.image)
        if self.site.gpus.holds(self.id):
            await self.site.gpus.look()
        self.site.memory.reserve_pod(instance.id, MEMORY_NEEDED)
        if instance.id not in services.ledger.accounts:
            await self._book.opened(instance, services.rate(instance.provider))
        await self._live()

    async def _found_there(self, instance: InstanceRecord) -> bool:
        """Is it still there, on a host that may not be heard for a while? Its end is written down."""
        seen = await self._patiently(instance.name)
        if seen.state == "running":
            self._remember(seen)
            return True
        lost = Exit(None, None, "lost", self._services.clock.now(), (), True)
        await self._finish(seen.exit or lost)
        return False

    def _remember(self, seen: Observed) -> None:
        """What was given to it at its launch."""
        limit, listed = seen.meta.get("memory"), seen.meta.get("gpus")
        self.memory_limit = limit if isinstance(limit, int) else 0
        if isinstance(listed, list):
            self.site.gpus.hold(self.id, {int(index) for index in listed})

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """That it has."""
        return self.site.gpus.of(self.id)

    # --- life -------------------------------------------------------------------------------------

    async def _live(self) -> None:
        assert self.instance is not None
        watch = asyncio.create_task(self.site.host.wait(self.instance.name))
        follow = asyncio.create_task(self._follow(self.instance))
        try:
            await asyncio.wait((watch, follow), return_when=asyncio.FIRST_COMPLETED)
            if follow.done() and not follow.cancelled() and (fault := follow.exception()):
                raise fault
            ended = await self._last_word(watch)
        finally:
            for task in (watch, follow):
                task.cancel()
            await asyncio.gather(watch, follow, return_exceptions=True)
        await self._finish(ended)

    async def _last_word(self, watch: asyncio.Task[Exit]) -> Exit:
        try:
            return await watch
        except NotFound:  # not even a record of its end is left
            return Exit(None, None, "lost", self._services.clock.now(), (), True)

    async def _patiently(self, name: str) -> Observed:
        """What it is, once its host is heard."""
        while True:
            try:
                return await self.site.host.observe(name)
            except AWAY as error:
                self._away(error)
                await asyncio.sleep(RETRY_S)

    def _away(self, error: NbgpuError) -> None:
        """Its host is not heard, which says nothing of the pod."""
        if self._stop is None:
            text = f"{str(error.what).rstrip('.')}; it may well run on there, and its meter goes on"
            self._become("unreachable", error.code, text)

    async def _follow(self, instance: InstanceRecord) -> None:
        """Until it ends: ready, then its use, its lease and its limits."""
        if not await self._until_ready(instance):
            return
        renew_at = 0.0
        while self._stop is None:
            await self._look(instance)
            now = self._services.clock.elapsed()
            if now >= renew_at or self._wish.is_set():
                lease = self._services.lease_pod_s
                await self._renew(instance, lease)
                renew_at = now + lease / RENEWALS
            self._wish.clear()
            if await self._enforce():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wish.wait(), POLL_S)

    async def _until_ready(self, instance: InstanceRecord) -> bool:
        clock = self._services.clock
        began = clock.elapsed()
        await self._renew(instance, self._services.lease_pod_s)
        while True:
            try:
                await self.agent.ask("kernel", action="start", timeout_s=KERNEL_S)
                break
            except AWAY as error:
                self._away(error)
                began = clock.elapsed()
                await asyncio.sleep(RETRY_S)
            except Silent:
                if clock.elapsed() - began > READY_S:
                    await self._end_by_itself("start", f"it was not ready after {READY_S:.0f} s")
                    return False
            except NbgpuError as error:
                await self._end_by_itself(
                    "kernel", f"its kernel did not start: {error}".rstrip(".")
                )
                return False
            if self._stop is not None:  # said before there was anything to stop
                await self._end_instance()
                return False
            await asyncio.sleep(SOON_S)
        if self._stop is not None:
            await self._end_instance()
            return False
        self.seen = await self.agent.ask("status")
        await self._lead_to_kernel()
        self._specs.add(self.name, self._hardware())
        if instance.ready_us is not None:
            self._note("adopted")
            return True
        started = instance.started_us or instance.intent_us
        instance.ready_us = clock.now()
        seconds = max(0.0, (instance.ready_us - started) / 1e6)
        instance.phases = [*(instance.phases or ()), ("kernel", round(seconds, 3))]
        self._note("ready")
        await self._book.ready(instance, f"{self.name} is ready after {span(seconds)}", seconds)
        return True

    def _hardware(self) -> str:
        gpu = self.gpu()
        found = "cpu" if gpu is None else gpu[0] + (f" x {gpu[1]}" if gpu[1] > 1 else "")
        return found if self.site.name == LOCAL else f"{found}, {self.site.name}"

    async def _lead_to_kernel(self) -> None:
        """Where its kernel's sockets are on this machine; those of a host are led here, now and again, since
        the one who leads them may have ended."""
        self.sockets = await self._host.kernel_sockets(self.id)
        self._led_at = self._services.clock.elapsed()

    async def _look(self, instance: InstanceRecord) -> None:
        try:
            said = await self.agent.ask("status")
            if self.site.name != LOCAL and self._services.clock.elapsed() - self._led_at > LEAD_S:
                await self._lead_to_kernel()
        except AWAY as error:
            self._away(error)
            return
        except NbgpuError as error:
            patience = READY_S if self.site.name == LOCAL else AWAY_S
            if self._stop is None and self._services.clock.elapsed() - self.seen_at > patience:
                self._become("unreachable", "silent", str(error).rstrip("."))
            return
        before, at = self._cpu
        now = self._services.clock.elapsed()
        self._cpu = (float(said.get("cpu_s") or 0.0), now)
        if at:
            self.cpu_share = max(0.0, (self._cpu[0] - before) / max(0.001, now - at))
        self.seen, self.seen_at = said, now
        self.site.memory.table.measured(instance.id, int(said.get("rss") or 0))
        self._note("ready")
        figures = (round(self.cpu_share, 1), int(said.get("rss") or 0) // 10_000_000)
        if figures != self._told:
            self._told = figures
            self._services.pulse.touch(self.id)

    def _note(self, code: str) -> None:
        """The state as its agent says."""
        self.seen_at = self._services.clock.elapsed()
        if self._stop is not None:
            return
        if self.seen.get("busy"):
            self._become("busy", "busy", "its kernel works")
        else:
            self._become("idle", code, "ready, and nobody uses it")

    async def _renew(self, instance: InstanceRecord, lease_s: float) -> None:
        end = self.hard_end()
        with contextlib.suppress(NbgpuError):
            await self.site.host.renew(
                instance.name, lease_s, end.at_us if end is not None else None
            )

    async def _enforce(self) -> bool:
        """What its limits ask for now. True: it is ending."""
        now, end = self._services.clock.now(), self.next_end()
        if end is None or not self.seen:
            return False
        if now >= end.at_us:
            text = end.text
            if end.code == "idle":
                idle = self.record.spec.nbgpu.limits.idle_stop_s or 0
                text = f"nobody used it for {span(idle)}"
            await self._end_by_itself(end.code, text)
            return True
        idle_s = self.record.spec.nbgpu.limits.idle_stop_s
        near = end.code == "idle" and idle_s and now >= rules.warn_at(end, idle_s)
        if near and self._warned_us != self.seen["active_us"]:
            self._warned_us = self.seen["active_us"]
            left = span(int((end.at_us - now) / 1e6))
            text = f"{self.name} stops in {left}: nobody uses it"
            await self._book.tell("pod.idle_warning", text, stops_at_us=end.at_us)
        return False

    async def _end_by_itself(self, code: str, text: str) -> None:
        if self._stop is None:  # or somebody has said before why
            self._stop = self._reason(code, text)
            self._become("stopping", code, text)
            await self._book.tell("pod.stopping", f"{self.name} stops: {text}")
        await self._end_instance()

    # --- the end ----------------------------------------------------------------------------------

    async def _end_instance(self) -> None:
        """Its agent first, which runs `before_stop`; then its shim. The one who watches writes it down."""
        assert self.instance is not None
        grace, name = self.record.spec.nbgpu.limits.grace_s, self.instance.name
        with contextlib.suppress(NbgpuError):
            await self.agent.ask("stop", grace_s=grace)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.site.host.wait(name), grace + END_S)
        while not self._over.is_set():
            try:
                await self.site.host.stop(name, END_S)
                return
            except NotFound:
                return
            except NbgpuError as error:
                text = f"it is ended once that is possible: {error.what}".rstrip(".")
                self._become("stopping", error.code, text)
                if isinstance(error, AWAY):
                    self._postponed.set()
                await asyncio.sleep(RETRY_S)

    async def _end_life(self) -> None:
        if self._life is not None and not self._life.done():
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)

    async def _finish(self, ended: Exit) -> None:
        instance, record = self.instance, self.record
        assert instance is not None
        if record.spec.image is not None:  # its shim may have been killed, or had to kill
            with contextlib.suppress(NbgpuError):
                await self._host.clear(instance.name)
        reason, failed = self._why(ended)
        self.tail = tuple(ended.tail)
        record.wanted, record.failed, record.reason = "stopped", failed, reason.wire()
        record.kept_until_us = record.token_hash = None
        instance.ended_us = ended.ended_us
        instance.exit = {
            "code": ended.code, "signal": ended.signal, "reason": reason.code,
            "tail": list(ended.tail),
        }  # fmt: skip
        said = "failed" if failed else "has stopped"
        await self._book.ended(
            instance, ended, "pod.failed" if failed else "pod.stopped",
            f"{self.name} {said}: {reason.text}",
        )  # fmt: skip
        self.site.memory.release(instance.id)
        self._settle(failed, reason)

    async def _fail(self, code: str, text: str) -> None:
        """Before there was an instance."""
        reason = self._reason(code, text)
        self.record.wanted, self.record.failed = "stopped", True
        self.record.reason = reason.wire()
        with contextlib.suppress(NbgpuError):
            await self._book.save("pod.failed", f"{self.name} did not start: {text}")
        self._settle(True, reason)

    async def _rest(self) -> None:
        """It was stopped before there was an instance."""
        reason = self._stop or self._reason("stopped", "stopped by you")
        self.record.wanted, self.record.failed = "stopped", False
        self.record.reason = reason.wire()
        with contextlib.suppress(NbgpuError):
            await self._book.save("pod.stopped", f"{self.name} has stopped: {reason.text}")
        self._settle(False, reason)

    def _settle(self, failed: bool, reason: Reason) -> None:
        self._specs.remove(self.name)
        self.ports.close()
        self.instance, self.seen, self.cpu_share = None, {}, 0.0
        self.site.gpus.release(self.id)
        self._cpu = (0.0, 0.0)
        self.state, self.reason = "failed" if failed else "stopped", reason
        self._over.set()
        self._services.pulse.touch(self.id)

    def _why(self, ended: Exit) -> tuple[Reason, bool]:
        """The reason, and whether it is a failure."""
        if self._stop is not None:
            return self._stop, self._stop.code in ("start", "kernel")
        if ended.reason in WORDS:
            return self._reason(ended.reason, WORDS[ended.reason]), ended.reason == "lost"
        if ended.reason == "until":
            end = self.hard_end()
            code, text = (end.code, end.text) if end else ("until", "its time is over")
            return self._reason(code, text), False
        tail = [line for line in ended.tail if line.strip()]
        if ended.reason in ("memory", "processes", "launch", "fault") and tail:
            return self._reason(ended.reason, tail[-1].rstrip(".")), True
        how = f"exit code {ended.code}" if ended.signal is None else f"signal {ended.signal}"
        text = f"it ended by itself with {how}" + (f": {tail[-1][:200]}" if tail else "")
        return self._reason("exit", text), True

    # --- states -----------------------------------------------------------------------------------

    def _become(self, state: str, code: str, text: str) -> None:
        if (state, code, text) == (self.state, self.reason.code, self.reason.text):
            return
        if state != self.state or code != self.reason.code:
            self.reason = self._reason(code, text)
        else:
            self.reason = self.reason.model_copy(update={"text": text})
        if state != self.state:
            self.state = state
            self._services.pulse.touch(self.id)

    def _reason(self, code: str, text: str) -> Reason:
        return Reason(code=code, text=text, since_us=self._services.clock.now())
