"""What is written down of one pod: its row, its instances, its bill and its events, a transaction for each
step."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from sqlalchemy import Connection, insert, update

from nbgpu_backend.billing.ledger import Ledger
from nbgpu_backend.billing.rates import Rate
from nbgpu_backend.control.pod_records import PodRecord
from nbgpu_backend.control.records import InstanceRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.providers.base import Exit, InstanceHost
from nbgpu_backend.store.state import Draft
from nbgpu_backend.store.tables import instances, pods

log = logging.getLogger(__name__)


class PodBook:
    def __init__(self, services: Services, host: InstanceHost, record: PodRecord) -> None:
        self._services = services
        self._host = host
        self._record = record

    async def save(self, kind: str | None, text: str = "", **values: Any) -> None:
        """The row as it is now, and an event where `kind` names one. Raises DiskError."""
        drafts = [self.draft(kind, text, **values)] if kind else []
        await self._services.state.commit(lambda c: _update(c, self._record), *drafts)

    async def tell(self, kind: str, text: str, **values: Any) -> None:
        """An event alone; a full disk keeps nothing from going on."""
        with contextlib.suppress(NbgpuError):
            await self._services.state.commit(None, self.draft(kind, text, **values))

    async def intent(self, instance: InstanceRecord) -> None:
        """Before the launch: from now on a row names whatever comes of it."""
        row = instance.row()

        def change(connection: Connection) -> None:
            _update(connection, self._record)
            connection.execute(insert(instances).values(**row))

        await self._services.state.commit(change)

    async def opened(self, instance: InstanceRecord, rate: Rate) -> None:
        """The launch and the beginning of its bill."""
        ledger, started = self._services.ledger, instance.started_us or instance.intent_us
        values = {"pid": instance.pid, "started_us": started}

        def change(connection: Connection) -> None:
            _instance(connection, instance.id, values)
            Ledger.write_open(connection, instance.id, self._record.id, rate, started)

        await self._services.state.commit(change)
        ledger.opened(instance.id, self._record.id, rate, started)

    async def ready(self, instance: InstanceRecord, text: str, seconds: float) -> None:
        values = {"ready_us": instance.ready_us, "phases": instance.phases}
        draft = self.draft("pod.ready", text, seconds=round(seconds, 3))
        with contextlib.suppress(NbgpuError):
            await self._services.state.commit(lambda c: _instance(c, instance.id, values), draft)

    async def ended(self, instance: InstanceRecord, ended: Exit, kind: str, text: str) -> None:
        """Its end, that of its bill, and why, together. Where that cannot be stored its folder stays, so that
        the next backend finds the end."""
        services = self._services
        account = services.ledger.accounts.get(instance.id)
        cost = plain(account.amount(ended.ended_us)) if account else "0"
        values = {"ended_us": ended.ended_us, "exit": instance.exit}

        def change(connection: Connection) -> None:
            _update(connection, self._record)
            _instance(connection, instance.id, values)
            Ledger.write_close(connection, instance.id, ended.ended_us, estimated=ended.estimated)

        try:
            await services.state.commit(change, self.draft(kind, text, cost=cost))
            services.ledger.closed(instance.id, ended.ended_us)
            await self._host.forget(instance.name)
        except NbgpuError as error:
            log.error("the end of %s could not be written down: %s", instance.name, error)

    def draft(self, kind: str, text: str, **values: Any) -> Draft:
        record = self._record
        return Draft(self._services.clock.now(), kind, text, record.id, record.name, values=values)


def _update(connection: Connection, record: PodRecord) -> None:
    connection.execute(update(pods).where(pods.c.id == record.id).values(**record.row()))


def _instance(connection: Connection, instance_id: str, values: dict[str, Any]) -> None:
    connection.execute(update(instances).where(instances.c.id == instance_id).values(**values))
