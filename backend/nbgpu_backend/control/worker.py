"""The life of one worker: intent, launch, readiness, serving, its end.

Each step is written down (worker_book.py). A worker that an earlier backend started is adopted at the step
where it is. The process itself is the provider's; here it is watched, its lease renewed, and its end
written down whatever caused it.

A worker whose host is not heard is `unreachable`, not dead: it gets nothing, its bill goes on, and another
one may take its place. Heard again, it serves, or ends where its place is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nbgpu_backend.billing.rates import PARKED, Rate
from nbgpu_backend.control.endings import words
from nbgpu_backend.control.phases import PhaseTimer
from nbgpu_backend.control.probe import (
    Health,
    HealthCheck,
    health,
    put_to_sleep,
    sleeping,
    wake_up,
)
from nbgpu_backend.control.records import InstanceRecord
from nbgpu_backend.control.relay_link import RelayLink
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.sites import Site
from nbgpu_backend.control.worker_book import WorkerBook
from nbgpu_backend.domain.parents import ParentSpec
from nbgpu_backend.domain.placement import LOCAL, Skip
from nbgpu_backend.engines.base import Engine, WorkerSpec
from nbgpu_backend.errors import NbgpuError, NotFound
from nbgpu_backend.providers.base import Exit, LaunchSpec, Observed
from nbgpu_backend.providers.ssh.errors import AWAY, HostUnreachable
from nbgpu_backend.schema.common import Reason
from nbgpu_backend.serving.board import JobBoard
from nbgpu_backend.serving.pull import PullWorker
from nbgpu_backend.serving.worker import PushWorker, ServingWorker

log = logging.getLogger(__name__)

LEASE_S = 900.0  # a push worker without a backend has no work, and ends after this
RENEW_S = 60.0
PARENT_BYTES = 700_000_000  # of a process that has imported an engine (PSS, measured)
PARENT_SHOWN_S = 0.05  # a shorter wait for it is no phase
TAIL_LINES = 40  # of the log, kept with the record
CAUSE_LINES = 300  # of the log, searched for why it failed
POLL_S = 0.05  # of /health and the log, while somebody waits
SLOW_POLL_S = 0.5
FOREVER = float("inf")
SILENT_S = 15.0  # three pings of a handler worker
HEALTH_S = 5.0  # between looks at a ready worker, and how long one may take
UNREADY_GRACE_S = 2.0
AWAY_S = 1.0  # between looks for a host that is not heard
BLINK_S = 5.0  # so long a host may be silent before another worker takes the place
WAKE_S = 5.0  # a parked engine answers in 0.1 s, or something is wrong with it
SLEEPER_S = 60.0  # gigabytes go back to a GPU
WAKE_POLL_S = 0.005
# What the kernel ends first when memory is out (proc(5)): what is parked, then a worker; the backend
# is left at 0, and pods lie between.
OOM_PARKED, OOM_WORKER = 900, 500
PLAIN_CHECK = HealthCheck()


class Owner(Protocol):
    """What a worker needs of its endpoint."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    board: JobBoard

    def holding(self, worker_id: str) -> int:
        """Requests and jobs that it has, or is about to get."""
        ...

    def somebody_waits(self) -> bool: ...

    def worker_ready(self, worker: WorkerControl) -> None: ...

    def worker_back(self, worker: WorkerControl) -> None:
        """It serves again after a while in which it said that it did not."""
        ...

    def worker_changed(self, worker: WorkerControl) -> None: ...

    def has_room(self, worker: WorkerControl) -> bool:
        """May one that was away serve again, or has another one its place?"""
        ...

    def worker_fell_back(self, worker: WorkerControl, text: str) -> None:
        """A sooner way to start did not serve."""
        ...

    def worker_ended(self, worker: WorkerControl, ended: Exit) -> None: ...


@dataclass(frozen=True, slots=True)
class StopRequest:
    code: str
    text: str


