"""The directory of endpoints, and the verbs on it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pydantic import BaseModel
from sqlalchemy import Connection, insert, update

from nbgpu_backend.control.endpoint import EndpointControl
from nbgpu_backend.control.preparation import Prepared, prepare
from nbgpu_backend.control.records import EndpointRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.sink import RecordSink
from nbgpu_backend.control.views import camel
from nbgpu_backend.control.wording import span
from nbgpu_backend.domain.names import did_you_mean
from nbgpu_backend.errors import BadRequest, Conflict, NotFound, Unavailable
from nbgpu_backend.schema.endpoints import Change, CreateEndpoint, UpdateEndpoint
from nbgpu_backend.serving.target import Target
from nbgpu_backend.store.state import Draft
from nbgpu_backend.store.tables import endpoints, keys

M = TypeVar("M", bound=BaseModel)

STOP_GRACE_S = 10.0
# what a worker must be started anew for
ROLLING = ("model", "engine", "place", "env")


class Endpoints:
    """Implements serving.target.Directory."""

    def __init__(self, services: Services) -> None:
        self.others: Callable[[str], bool] = lambda name: False  # is it the name of something else?
        self.sink = RecordSink(self.by_id, services.recorder, services.pulse, services.tallies)
        self._services = services
        self._by_id: dict[str, EndpointControl] = {}
        self._by_name: dict[str, EndpointControl] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- looking up -----------------------------------------------------------------------------

    def find(self, name_or_id: str) -> Target | None:
        return self._by_name.get(name_or_id) or self._by_id.get(name_or_id)

    def get(self, name_or_id: str) -> EndpointControl:
        found = self._by_name.get(name_or_id) or self._by_id.get(name_or_id)
        if found is None:
            hint = did_you_mean(name_or_id, self._by_name)
            raise NotFound(
                f"There is no endpoint '{name_or_id}'.",
                hint or "See what there is with: nbgpu ls",
                code="endpoint_not_found",
            )
        return found

    def names(self) -> list[str]:
        return list(self._by_name)

    def targets(self) -> list[Target]:
        return list(self.all())

    def all(self) -> list[EndpointControl]:
        return list(self._by_id.values())

    def by_id(self, endpoint_id: str) -> EndpointControl | None:
        return self._by_id.get(endpoint_id)

    def add(self, control: EndpointControl) -> None:
        control.board.sink = self.sink
        control.board.holders = self._services.keys
        self._by_id[control.id] = control
        self._by_name[control.name] = control

    # --- verbs ----------------------------------------------------------------------------------

    async def deploy(self, spec: CreateEndpoint) -> tuple[EndpointControl, str, list[Change]]:
        """Create; with `converge`, attach to the endpoint of this name or change it.

        Returns (endpoint, created | attached | changed, changes). Raises Conflict and what
        `preparation.prepare` raises; nothing is stored then.
        """
        async with self._locks.setdefault(spec.name, asyncio.Lock()):
            return await self._deploy(spec)

    async def _deploy(self, spec: CreateEndpoint) -> tuple[EndpointControl, str, list[Change]]:
        existing = self._by_name.get(spec.name)
        if existing is None:
            if self.others(spec.name):
                raise Conflict(
                    f"'{spec.name}' is a pod.", "Choose another --name.", code="name_taken"
                )
            prepared = await prepare(spec, self._services)
            return await self._create(spec, prepared), "created", []
        if not spec.nbgpu.converge:
            raise Conflict(
                f"The name '{spec.name}' is taken.",
                "Choose another name, or change that endpoint with PATCH.",
                code="name_taken",
            )
        if existing.record.spec.type != spec.type:
            raise Conflict(
                f"'{spec.name}' is of type {existing.record.spec.type}, and that cannot be changed.",
                f"Choose another --name, or first: nbgpu delete {spec.name}",
                code="type_differs",
            )
        self._check_owner(existing, spec)
        prepared = await prepare(spec, self._services)
        return await self._converge(existing, spec, prepared)

    async def _create(self, spec: CreateEndpoint, prepared: Prepared) -> EndpointControl:
        services = self._services
        now = services.clock.now()
        record = EndpointRecord(
            id="ep-" + secrets.token_hex(6),
            name=spec.name,
            spec=_stored(spec),
            model=prepared.model,
            version=1,
            stopped=False,
            failure=None,
            created_us=now,
        )
        row = record.row()

        def change(connection: Connection) -> None:
            connection.execute(insert(endpoints).values(**row))

        text = f"{spec.name} was deployed: {prepared.model.ref or 'a command'} on {spec.nbgpu.place.on}"
        draft = Draft(now, "endpoint.created", text, record.id, spec.name)
        await services.state.commit(change, draft)
        control = EndpointControl(services, record, prepared.engine)
        self.add(control)
        self._begin(control, prepared)
        return control

    async def _converge(
        self, control: EndpointControl, spec: CreateEndpoint, prepared: Prepared
    ) -> tuple[EndpointControl, str, list[Change]]:
        record = control.record
        wanted = _stored(spec)
        wanted.nbgpu.origin = record.spec.nbgpu.origin if not spec.nbgpu.take else spec.nbgpu.origin
        changes = differences(record.spec, wanted)
        if (
            prepared.model.revision != record.model.revision
            and prepared.model.ref == record.model.ref
        ):
            changes.append(Change(field="revision", old=record.model.revision, new=prepared.model.revision))  # fmt: skip
        if record.stopped:
            changes.append(Change(field="stopped", old=True, new=False))
        here = record.model.fetched and prepared.model.fetched  # or it was deleted since
        if not changes and record.failure is None and here:
            return control, "attached", []
        if any(change.field in (*ROLLING, "revision") for change in changes):
            record.version += 1
        record.spec, record.stopped, record.failure = wanted, False, None
        # one that is on its way as it is wanted is left alone
        if prepared.model != record.model:
            record.model = prepared.model
            await control.stock.replace()
        elif any(change.field == "place" for change in changes):
            await control.stock.replace()
        control.use(prepared.engine)
        if changes:
            words = ", ".join(f"{c.field}: {c.old} -> {c.new}" for c in changes)
            await control.save("endpoint.changed", f"{control.name} was changed: {words}")
        else:
            await control.save(None)
        self._begin(control, prepared)
        return control, "changed" if changes else "attached", changes

    def _begin(self, control: EndpointControl, prepared: Prepared) -> None:
        control.stock.start(prepared.plan)
        control.wake()

    def _check_owner(self, existing: EndpointControl, spec: CreateEndpoint) -> None:
        mine, theirs = spec.nbgpu.origin.notebook, existing.record.spec.nbgpu.origin.notebook
        wanted = _stored(spec)
        wanted.nbgpu.origin = existing.record.spec.nbgpu.origin
        if spec.nbgpu.take or theirs is None or mine == theirs:
            return
        if changes := differences(existing.record.spec, wanted):
            raise Conflict(
                f"'{spec.name}' was made by {theirs}, and this would change its "
                f"{', '.join(c.field for c in changes)}.",
                "Choose another --name, or take it over with --take.",
                code="not_yours",
                changes=[c.wire() for c in changes],
            )

    async def change(self, control: EndpointControl, update_: UpdateEndpoint) -> list[Change]:
        """PATCH: what is left out stays."""
        spec = control.record.spec.model_copy(deep=True)
        for field in ("scaling", "env", "timeout"):
            if (value := getattr(update_, field)) is not None:
                setattr(spec, field, value)
        for field in ("engine", "place", "tags"):
            if (value := getattr(update_.nbgpu, field)) is not None:
                setattr(spec.nbgpu, field, value)
        spec.workers = _merged(spec.workers, update_.workers)
        spec.nbgpu.policy = _merged(spec.nbgpu.policy, update_.nbgpu.policy)
        spec.nbgpu.converge = spec.nbgpu.take = True
        if control.record.model.source != "handler":
            spec.nbgpu.cwd = None
        if control.record.model.source == "directory":
            spec.nbgpu.model = control.record.model.path
        stopped = control.record.stopped
        _, _, changes = await self.deploy(spec)
        if stopped:
            await self.stop(control)
        return changes

    async def stop(self, control: EndpointControl) -> None:
        """Refuse requests, end the workers; returns when none is left."""
        if not control.record.stopped:
            control.record.stopped = True
            await control.save("endpoint.stopped", f"{control.name} was stopped")
        refusal = control.refusal()
        assert refusal is not None
        control.queue.fail_waiting(refusal)
        await control.stop_workers("stopped", "its endpoint was stopped", STOP_GRACE_S)

    async def start(self, control: EndpointControl) -> None:
        """Admit requests again, also after a failure."""
        if control.record.stopped or control.record.failure is not None:
            control.record.stopped, control.record.failure = False, None
            await control.save("endpoint.started", f"{control.name} takes requests again")
        control.last_failure = None
        control.launcher.forgive()
        control.stock.start()
        control.wake()

    async def warm(self, control: EndpointControl, seconds: int, workers: int) -> None:
        """Keep so many workers up for a while, asked or not; 0 seconds end that. Raises Conflict."""
        if seconds and (refusal := control.refusal()) is not None:
            raise refusal
        most = control.record.spec.workers.max
        if seconds and workers > most:
            raise BadRequest(
                f"'{control.name}' may have at most {most} workers, not {workers}.",
                f"Allow more first: nbgpu scale {control.name} --workers {workers}",
            )
        until = self._services.clock.now() + seconds * 1_000_000
        control.record.warm = {"until_us": until, "workers": workers} if seconds else None
        if seconds:
            count = "a worker" if workers == 1 else f"{workers} workers"
            text = f"{control.name} keeps {count} up for {span(seconds)}"
            await control.save("endpoint.warmed", text, seconds=seconds, workers=workers)
        else:
            await control.save("endpoint.cooled", f"{control.name} is no longer kept warm")
        control.wake()

    async def delete(self, control: EndpointControl) -> None:
        """End its workers and forget it. Its records and its ledger rows stay."""
        async with self._locks.setdefault(control.name, asyncio.Lock()):
            await self._delete(control)

    async def _delete(self, control: EndpointControl) -> None:
        control.record.stopped = True
        await control.board.cancel_all()
        control.queue.fail_waiting(
            Unavailable(f"The endpoint '{control.name}' was deleted.", "", code="endpoint_deleted")
        )
        await control.stop_workers("deleted", "its endpoint was deleted", STOP_GRACE_S)
        if away := control.out_of_reach():
            places = ", ".join(sorted({worker.site.name for worker in away}))
            raise Unavailable(
                f"'{control.name}' cannot be deleted yet: {places} is not heard, and a worker may run there.",
                "It is ended when its host is heard again; delete the endpoint then.",
                code="host_away",
            )
        await control.close()
        now = self._services.clock.now()

        def change(connection: Connection) -> None:
            row: dict[str, Any] = {"deleted_us": now, "stopped": 1}
            connection.execute(update(endpoints).where(endpoints.c.id == control.id).values(**row))
            connection.execute(
                update(keys)
                .where(keys.c.endpoint_id == control.id, keys.c.revoked_us.is_(None))
                .values(revoked_us=now)
            )

        draft = Draft(
            now, "endpoint.deleted", f"{control.name} was deleted", control.id, control.name
        )
        await self._services.state.commit(change, draft)
        self._by_id.pop(control.id, None)
        self._services.keys.remove_of(control.id)
        self._services.pulse.forget(control.id)
        self._services.tallies.forget(control.id)
        if self._by_name.get(control.name) is control:
            del self._by_name[control.name]


def _merged(old: M, new: M | None) -> M:
    """The old one with what the new one names."""
    if new is None:
        return old
    return old.model_copy(update={name: getattr(new, name) for name in new.model_fields_set})


def _stored(spec: CreateEndpoint) -> CreateEndpoint:
    """The spec as it is kept: without what only said how to apply it."""
    kept = spec.model_copy(deep=True)
    kept.nbgpu.converge = kept.nbgpu.take = False
    return kept


def differences(old: CreateEndpoint, new: CreateEndpoint) -> list[Change]:
    """Settings that differ, by their names on the wire."""
    changes = []
    for field in ("workers", "scaling", "timeout", "env"):
        changes += _difference(field, getattr(old, field), getattr(new, field))
    for field in ("model", "engine", "place", "policy", "tags"):
        changes += _difference(field, getattr(old.nbgpu, field), getattr(new.nbgpu, field))
    return changes


def _difference(field: str, old: Any, new: Any) -> list[Change]:
    before, after = (v.wire() if hasattr(v, "wire") else v for v in (old, new))
    if before == after:
        return []
    if field in ("workers", "policy") and isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in after if before.get(key) != after[key]]
        return [Change(field=f"{field}.{key}", old=before.get(key), new=after[key]) for key in keys]
    return [Change(field=camel(field), old=before, new=after)]
