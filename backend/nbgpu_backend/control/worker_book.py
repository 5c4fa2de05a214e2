"""What is written down of one worker: its row, its bill and its events, a transaction for each step."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, insert, update

from nbgpu_backend.billing.ledger import Ledger
from nbgpu_backend.billing.rates import Rate
from nbgpu_backend.control.records import InstanceRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.domain.placement import LOCAL, Skip
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.providers.base import Exit, WorkerHost
from nbgpu_backend.store.state import Draft
from nbgpu_backend.store.tables import instances

log = logging.getLogger(__name__)


class WorkerBook:
    """`endpoint` gives the name of the worker's endpoint."""

    def __init__(
        self,
        services: Services,
        host: WorkerHost,
        record: InstanceRecord,
        endpoint: Callable[[], str],
    ) -> None:
        self._services = services
        self._host = host
        self._record = record
        self._endpoint = endpoint

    async def intent(self, skipped: Sequence[Skip]) -> None:
        """Before the launch: from now on a row names whatever comes of it."""
        record = self._record
        row, text = record.row(), f"Launching a worker for {self._endpoint()}"
        if record.gpu is not None:
            text += f" on {record.gpu}" + (f" x {record.gpu_count}" if record.gpu_count > 1 else "")
        if record.provider != LOCAL:
            text += f" at {record.provider}"
        if skipped:
            text += f" ({'; '.join(f'{skip.what}: {skip.text}' for skip in skipped)})"
        values = [{"what": s.what, "code": s.code, "text": s.text} for s in skipped]

        def change(connection: Connection) -> None:
            connection.execute(insert(instances).values(**row))

        draft = self._draft("worker.launching", text, gpu=record.gpu, skipped=values)
        await self._services.state.commit(change, draft)

    async def opened(self, rate: Rate) -> None:
        """The launch and the beginning of its bill, in one transaction."""
        record, ledger = self._record, self._services.ledger
        started_us = record.started_us or record.intent_us
        values = {
            "pid": record.pid,
            "port": record.port,
            "started_us": started_us,
            "tier": record.tier,
        }

        def change(connection: Connection) -> None:
            _update(connection, record.id, values)
            Ledger.write_open(connection, record.id, record.endpoint_id, rate, started_us)

        await self._services.state.commit(change)
        ledger.opened(record.id, record.endpoint_id, rate, started_us)

    async def bill(self, rate: Rate) -> None:
        """From now on at this rate."""
        services = self._services
        account = services.ledger.accounts.get(self._record.id)
        if account is None or account.rate == rate:
            return
        now = services.clock.now()
        await services.state.commit(lambda c: Ledger.write_rate(c, [account], rate, now))
        services.ledger.rate_changed([account], rate, now)

    async def ready(self, seconds: float, *, woken: bool = False) -> None:
        """It serves already, and does so whether this can be stored or not."""
        record = self._record
        how = f"awake after {seconds:.2f} s" if woken else f"ready after {seconds:.1f} s"
        text = f"A worker of {self._endpoint()} is {how}"
        values = {"ready_us": record.ready_us, "phases": record.phases, "tier": record.tier}
        draft = self._draft("worker.ready", text, seconds=round(seconds, 3), tier=record.tier)
        try:
            await self._services.state.commit(lambda c: _update(c, record.id, values), draft)
        except NbgpuError as error:
            log.error("%s, which could not be stored: %s", text, error)

    async def parked(self, why: str) -> None:
        text = f"A worker of {self._endpoint()} is parked: {why}"
        with contextlib.suppress(NbgpuError):
            await self._services.state.commit(None, self._draft("worker.parked", text))

    async def ended(self, ended: Exit, text: str, *, wanted: bool) -> None:
        """`record.exit` says how; the bill ends with it."""
        services, record = self._services, self._record
        account = services.ledger.accounts.get(record.id)
        cost = account.amount(ended.ended_us) if account else Decimal(0)
        values = {"ended_us": ended.ended_us, "exit": record.exit}

        def change(connection: Connection) -> None:
            _update(connection, record.id, values)
            Ledger.write_close(connection, record.id, ended.ended_us, estimated=ended.estimated)

        draft = self._draft(
            "worker.stopped" if wanted else "worker.died",
            f"A worker of {self._endpoint()} {'has ended' if wanted else 'failed'}: {text}",
            code=ended.code,
            signal=ended.signal,
            reason=(record.exit or {}).get("reason"),
            cost=str(cost),
        )
        try:
            await services.state.commit(change, draft)
            services.ledger.closed(record.id, ended.ended_us)
            with contextlib.suppress(NbgpuError):
                await self._host.forget(record.name)
        except NbgpuError as error:
            # the folder stays, so that the next backend finds the end and writes it down
            log.error("the end of %s could not be stored: %s", record.name, error)

    def _draft(self, kind: str, text: str, **values: Any) -> Draft:
        record = self._record
        return Draft(
            at_us=self._services.clock.now(),
            kind=kind,
            text=text,
            endpoint_id=record.endpoint_id,
            endpoint=self._endpoint(),
            worker_id=record.id,
            values={"generation": record.generation, **values},
        )


def _update(connection: Connection, instance_id: str, values: dict[str, Any]) -> None:
    connection.execute(update(instances).where(instances.c.id == instance_id).values(**values))