class WorkerControl:
    def __init__(
        self,
        services: Services,
        site: Site,
        owner: Owner,
        engine: Engine,
        record: InstanceRecord,
        *,
        unhealthy_s: float,
        start_s: float,
        rate: Rate,
        sleeps: bool = False,
        skipped: Sequence[Skip] = (),
        check: HealthCheck = PLAIN_CHECK,
    ) -> None:
        self.record = record
        self.skipped = skipped
        self.sleeps = sleeps  # it is parked by its own sleep mode
        self.fell_back = ""
        self.was_parked = False  # when its end began: it counts to no limit
        self.parked_at = 0.0  # of the clock's `elapsed`
        self.idle_since = services.clock.elapsed()
        self.state = "initializing"
        self.serving: ServingWorker | None = None  # once it is ready
        self.exit: Exit | None = None
        self.timer = PhaseTimer(engine.phases)
        self.ended = asyncio.Event()
        self.given_up_at = 0.0  # of the clock's `elapsed`: then it is not waited for any longer
        self.out = asyncio.Event()  # it has ended, or is not heard: nothing more comes of it now
        self.site = site
        self._there = asyncio.Event()  # its process exists, or never will
        self._book = WorkerBook(services, site.host, record, lambda: owner.name)
        self._services = services
        self._host = site.host
        self._owner = owner
        self._engine = engine
        self._check = check
        self._aside = False  # its health path says that it takes no requests just now
        self._unhealthy_s = unhealthy_s
        self._start_s = start_s
        self._stop: StopRequest | None = None
        self._grace_s = FOREVER
        self._stopping: asyncio.Task[None] | None = None
        self._launched = services.clock.elapsed()
        self._rate = rate
        self._parking: asyncio.Task[None] | None = None
        self._key: str | None = None
        self._port = self._health_port = record.port  # where it is reached, on this machine
        self._link = (
            RelayLink(site.host, record.name, record.id, owner.board) if engine.pull else None
        )
        self._life: asyncio.Task[None] | None = None
        self.reason = Reason(code="launch", text="being launched", since_us=services.clock.now())

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def rate(self) -> Rate:
        """What an hour of it costs while it is not parked."""
        return self._rate

    @property
    def live(self) -> bool:
        return not self.ended.is_set()

    @property
    def held(self) -> int:
        return self._owner.holding(self.id)

    def stale(self) -> bool:
        """Started with settings that have changed since."""
        return self.record.endpoint_version != self._owner.version

    def phases(self) -> list[tuple[str, float]]:
        """(phase, seconds) of its start, as far as it is known."""
        return self.record.phases or self.timer.done

    def age(self) -> float:
        """Seconds since its launch, or since it was last woken."""
        return self._services.clock.elapsed() - self._launched

    async def log(self, tail: int) -> list[str]:
        """Its last lines; none while its host is not heard."""
        try:
            return await self._host.logs(self.record.name, tail)
        except AWAY:
            return []

    async def follow(self, tail: int) -> AsyncGenerator[list[str], None]:
        """The last lines of its log, then what is added, until it ends."""
        if self.live:
            log = self._host.follow(self.record.name, tail)
            with contextlib.suppress(NotFound):  # it is not launched yet, or ended just now
                async with contextlib.aclosing(log) as parts:
                    async for lines in parts:
                        yield lines
                return
        if self.exit is not None and (lines := list(self.exit.tail)[-tail:]):
            yield lines

    # --- beginnings -------------------------------------------------------------------------

    def launch(
        self, spec: WorkerSpec, *, cwd: str | None = None, parent: ParentSpec | None = None
    ) -> None:
        """`cwd`: None is the instance's own folder. `parent`: fork it from there."""
        self._life = asyncio.create_task(self._guard(self._begin(spec, cwd, parent)))

    def adopt(self, seen: Observed) -> None:
        """Take over what runs already, or may run on a host that is not heard yet."""
        started = self.record.started_us or seen.started_us or self.record.intent_us
        age = max(0.0, (self._services.clock.now() - started) / 1e6)
        self._launched = self._services.clock.elapsed() - age
        self._life = asyncio.create_task(self._guard(self._resume(seen, started)))

    async def _guard(self, life: Any) -> None:
        """A fault in our own code must not leave a process that nobody watches."""
        try:
            await life
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("worker %s", self.id)
            with contextlib.suppress(NbgpuError):
                await self._host.stop(self.record.name, 0)
            what = str(error) or type(error).__name__
            await self._finish(Exit(None, None, "fault", self._services.clock.now(), (what,)))

    async def _with_port(self, spec: WorkerSpec) -> WorkerSpec:
        if self._engine.pull:
            return spec
        offset = self._check.port_offset
        port = self.record.port = await self._host.free_port(offset)
        return replace(spec, port=port, health_port=port + offset if self._check.balanced else 0)

    async def _begin(self, spec: WorkerSpec, cwd: str | None, parent: ParentSpec | None) -> None:
        services, record = self._services, self.record
        await self._book.intent(self.skipped)
        try:
            spec = await self._with_port(spec)
        except NbgpuError as error:
            reason = "host_away" if isinstance(error, AWAY) else "launch"
            await self._not_launched(reason, error)
            return
        command = self._engine.command(spec)
        env, secret_files = dict(command.env), {}
        if command.key_variable:
            self._key = secrets.token_urlsafe(24)
            env[command.key_variable] = self._key
            secret_files["key"] = self._key
        if parent is not None:
            self.site.memory.parent_used(parent.key, PARENT_BYTES, busy=True)
        self._record_state("starting", "launched", "loading the engine")
        try:
            launched = await self._host.launch(
                LaunchSpec(
                    name=record.name,
                    generation=record.generation,
                    argv=command.argv,
                    env=env,
                    ttl_s=LEASE_S,
                    cwd=cwd,
                    secrets=secret_files,
                    meta={
                        "endpoint": self._owner.name,
                        "port": record.port,
                        "gpus": [gpu.index for gpu in self.site.gpus.of(self.id)],
                    },
                    gpu=record.gpu,
                    gpu_count=record.gpu_count,
                    oom_score_adj=OOM_WORKER,
                    parent=parent,
                )
            )
        except NbgpuError as error:
            if isinstance(error, HostUnreachable):  # it was never asked
                await self._not_launched("host_away", error)
                return
            seen = await self._seen()  # an ambiguous failure?
            if seen.state == "running" and seen.pid is not None:
                await self._resume(seen, seen.started_us or services.clock.now())
                return
            self.out.clear()
            reason = "host_away" if isinstance(error, AWAY) else "launch"
            await self._not_launched(error.code if error.code == "no_capacity" else reason, error)
            return
        finally:
            if parent is not None:
                self.site.memory.parent_used(parent.key, PARENT_BYTES, busy=False)
        record.pid, record.started_us = launched.pid, launched.started_us
        record.tier = launched.tier
        if launched.parent_s > PARENT_SHOWN_S:
            self.timer.end("parent", launched.parent_s)
        if launched.fell_back:
            self.fell_back = launched.fell_back
            self._owner.worker_fell_back(self, f"it was started plainly: {launched.fell_back}")
        await self._book.opened(self._rate)
        await self._reach()
        await self._live()

    async def _not_launched(self, reason: str, error: NbgpuError) -> None:
        await self._finish(Exit(None, None, reason, self._services.clock.now(), (str(error),)))

    async def _resume(self, seen: Observed, started_us: int) -> None:
        record = self.record
        if self.site.name != LOCAL:
            seen = await self._seen()  # what was said of it may be from before
            if seen.state != "running":
                await self._finish(seen.exit or self._lost())
                return
            self.out.clear()
        self._key = await self._secret()
        record.pid = seen.pid
        if isinstance(given := seen.meta.get("gpus"), list) and given:
            self.site.gpus.hold(self.id, {int(index) for index in given})
        if record.id not in self._services.ledger.accounts:
            record.started_us = started_us
            await self._book.opened(self._rate)
        elif (rate := self._services.ledger.accounts[record.id].rate) != PARKED:
            self._rate = rate
        await self._reach()
        asleep = self.sleeps and await sleeping(self._services.session, self._port, self._key)
        parked = record.ready_us is not None and (seen.paused or asleep)
        await self._book.bill(self._parked_rate() if parked else self._rate)
        if parked:
            self.site.memory.parked(self.id, True)
            self.parked_at = self._services.clock.elapsed()
            self._record_state("parked", "parked", "parked, as the backend before left it")
        elif record.ready_us is not None:
            self._serve(record.ready_us)
        else:
            self._record_state("starting", "adopted", "loading the engine")
        await self._live()

    # --- life -------------------------------------------------------------------------------

    async def _live(self) -> None:
        self._there.set()
        watch = asyncio.create_task(self._end_of_it())
        tasks = [
            watch,
            asyncio.create_task(self._renew()),
            asyncio.create_task(self._until_ready_then_healthy()),
        ]
        if self._link is not None:
            tasks.append(asyncio.create_task(self._link.run()))
        try:
            # whatever is found ends the process, so that `watch` is always the one that returns
            ended = await watch
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._finish(ended)

    async def _end_of_it(self) -> Exit:
        try:
            return await self._host.wait(self.record.name)
        except NotFound:
            return self._lost()

    def _lost(self) -> Exit:
        """An end that nothing recorded."""
        return Exit(None, None, "lost", self._services.clock.now(), (), True)

    async def _until_ready_then_healthy(self) -> None:
        if self.serving is None and self.state != "parked" and not await self._until_ready():
            return
        await self._until_sick()

    async def _until_ready(self) -> bool:
        services = self._services
        away_s = 0.0  # is not counted
        while not await self._healthy(1.0):
            if self._away():
                began = services.clock.elapsed()
                if not await self._until_heard():
                    return False
                self._record_state("starting", "adopted", "loading the engine")
                away_s += services.clock.elapsed() - began
            if self.timer.see(await self.log(400), self.age()):
                self._owner.worker_changed(self)
            if self.age() - away_s > self._start_s:
                self.end("start_timeout", f"it was not ready after {self._start_s:.0f} s", 0)
                return False
            await asyncio.sleep(POLL_S if self._owner.somebody_waits() else SLOW_POLL_S)
        age = self.age()
        self.timer.see(await self.log(400), age)
        self.timer.ready(age)
        now = services.clock.now()
        self.record.ready_us, self.record.phases = now, self.timer.done
        if self._stop is not None:
            return False
        self._serve(now)
        await self._book.ready(age)
        return True

    def _serve(self, ready_us: int) -> None:
        """From here on requests come, or jobs."""
        services, record = self._services, self.record
        known: dict[str, Any] = {
            "id": record.id,
            "slots": record.slots,
            "launched": self._launched,
            "ready": services.clock.elapsed() - max(0.0, (services.clock.now() - ready_us) / 1e6),
            "rate": self._rate.per_hour,
            "phases": dict(record.phases or ()),
            "tier": record.tier,
            "on_busy": self._busy,
        }
        if self._link is None:
            self.serving = PushWorker(**known, port=self._port, key=self._key)
            self._record_state("idle", "ready", "ready")
        else:
            pull = PullWorker(**known, wire=self._link, end=self.end, seen=services.clock.elapsed())
            self.serving = pull
            self._record_state("idle", "ready", "ready")
            self._link.attach(pull)
        self._owner.worker_ready(self)

    def _busy(self, busy: bool) -> None:
        if self.state in ("idle", "running"):
            self.idle_since = self._services.clock.elapsed()
            code, text = ("requests", "answering") if busy else ("ready", "ready")
            self._record_state("running" if busy else "idle", code, text)

    async def _until_sick(self) -> None:
        clock = self._services.clock
        last = clock.elapsed()
        while True:
            with contextlib.suppress(TimeoutError):
                pause = SLOW_POLL_S if self._aside else HEALTH_S
                await asyncio.wait_for(self.out.wait(), pause)  # it is not heard
            found = await self._health(HEALTH_S) if self._awake() else None
            well = found is None or found in (Health.WELL, Health.INITIALISING)
            if self.out.is_set() or (not well and self._away()):
                if not await self._until_heard() or not self._serve_on():
                    return
                last = clock.elapsed()
                continue
            if self._check.balanced and found is not None:
                self._step_aside(found)
            if well:
                last = clock.elapsed()
            elif clock.elapsed() - last > self._unhealthy_s:
                path = self._check.path
                self._sick(f"it has not answered {path} with 200 for {self._unhealthy_s:.0f} s")
                return

    def _step_aside(self, found: Health) -> None:
        """It gets no new requests while its health path says so; what it holds, it finishes."""
        if found in (Health.INITIALISING, Health.SICK):
            if self.state in ("idle", "running"):
                self._aside = True
                says = (
                    "204: it initialises" if found is Health.INITIALISING else "something but 200"
                )
                self._record_state("starting", "initializing", f"{self._check.path} answers {says}")
        elif found is Health.WELL and self._aside:
            self._aside = False
            if self.state == "starting":
                self.idle_since = self._services.clock.elapsed()
                self._record_state("running" if self.held else "idle", "ready", "ready again")
                self._owner.worker_back(self)

    # --- a host that is not heard ---------------------------------------------------------------

    def _away(self) -> bool:
        """Then it becomes unreachable."""
        why = self.site.away
        if not why:
            return False
        self.out.set()
        if self._stop is None and self.state != "unreachable":
            text = f"{why}; it may well run on there, and its meter goes on"
            self.given_up_at = self._services.clock.elapsed() + BLINK_S
            self._record_state("unreachable", "host_away", text)
        return True

    def returns(self) -> bool:
        """Its host is not heard, or was not; but it is expected to serve on in a moment."""
        if self.state != "unreachable":
            return False
        return self._services.clock.elapsed() < self.given_up_at or not self.site.away

    async def _until_heard(self) -> bool:
        """False where it is ending or has ended meanwhile, which others see to."""
        while self._stop is None:
            seen = await self._seen()
            if seen.state != "running":
                return False
            await self._reach()
            if not await self.site.look():
                self.out.clear()
                return True
            await asyncio.sleep(AWAY_S)
        return False

    async def _seen(self) -> Observed:
        """What it is, once its host is heard."""
        while True:
            try:
                return await self._host.observe(self.record.name)
            except AWAY as error:
                self.site.away = self.site.away or str(error.what).rstrip(".")
                self._away()
                await asyncio.sleep(AWAY_S)

    async def _secret(self) -> str | None:
        while True:
            try:
                return await self._host.read_secret(self.record.name, "key")
            except AWAY:
                await self._seen()

    async def _reach(self) -> None:
        """Know the ports where it is reached. They may be others after a link was made anew."""
        if self._link is not None or not self.record.port:
            return
        host, record, offset = self._host, self.record, self._check.port_offset
        while True:
            try:
                self._port = self._health_port = await host.reach(record.name, record.port)
                if offset:
                    self._health_port = await host.reach(record.name, record.port + offset)
                break
            except AWAY:
                await self._seen()
        if isinstance(self.serving, PushWorker):
            self.serving.moved(self._port)

    def _serve_on(self) -> bool:
        """Heard again. False: another one has its place, and it ends."""
        if not self._owner.has_room(self):
            self.end("replaced", "another took its place while its host was not heard", 0)
            return False
        self.idle_since = self._services.clock.elapsed()
        self._record_state("running" if self.held else "idle", "ready", "its host is heard again")
        self._owner.worker_back(self)
        return True

    def _awake(self) -> bool:
        """Not parked, and not about to be or to wake."""
        return self.state != "parked" and (self._parking is None or self._parking.done())

    async def check(self) -> bool:
        """Ask for its health now; a sick one is ended. True if it is well."""
        if await self._healthy(HEALTH_S):
            return True
        await self.site.look()
        if not self._away():
            self._sick("its engine failed")
        return False

    def _sick(self, text: str) -> None:
        self._record_state("unhealthy", "unhealthy", text)
        self.end("unhealthy", text, 0)

    async def _healthy(self, timeout_s: float) -> bool:
        return await self._health(timeout_s) is Health.WELL

    async def _health(self, timeout_s: float) -> Health:
        if self._link is not None:
            if isinstance(self.serving, PullWorker):
                well = self._services.clock.elapsed() - self.serving.seen < SILENT_S
            else:
                well = self._link.asked.is_set()
            return Health.WELL if well else Health.SILENT
        session, port = self._services.session, self._health_port
        return await health(session, port, timeout_s, self._check, self._key)

    async def _renew(self) -> None:
        while True:
            with contextlib.suppress(NbgpuError):
                await self._host.renew(self.record.name, LEASE_S)
            await asyncio.sleep(RENEW_S)

    # --- parking ------------------------------------------------------------------------------

    def park(self, text: str) -> None:
        """Stop its processes where they are, and its bill; the caller has withdrawn it."""
        self.serving = None
        self.parked_at = self._services.clock.elapsed()
        self._record_state("parked", "parked", text)
        self._parking = asyncio.create_task(self._step(self._pause()))

    def unpark(self) -> None:
        """Let a parked one go on. It serves once it answers; if it does not, it ends."""
        before, self._launched = self._parking, self._services.clock.elapsed()
        self.timer = PhaseTimer(())
        self.record.phases = None
        self._record_state("starting", "resumed", "waking a parked engine")
        self._parking = asyncio.create_task(self._step(self._wake(before)))

    async def _step(self, work: Any) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("worker %s", self.id)
            self._fall_back(str(error) or type(error).__name__)

    async def _pause(self) -> None:
        services = self._services
        try:
            if self.sleeps:
                if not await put_to_sleep(services.session, self._port, self._key):
                    self._fall_back("it could not be parked: it does not go to sleep")
                    return
            elif not await self._host.pause(self.record.name, OOM_PARKED):
                return  # it ends, and that is being noticed
        except NbgpuError as error:
            self._fall_back(f"it could not be parked: {error}")
            return
        self.site.memory.parked(self.id, True)
        await self._book.bill(self._parked_rate())
        await self._book.parked(self.reason.text)

    async def _wake(self, before: asyncio.Task[None] | None) -> None:
        services = self._services
        if before is not None:
            await asyncio.wait((before,))
        patience = SLEEPER_S if self.sleeps else WAKE_S
        try:
            async with asyncio.timeout(patience):
                going = await self._resume_process()
        except (NbgpuError, TimeoutError) as error:
            why = str(error) or f"nothing answered for {patience:.0f} s"
            self._fall_back(f"its parked engine could not be woken: {why}")
            return
        if not going or self._stop is not None:
            return
        self.site.memory.parked(self.id, False)
        await self._book.bill(self._rate)
        while not await self._healthy(WAKE_S):
            if self.age() > patience:
                self._fall_back(f"its parked engine did not wake within {patience:.0f} s")
                return
            await asyncio.sleep(WAKE_POLL_S)
        if self._stop is not None:
            return
        now, age = services.clock.now(), self.age()
        self.timer.end("resume", age)
        record = self.record
        record.ready_us, record.phases, record.tier = now, self.timer.done, "parked"
        self._serve(now)
        await self._book.ready(age, woken=True)

    async def _resume_process(self) -> bool:
        if self.sleeps:
            return await wake_up(self._services.session, self._port, self._key)
        return await self._host.resume(self.record.name, OOM_WORKER)

    def _parked_rate(self) -> Rate:
        """A GPU that it keeps is paid for."""
        return PARKED if self.record.gpu is None else self._rate

    def _fall_back(self, text: str) -> None:
        self.was_parked = True  # nobody has to wait until it is gone
        self._owner.worker_fell_back(self, text)
        self._sick(text)

    def rate_changed(self, old: Rate, new: Rate) -> None:
        """The rate card has changed; it is nothing to a worker whose offer has a price of its own."""
        if self._rate == old:
            self._rate = new
            if self.serving is not None:
                self.serving.rate = new.per_hour

    async def bury(self, ended: Exit) -> None:
        """Write down the end of one that ended while no backend was there."""
        await self._finish(ended)

    def forget_backend(self) -> None:
        """This backend goes; the process stays, under its lease."""
        for task in (self._life, self._parking):
            if task is not None:
                task.cancel()

    # --- end --------------------------------------------------------------------------------

    def end(self, code: str, text: str, grace_s: float | None = None) -> None:
        """Stop it: once what it holds is answered (None), else within `grace_s`. A later call can only
        make it sooner."""
        if self._stop is not None and (grace_s is None or grace_s >= self._grace_s):
            return
        if self._stop is None:
            self._stop = StopRequest(code, text)
        self._grace_s = FOREVER if grace_s is None else grace_s
        self.was_parked = self.was_parked or self.state == "parked"
        if self.state in ("idle", "running", "starting", "initializing", "parked", "unreachable"):
            self._record_state("draining", code, text)
        if isinstance(self.serving, PullWorker):
            self.serving.leave_queue()
        if self._stopping is not None:
            self._stopping.cancel()
        self._stopping = asyncio.create_task(self._drain(grace_s))

    async def _drain(self, grace_s: float | None) -> None:
        await self._there.wait()
        if grace_s is None:
            while self.held:
                await asyncio.sleep(POLL_S)
            # what never served has nothing to finish, and some engines hear no TERM while they start
            served = self.record.ready_us is not None
            grace_s = self._engine.drain_s if served else UNREADY_GRACE_S
        while True:
            try:
                await self._host.stop(self.record.name, grace_s)
                return
            except AWAY as error:  # it is ended once that can be said
                self.out.set()
                log.info("stop of %s: %s", self.record.name, error)
                await asyncio.sleep(AWAY_S)
            except NbgpuError as error:
                log.info("stop of %s: %s", self.record.name, error)
                return

    async def _finish(self, ended: Exit) -> None:
        record = self.record
        self._there.set()
        if self._stop is not None and self._stop.code == "unhealthy" and ended.reason == "exit":
            self._stop = None  # it had died by itself before it was found sick
        reason = self._stop
        if reason is None:
            ended = await self._with_log(ended)
        if self._link is not None:
            await self._link.bury()
        self.exit = ended
        record.ended_us = ended.ended_us
        record.exit = {
            "code": ended.code,
            "signal": ended.signal,
            "reason": reason.code if reason else ended.reason,
            "tail": list(ended.tail)[-TAIL_LINES:],
        }
        text = reason.text if reason else self._why(ended)
        wanted = reason is not None and reason.code not in ("unhealthy", "start_timeout")
        await self._book.ended(ended, text, wanted=wanted)
        self._record_state("stopped", record.exit["reason"], text)
        self.ended.set()
        self.out.set()
        self._owner.worker_ended(self, ended)

    def _why(self, ended: Exit) -> str:
        if self._link is not None and self._link.unhealthy is not None:
            return f"its own check {self._link.unhealthy}"
        return words(self._engine, ended)

    async def _with_log(self, ended: Exit) -> Exit:
        """With more of its log than the shim kept: a root cause may stand far above the last line."""
        with contextlib.suppress(NbgpuError):
            if lines := await self._host.logs(self.record.name, CAUSE_LINES):
                return replace(ended, tail=tuple(lines))
        return ended

    def stopped_on_purpose(self) -> bool:
        return self._stop is not None and self._stop.code not in ("unhealthy", "start_timeout")

    def _record_state(self, state: str, code: str, text: str) -> None:
        now = self._services.clock.now()
        self.state = state
        self.reason = Reason(code=code, text=text, since_us=now)
        at = now
        if code in ("launched", "adopted") and self.record.started_us:
            at = self.record.started_us
        if state == "stopped" and self.record.ended_us:
            at = self.record.ended_us
        self._services.recorder.worker_state(self.id, self.record.endpoint_id, at, state, code)
        self._owner.worker_changed(self)
