"""The backend's inside, composed: opens the stores, adopts what runs, keeps the books, closes down."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection, func, select

from nbgpu_backend.billing.costs import spent_between
from nbgpu_backend.billing.ledger import Ledger
from nbgpu_backend.billing.rates import Rate, load, store
from nbgpu_backend.clock import Clock
from nbgpu_backend.control.endpoint import COLD_STARTS, EndpointControl
from nbgpu_backend.control.endpoints import Endpoints
from nbgpu_backend.control.hosts import Hosts
from nbgpu_backend.control.keys import load as load_keys
from nbgpu_backend.control.keys import store_uses
from nbgpu_backend.control.memory import MEASURE_S, MemoryKeeper
from nbgpu_backend.control.offers import Offers
from nbgpu_backend.control.pod import PodControl
from nbgpu_backend.control.pods import Pods
from nbgpu_backend.control.records import EndpointRecord, InstanceRecord
from nbgpu_backend.control.relay_link import RelayLink
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.settings import load_lease, store_lease
from nbgpu_backend.control.sites import Site, Sites
from nbgpu_backend.domain.placement import LOCAL
from nbgpu_backend.engines import engine
from nbgpu_backend.errors import DiskError, NbgpuError, NotFound
from nbgpu_backend.home import Home
from nbgpu_backend.hub.fetcher import Fetcher
from nbgpu_backend.providers.base import Exit, Observed, WorkerHost
from nbgpu_backend.providers.ssh.link import Link
from nbgpu_backend.providers.ssh.provider import SshHost
from nbgpu_backend.schema.offers import OfferList
from nbgpu_backend.serving.board import JobBoard
from nbgpu_backend.serving.external import ExternalWorkers
from nbgpu_backend.serving.keys import Keyring
from nbgpu_backend.serving.upstream import session
from nbgpu_backend.serving.webhooks import Webhooks
from nbgpu_backend.serving.wire import Wire
from nbgpu_backend.store.database import open_database
from nbgpu_backend.store.jobs import JobStore
from nbgpu_backend.store.state import Draft, State, installation_id
from nbgpu_backend.store.tables import endpoints as endpoint_table
from nbgpu_backend.store.tables import instances, ledger, requests
from nbgpu_backend.telemetry.pulse import Pulse, recent_requests
from nbgpu_backend.telemetry.recorder import Recorder
from nbgpu_backend.telemetry.retention import prune

log = logging.getLogger(__name__)

ALIVE_S = 5.0  # how exact an estimated end is
LAG_S = 0.5
PRUNE_S, DROP_S = 3600.0, 60.0
USES_S = 30.0  # how exact the last use of a key is after a crash
ORPHAN_GRACE_S = 60.0
LATE_S = 90.0  # by then a launch of the backend before has come up, or never will
FENCE_S = 5.0  # between tries to end what cannot be ended
FLUSH_S = 0.25
STOP_ALL_GRACE_S = 10.0


class Core:
    def __init__(self, services: Services, files: Sequence[str]) -> None:
        """`files`: those of jobs, from before this backend."""
        self.services = services
        self.endpoints = Endpoints(services)
        self.pods = Pods(services, lambda name: self.endpoints.find(name) is not None)
        self.hosts = Hosts(services, self.pods, self.endpoints)
        self.endpoints.others = lambda name: self.pods.find(name) is not None
        self.orphans: dict[str, Observed] = {}
        self.streams: set[Callable[[], None]] = set()  # each ends one stream of events
        services.sites.on_change = self._place_changed
        self.started_us = services.clock.now()
        self.lag_ms = 0.0
        self._files = files
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, home: Home, clock: Clock, host: WorkerHost) -> Core:
        """Raises DiskError. Nothing is adopted yet: the server binds first, then calls `start`."""
        home.prepare()
        state = State(open_database(home.state_db, "state"))
        telemetry = open_database(home.telemetry_db, "telemetry", linger_s=FLUSH_S)
        book = Ledger()

        def read(connection: Connection) -> tuple[str, dict[str, Rate], Keyring, float]:
            Ledger.write_missed_ends(connection)
            book.load(connection)
            keys = load_keys(connection, clock)
            return installation_id(connection), load(connection), keys, load_lease(connection)

        installation, rates, keys, lease_s = await state.database.writer.write(read)
        memory = MemoryKeeper(host, clock)
        sites = Sites(clock, lambda name: SshHost(Link(home.hosts / name)))
        sites.set_local(host, memory)
        jobs, upstream = JobStore(state.database, home.jobs), session()
        files = await asyncio.to_thread(jobs.files)
        return cls(
            Services(
                home=home,
                installation=installation,
                clock=clock,
                state=state,
                telemetry=telemetry,
                recorder=Recorder(telemetry),
                pulse=Pulse(clock),
                ledger=book,
                provider=host,
                memory=memory,
                sites=sites,
                keys=keys,
                fetcher=Fetcher(home, clock),
                session=upstream,
                wire=Wire(),
                fresh_session=session(fresh=True),
                jobs=jobs,
                webhooks=Webhooks(jobs, upstream),
                externals=ExternalWorkers(clock),
                engine=lambda name: engine(name, home),
                rates=rates,
                lease_pod_s=lease_s,
            ),
            files,
        )

    async def start(self) -> None:
        """Load the endpoints, adopt their workers, begin the books."""
        await self._load_endpoints()
        await self._load_jobs()
        self.hosts.load()
        await self.pods.load()
        await self._adopt()
        self.pods.begin()
        await self._settle_orphaned_jobs()
        for work in (
            self._keep_alive(),
            self._measure_lag(),
            self._prune(),
            self._drop_results(),
            self._sweep_files(),
            self._look_late(),
            self._each_site(MEASURE_S, _measured),
            self.hosts.watch(),
            self._store_uses(),
        ):
            self._tasks.append(asyncio.create_task(_forever(work)))
        for control in self.endpoints.all():
            if not control.record.stopped:
                control.stock.start()
            control.go()

    def hang_up(self) -> None:
        """The end is near: launch nothing more, end the event streams."""
        for control in self.endpoints.all():
            control.launch_no_more()
        for end_stream in list(self.streams):  # or they would hold up the end of the server
            end_stream()

    async def close(self, *, everything: bool) -> None:
        """End this backend; with `everything`, all that it runs first."""
        for task in self._tasks:
            task.cancel()
        if everything:
            work = [
                c.stop_workers("shutdown", "everything was shut down", STOP_ALL_GRACE_S)
                for c in self.endpoints.all()
            ]
            await asyncio.gather(*work, self.pods.stop_all("shutdown", "everything was shut down"))
            await self._find_late()
            for name in list(self.orphans):
                await self._end_orphan(name)
            for site in self.services.sites.all():
                with contextlib.suppress(NbgpuError):
                    for parent in await site.host.parents():
                        await site.host.stop_parent(parent.key)
            await self.hosts.hang_up()
        for control in self.endpoints.all():
            await control.close()
        await self.pods.close()
        self.services.webhooks.close()
        self.services.externals.close()
        self.services.wire.close()
        await self.services.session.close()
        with contextlib.suppress(DiskError):
            await store_uses(self.services.keys, self.services.state)
        await self.services.fresh_session.close()
        await asyncio.to_thread(self._close_stores)

    def _close_stores(self) -> None:
        self.services.state.database.close()
        self.services.telemetry.close()

    # --- what the API asks ----------------------------------------------------------------------

    async def spent_today(self) -> Decimal:
        """Dollars since midnight of this machine's time zone."""
        now = self.services.clock.now()
        midnight = datetime.fromtimestamp(now / 1e6).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        since = int(midnight.timestamp() * 1_000_000)
        return await spent_between(self.services.state.database, since, now)

    async def set_rate(self, place: str, rate: Rate) -> None:
        """From now on; open intervals are split here."""
        services, now = self.services, self.services.clock.now()
        old = services.rate(place)
        accounts = [a for a in services.ledger.accounts.values() if a.rate == old]

        def change(connection: Connection) -> None:
            store(connection, place, rate, now)
            Ledger.write_rate(connection, accounts, rate, now)

        text = f"The rate of {place} is ${rate.per_hour:f} an hour now ({rate.source})"
        await services.state.commit(change, Draft(now, "settings.changed", text))
        services.rates[place] = rate
        services.ledger.rate_changed(accounts, rate, now)
        for control in self.endpoints.all():
            for worker in control.live_workers():
                worker.rate_changed(old, rate)
        for pod in self.pods.all():
            pod.renew_soon()  # what its `max_cost` comes to has changed

    async def set_lease(self, seconds: float) -> None:
        """How long a pod that nobody uses outlives the backend; told to those that run at once."""
        services, now = self.services, self.services.clock.now()
        text = f"The lease of pods is {seconds:g} s now"
        await services.state.commit(
            lambda c: store_lease(c, seconds, now), Draft(now, "settings.changed", text)
        )
        services.lease_pod_s = seconds
        for pod in self.pods.all():
            pod.renew_soon()

    async def offers(self) -> OfferList:
        return await Offers(self.services, self.hosts).listing()

    async def pod_lines(self, control: PodControl, count: int) -> list[str]:
        """The last lines of its log, also of one that has ended."""
        if control.instance is not None:
            with contextlib.suppress(NbgpuError):
                return await control.site.host.logs(control.instance.name, count)
        return list(control.tail)[-count:]

    async def pod_log(self, control: PodControl, tail: int) -> AsyncGenerator[list[str], None]:
        """The last lines of its log, then what is added, until it ends."""
        if control.instance is not None:
            log = control.site.host.follow(control.instance.name, tail)
            with contextlib.suppress(NotFound):  # it ended just now
                async with contextlib.aclosing(log) as parts:
                    async for lines in parts:
                        yield lines
                return
        if lines := list(control.tail)[-tail:]:
            yield lines

    async def stop_all(self) -> list[str]:
        """The panic button: every pod and every endpoint. Names of those that ran."""
        open_now = [control for control in self.endpoints.all() if not control.record.stopped]
        stopping = asyncio.gather(*(self.endpoints.stop(control) for control in open_now))
        try:
            pods = await self.pods.stop_all("stopped", "everything was stopped by you")
        finally:
            await stopping
        return [*pods, *(control.name for control in open_now)]

    # --- beginnings -----------------------------------------------------------------------------

    async def _load_endpoints(self) -> None:
        services = self.services
        query = select(endpoint_table).where(endpoint_table.c.deleted_us.is_(None))
        for row in await services.state.rows(query.order_by(endpoint_table.c.created_us)):
            row.pop("deleted_us")
            record = EndpointRecord.load(row)
            control = EndpointControl(
                services, record, services.engine(record.spec.nbgpu.engine.name)
            )
            history = select(instances).where(instances.c.endpoint_id == record.id)
            past = await services.state.rows(history.order_by(instances.c.intent_us))
            control.launcher.generation = max((r["generation"] for r in past), default=0)
            control.cold_starts = [
                (r["tier"], sum(seconds for _, seconds in r["phases"]))
                for r in past
                if r["ready_us"] and r["phases"]
            ][-COLD_STARTS:]
            control.requests_total = await services.telemetry.read(
                lambda c, i=record.id: int(  # type: ignore[misc]
                    c.execute(select(func.count()).where(requests.c.endpoint_id == i)).scalar_one()
                )
            )
            control.hold()  # queued jobs would start workers beside those that are adopted
            self.endpoints.add(control)
        services.pulse.load(await recent_requests(services.telemetry, services.clock.now()))

    async def _load_jobs(self) -> None:
        jobs = self.services.jobs
        counts = await jobs.counts()
        for control in self.endpoints.all():
            control.board.counts.update(counts.get(control.id, {}))
        for row in await jobs.live():
            if (owner := self.endpoints.by_id(row["endpoint_id"])) is not None:
                owner.board.restore(row, pulls=owner.pulls)
        for row in await jobs.untold():
            if (owner := self.endpoints.by_id(row["endpoint_id"])) is not None:
                owner.board.tell(row["id"])

    async def _settle_orphaned_jobs(self) -> None:
        """Jobs of workers whose end was written down before, go to others once that is true; those of
        workers that nobody here started have some time to be heard of again."""
        for control in self.endpoints.all():
            board, live = control.board, {w.id for w in control.live_workers()}
            strange = {j.worker for j in board.live.values() if j.worker} - live
            columns = (instances.c.id, instances.c.name, instances.c.provider)
            ours = await self.services.state.rows(select(*columns).where(columns[0].in_(strange)))
            for row in ours:
                work = self._fence(board, row["id"], row["name"], row["provider"])
                self._tasks.append(asyncio.create_task(_forever(work)))
            for worker_id in strange - {row["id"] for row in ours}:
                self.services.externals.meet(board, worker_id)

    async def _fence(self, board: JobBoard, worker_id: str, name: str, place: str) -> None:
        """Its jobs are others' once no process of it is left and what it had posted is stored."""
        provider = (self.services.sites.find(place) or self.services.sites.add(place)).host
        while True:
            try:
                if (await provider.observe(name)).state == "running":
                    log.warning("%s runs, though its end was written down: it is ended", name)
                    await provider.stop(name, 0)
                break
            except NotFound:
                break
            except NbgpuError as error:
                log.error("jobs of %s wait: %s", name, error)
                await asyncio.sleep(FENCE_S)
        await RelayLink(provider, name, worker_id, board).bury()
        board.gone(worker_id, "its worker ended while no backend was there")
        if name in self.orphans:
            await self._end_orphan(name)

    async def _adopt(self) -> None:
        """Match what the provider finds with what the store knows."""
        services = self.services
        found = {
            seen.name: seen for seen in await services.provider.list_owned(services.installation)
        }
        open_rows = select(instances).where(instances.c.ended_us.is_(None))
        for row in await services.state.rows(open_rows):
            record = InstanceRecord.load(row)
            control = self.endpoints.by_id(record.endpoint_id)
            if record.provider != LOCAL:
                # whether its host is heard or not: what is true there is found out by and by
                there = Observed(name=record.name, state="running", pid=record.pid)
                if control is not None:
                    control.launcher.adopt(record, there)
                else:
                    await self.pods.adopt(record, there, await self._lost(record))
                continue
            seen = found.pop(record.name, None) or Observed(name=record.name, state="gone")
            if control is None:
                if not await self.pods.adopt(record, seen, seen.exit or await self._lost(record)):
                    found[record.name] = seen  # its owner was deleted
                continue
            if seen.state == "running":
                control.launcher.adopt(record, seen)
            else:
                await control.launcher.bury(record, seen.exit or await self._lost(record))
        for name, seen in found.items():
            if seen.state == "running":
                self._disown(seen)
            else:
                with contextlib.suppress(NbgpuError):
                    await services.provider.forget(name)

    def _disown(self, seen: Observed) -> None:
        self.orphans[seen.name] = seen
        log.warning(
            "%s runs and belongs to nothing: it is ended in %g s", seen.name, ORPHAN_GRACE_S
        )
        self._tasks.append(asyncio.create_task(self._orphan_later(seen.name)))

    async def _find_late(self) -> None:
        """What came up after this backend had looked: its launch outlived the backend that began it."""
        services = self.services
        for seen in await services.provider.list_owned(services.installation):
            known = {w.record.name for c in self.endpoints.all() for w in c.workers.values()}
            known |= {p.instance.name for p in self.pods.all() if p.instance is not None}
            if seen.state == "running" and seen.name not in known | self.orphans.keys():
                self._disown(seen)

    async def _look_late(self) -> None:
        await asyncio.sleep(LATE_S)
        await self._find_late()

    async def _lost(self, record: InstanceRecord) -> Exit:
        """An end that nothing recorded: the last moment at which it was known to live."""
        query = select(func.max(ledger.c.alive_until_us)).where(ledger.c.instance_id == record.id)
        last = await self.services.state.database.read(lambda c: c.execute(query).scalar())
        return Exit(None, None, "lost", last or record.started_us or record.intent_us, (), True)

    async def _orphan_later(self, name: str) -> None:
        await asyncio.sleep(ORPHAN_GRACE_S)
        await self._end_orphan(name)

    async def _end_orphan(self, name: str) -> None:
        with contextlib.suppress(NbgpuError):
            await self.services.provider.stop(name, STOP_ALL_GRACE_S)
            await self.services.provider.forget(name)
        self.orphans.pop(name, None)

    # --- the books --------------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            open_now = list(self.services.ledger.accounts)
            if open_now:
                now = self.services.clock.now()
                await self.services.state.commit(
                    lambda c, o=open_now, n=now: Ledger.write_alive(c, o, n)  # type: ignore[misc]
                )

    async def _measure_lag(self) -> None:
        """The worst lag of the last minute: how late the event loop came to a timer."""
        clock, recent = self.services.clock, [0.0] * int(60 / LAG_S)
        while True:
            due = clock.elapsed() + LAG_S
            await asyncio.sleep(LAG_S)
            recent = [*recent[1:], max(0.0, (clock.elapsed() - due) * 1000)]
            self.lag_ms = round(max(recent), 2)

    async def _each_site(self, every_s: float, work: Callable[[Site], Awaitable[None]]) -> None:
        under_way: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for site in self.services.sites.all():
                    last = under_way.get(site.name)
                    if last is None or last.done():  # a host that is not heard holds up no other
                        under_way[site.name] = asyncio.create_task(_forever(work(site)))
                await asyncio.sleep(every_s)
        finally:
            for task in under_way.values():
                task.cancel()

    def _place_changed(self, site: Site) -> None:
        """It is heard again, or no longer: workers may start, or have to start elsewhere."""
        for control in self.endpoints.all():
            if not site.away:
                control.launcher.heard(site.name)
            control.wake()

    async def _prune(self) -> None:
        while True:
            now = self.services.clock.now()
            await self.services.telemetry.writer.write(lambda c, n=now: prune(c, n))  # type: ignore[misc]
            await asyncio.sleep(PRUNE_S)

    async def _drop_results(self) -> None:
        while True:
            with contextlib.suppress(DiskError):  # a full disk ends no clean-up
                await self.services.jobs.drop(self.services.clock.now())
            await asyncio.sleep(DROP_S)

    async def _store_uses(self) -> None:
        while True:
            await asyncio.sleep(USES_S)
            with contextlib.suppress(DiskError):  # it is told by whatever else is stored
                await store_uses(self.services.keys, self.services.state)

    async def _sweep_files(self) -> None:
        files, self._files = self._files, ()
        swept = await self.services.jobs.sweep(files)
        if swept:
            log.info("%d files of jobs that were never submitted are removed", swept)


async def _measured(site: Site) -> None:
    with contextlib.suppress(OSError):  # the folder of a host that was removed meanwhile
        await site.memory.measure()


async def _forever(work: Awaitable[None]) -> None:
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("a background task ended")
