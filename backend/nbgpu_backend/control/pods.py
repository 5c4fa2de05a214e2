"""The directory of pods, and the verbs on it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy import Connection, func, insert, select, update

from nbgpu_backend.control.kernelspecs import KernelSpecs
from nbgpu_backend.control.pod import PodControl
from nbgpu_backend.control.pod_records import PodRecord
from nbgpu_backend.control.records import InstanceRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.views import camel
from nbgpu_backend.control.volumes import Volumes
from nbgpu_backend.control.wording import span
from nbgpu_backend.domain import gpus as cards
from nbgpu_backend.domain.names import complaint, did_you_mean
from nbgpu_backend.domain.placement import LOCAL, Wanted, choose, gpu_list
from nbgpu_backend.errors import BadRequest, Conflict, NbgpuError, NotFound, Unavailable
from nbgpu_backend.providers.base import Exit, Observed
from nbgpu_backend.providers.containers import NAME as IMAGE
from nbgpu_backend.providers.local.pod_environment import check
from nbgpu_backend.schema.endpoints import Change
from nbgpu_backend.schema.pods import WORKSPACE, CreatePod, CreateVolume, UpdatePod
from nbgpu_backend.store.secrets import Secrets, unknown
from nbgpu_backend.store.state import Draft
from nbgpu_backend.store.tables import instances, pods

# what can be changed while it runs; the rest holds from its next start
LIVE_FIELDS = ("limits", "before_stop", "tags")
START_FIELDS = ("place", "requirements", "network", "secrets")


class Pods:
    """`others` says what a name belongs to that is no pod; endpoints and pods share one namespace."""

    def __init__(self, services: Services, others: Callable[[str], bool]) -> None:
        self.volumes = Volumes(services)
        self._services = services
        self._others = others
        self._by_id: dict[str, PodControl] = {}
        self._by_name: dict[str, PodControl] = {}
        self._clearing: asyncio.Task[None] | None = None
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- looking up -------------------------------------------------------------------------------

    def all(self) -> list[PodControl]:
        return list(self._by_id.values())

    def find(self, name_or_id: str) -> PodControl | None:
        return self._by_name.get(name_or_id) or self._by_id.get(name_or_id)

    def get(self, name_or_id: str) -> PodControl:
        """Raises NotFound."""
        if (found := self.find(name_or_id)) is not None:
            return found
        raise NotFound(
            f"There is no pod '{name_or_id}'.",
            did_you_mean(name_or_id, self._by_name) or "See what there is with: nbgpu ls pods",
            code="pod_not_found",
        )

    def by_id(self, pod_id: str) -> PodControl | None:
        return self._by_id.get(pod_id)

    def names(self) -> list[str]:
        return list(self._by_name)

    def of_token(self, given: bytes) -> str | None:
        """The id of the pod that this token was given to."""
        hashed = hashlib.sha256(given).digest()
        found = None
        for control in self._by_id.values():  # all of them: the time tells nothing
            if hmac.compare_digest(control.record.token_hash or b"", hashed):
                found = control.id
        return found

    # --- beginnings -------------------------------------------------------------------------------

    async def load(self) -> None:
        await self.volumes.load()
        services = self._services
        query = select(pods).where(pods.c.deleted_us.is_(None)).order_by(pods.c.created_us)
        for row in await services.state.rows(query):
            row.pop("deleted_us")
            control = self._add(PodRecord.load(row))
            newest = select(func.max(instances.c.generation)).where(
                instances.c.endpoint_id == control.id
            )
            control.generation = int(
                await services.state.database.read(lambda c, q=newest: c.execute(q).scalar()) or 0  # type: ignore[misc]
            )

    async def adopt(self, record: InstanceRecord, seen: Observed, ended: Exit) -> bool:
        """One that a backend before had started. False: its pod is no longer there."""
        control = self._by_id.get(record.endpoint_id)
        if control is None:
            return False
        if seen.state == "running":
            control.adopt(record, seen)
        else:
            await control.bury(record, ended)
        return True

    def begin(self) -> None:
        """After adoption: those that were on their way, go on."""
        if contained := [c for c in self.all() if c.record.spec.image is not None]:
            self._clearing = asyncio.create_task(self._clear_others(contained))
        KernelSpecs(self._services.home.kernels, self._services.home.root).keep_only(
            c.name for c in self.all() if c.live
        )
        for control in self.all():
            if control.record.wanted == "running" and control.instance is None:
                control.go()

    async def _clear_others(self, contained: Sequence[PodControl]) -> None:
        """Containers that nobody removed: the machine went down, or their engine."""
        for pods_there in {c.site.name: c.site.pods for c in contained}.values():
            with suppress(NbgpuError):
                await pods_there.clear_others(
                    self._services.installation,
                    lambda: [name for c in self.all() for name in c.containers],
                )

    async def close(self) -> None:
        if self._clearing is not None:
            self._clearing.cancel()
        await asyncio.gather(*(control.close() for control in self.all()))

    async def stop_all(self, code: str, text: str) -> list[str]:
        """Names of those that ran."""
        running = [c for c in self.all() if c.state not in ("stopped", "failed")]
        await asyncio.gather(*(control.stop(code, text) for control in running))
        return [control.name for control in running]

    # --- verbs ------------------------------------------------------------------------------------

    async def open(self, spec: CreatePod) -> tuple[PodControl, str, list[Change]]:
        """Create and start; with `converge`, attach to the pod of this name or change it.

        Returns (pod, created | attached | changed, changes). Raises BadRequest, Conflict, NotFound,
        Unavailable; nothing is stored then.
        """
        await self._check(spec)
        async with self._locks.setdefault(spec.name, asyncio.Lock()):
            existing = self._by_name.get(spec.name)
            if existing is None:
                return await self._create(spec), "created", []
            if not spec.nbgpu.converge:
                raise Conflict(
                    f"The name '{spec.name}' is taken.", "Choose another name.", code="name_taken"
                )
            return await self._converge(existing, spec)

    async def _create(self, spec: CreatePod) -> PodControl:
        services, now = self._services, self._services.clock.now()
        pod_id = "pod-" + secrets.token_hex(6)
        mounted = spec.mounts.network[0].volume_id if spec.mounts.network else None
        if wanted := spec.nbgpu.volume:
            fresh = CreateVolume(name=wanted, data_center=spec.nbgpu.place.on)
            volume = self.volumes.find(wanted) or await self.volumes.create(fresh)
        elif mounted:
            volume = self.volumes.get(mounted)
        else:
            size = spec.mounts.persistent.size if spec.mounts.persistent else 20
            own = CreateVolume(name=spec.name, size=size, data_center=spec.nbgpu.place.on)
            volume = await self.volumes.create(own, pod_id=pod_id)
        if volume.place != spec.nbgpu.place.on:
            raise Conflict(
                f"The volume '{volume.name}' is at {volume.place}, not at {spec.nbgpu.place.on}.",
                f"Open the pod there: --on {volume.place}",
                code="volume_elsewhere",
            )
        record = PodRecord(
            id=pod_id, name=spec.name, spec=_stored(spec), version=1, wanted="running", reason=None,
            failed=False, volume_id=volume.id, created_us=now,
        )  # fmt: skip

        def change(connection: Connection) -> None:
            connection.execute(insert(pods).values(**record.row()))

        text = f"The pod {spec.name} was opened on {spec.nbgpu.place.on}"
        await services.state.commit(change, Draft(now, "pod.created", text, pod_id, spec.name))
        control = self._add(record)
        control.go()
        return control

    async def _converge(
        self, control: PodControl, spec: CreatePod
    ) -> tuple[PodControl, str, list[Change]]:
        record, wanted = control.record, _stored(spec)
        if not spec.nbgpu.take:
            wanted.nbgpu.origin = record.spec.nbgpu.origin
        self._check_volume(control, wanted)
        changes = differences(record.spec, wanted)
        mine, theirs = spec.nbgpu.origin.notebook, record.spec.nbgpu.origin.notebook
        if changes and not spec.nbgpu.take and theirs is not None and mine != theirs:
            raise Conflict(
                f"'{spec.name}' was opened by {theirs}, and this would change its "
                f"{', '.join(c.field for c in changes)}.",
                "Choose another name, or take it over with --take.",
                code="not_yours",
                changes=[c.wire() for c in changes],
            )
        restarts = [c for c in changes if c.field.partition(".")[0] not in _live_names()]
        if restarts and control.state not in ("stopped", "failed"):
            words = ", ".join(f"{c.field}: {c.old} -> {c.new}" for c in restarts)
            raise Conflict(
                f"'{spec.name}' runs with other settings ({words}), and a change would restart it: "
                "what its kernel holds would be lost.",
                f"Stop it first: nbgpu stop {spec.name}",
                code="would_restart",
                changes=[c.wire() for c in restarts],
            )
        moved = record.spec.nbgpu.limits.until_us != wanted.nbgpu.limits.until_us
        record.spec = wanted
        if control.state in ("stopped", "failed"):
            changes.append(Change(field="state", old=control.state, new="running"))
            record.version += bool(restarts)
            await self.start(control)
        elif changes:
            words = ", ".join(f"{c.field}: {c.old} -> {c.new}" for c in changes)
            await control.save("pod.changed", f"{control.name} was changed: {words}")
        elif moved:  # `--until 8h` means another instant each time
            await control.save(None)
        return control, "changed" if changes else "attached", changes

    async def change(self, control: PodControl, wanted: UpdatePod) -> list[Change]:
        """PATCH: what is left out stays."""
        spec = control.record.spec.model_copy(deep=True)
        if wanted.env is not None:
            spec.env = wanted.env
        if wanted.nbgpu.limits is not None:
            named = wanted.nbgpu.limits.model_fields_set
            spec.nbgpu.limits = spec.nbgpu.limits.model_copy(
                update={name: getattr(wanted.nbgpu.limits, name) for name in named}
            )
        for field in ("before_stop", "tags"):
            if field in wanted.nbgpu.model_fields_set:
                setattr(spec.nbgpu, field, getattr(wanted.nbgpu, field))
        _check_limits(spec, self._services.clock.now())
        if changes := differences(control.record.spec, spec):
            control.record.spec = spec
            words = ", ".join(f"{c.field}: {c.old} -> {c.new}" for c in changes)
            await control.save("pod.changed", f"{control.name} was changed: {words}")
        return changes

    async def start(self, control: PodControl) -> None:
        """Raises Conflict where a limit would end it at once."""
        if control.state not in ("stopped", "failed"):
            return
        limits = control.record.spec.nbgpu.limits
        if limits.until_us is not None and limits.until_us <= self._services.clock.now():
            raise Conflict(
                f"'{control.name}' was to run until a time that is past.",
                f"Open it again with a later --until: nbgpu open {control.name} --until 8h",
                code="until_past",
            )
        control.record.wanted, control.record.failed, control.record.reason = "running", False, None
        await control.save("pod.started", f"{control.name} is started")
        control.go()

    async def stop(self, control: PodControl) -> None:
        """Returns when nothing of it runs; its home and its volume stay."""
        await control.stop("stopped", "stopped by you")

    async def extend(self, control: PodControl, seconds: int) -> None:
        """Not idle before then, and `until` not before then either."""
        control.require()
        at = self._services.clock.now() + seconds * 1_000_000
        control.record.kept_until_us = at
        limits = control.record.spec.nbgpu.limits
        if limits.until_us is not None:
            limits.until_us = max(limits.until_us, at)
        text = f"{control.name} runs on for at least {span(seconds)}"
        await control.save("pod.extended", text, seconds=seconds)

    async def delete(self, control: PodControl, *, keep_volume: bool) -> None:
        """End it and all that it has; its own volume, too, unless that is kept."""
        async with self._locks.setdefault(control.name, asyncio.Lock()):
            await control.stop("deleted", "it was deleted")
            if not control.ended:
                raise Unavailable(
                    f"'{control.name}' cannot be deleted yet: {control.reason.text}.",
                    "It is ended when its host is heard again; delete it then.",
                    code="host_away",
                )
            await control.close()
            services, now = self._services, self._services.clock.now()

            def change(connection: Connection) -> None:
                row: dict[str, Any] = {"deleted_us": now, "wanted": "stopped", "token_hash": None}
                connection.execute(update(pods).where(pods.c.id == control.id).values(**row))

            volume, kept = self.volumes.by_id(control.record.volume_id), ""
            if volume is not None and volume.pod_id is not None and keep_volume:
                await self.volumes.keep(volume)
                kept = f"; its volume {volume.name} stays"
            text = f"The pod {control.name} was deleted{kept}"
            await services.state.commit(
                change, Draft(now, "pod.deleted", text, control.id, control.name)
            )
            self._by_id.pop(control.id, None)
            self._by_name.pop(control.name, None)
            await control.site.pods.erase(control.id)
            if volume is not None and volume.pod_id is not None:
                await self.volumes.delete(volume)
            services.pulse.forget(control.id)

    def users(self, volume_id: str) -> list[str]:
        """Names of the pods that have this volume."""
        return [c.name for c in self.all() if c.record.volume_id == volume_id]

    async def delete_volume(self, name_or_id: str) -> None:
        """Raises Conflict while a pod has it."""
        record = self.volumes.get(name_or_id)
        if users := self.users(record.id):
            raise Conflict(
                f"The volume '{record.name}' is used by {', '.join(users)}.",
                f"Delete that pod first: nbgpu delete {users[0]}",
                code="volume_in_use",
            )
        await self.volumes.delete(record)

    # --- below ------------------------------------------------------------------------------------

    def _add(self, record: PodRecord) -> PodControl:
        sites, on = self._services.sites, record.spec.nbgpu.place.on
        site = sites.find(on) or sites.add(on)
        control = PodControl(self._services, site, record)
        self._by_id[record.id] = self._by_name[record.name] = control
        return control

    async def _check(self, spec: CreatePod) -> None:
        """All that can be wrong is found here, before anything is stored."""
        if found := complaint(spec.name):
            raise BadRequest(*found, code="bad_name")
        if self._others(spec.name):
            raise Conflict(
                f"'{spec.name}' is an endpoint.", "Choose another name.", code="name_taken"
            )
        place = _placed(spec).nbgpu.place
        site = self._services.sites.get(place.on)
        if spec.image is not None:
            if not IMAGE.fullmatch(spec.image):
                raise BadRequest(
                    f"'{spec.image}' is no name of an image.",
                    "Write it as in: docker.io/library/python:3.12",
                )
            if why := await site.pods.no_images():
                raise Unavailable(
                    f"The image {spec.image} cannot be run here: {why}.",
                    "Open it without --image: it gets this machine's Python, and --requirements.",
                    code="no_images",
                )
        if spec.args is not None:
            raise BadRequest(
                "`args` are for the program of an image, and a pod runs a kernel in its place.",
                "Leave them out, and start that program in the pod, from a cell or a terminal.",
            )
        cores = os.cpu_count() or 1
        if place.on == LOCAL and place.cpu is not None and place.cpu > cores:
            raise BadRequest(
                f"This machine has {cores} cores, not {place.cpu}.", f"Use --cpu {cores} or less."
            )
        here = await site.gpus.look() if place.gpu else ()
        offers = cards.offers([(gpu.index, gpu.name) for gpu in here], ())
        choice = choose(Wanted(gpu_list(place.gpu)), offers, {}, {}, 0.0)
        if place.gpu and not choice.ever:
            text = "; ".join(f"{skip.what}: {skip.text}" for skip in choice.skipped)
            raise Unavailable(
                f"No GPU that was asked for is here: {text}.",
                "Open it with --cpu N instead.",
                code="no_gpu",
            )
        spec.nbgpu.requirements = list(check(spec.nbgpu.requirements))
        stored = Secrets(self._services.home.secrets).all() if spec.nbgpu.secrets else {}
        for name in spec.nbgpu.secrets:
            if name not in stored:
                raise unknown(name)
        for mount in [spec.mounts.persistent, *spec.mounts.network]:
            if mount is not None and mount.path != WORKSPACE:
                raise BadRequest(
                    f"A volume is at {WORKSPACE}, not at {mount.path}.", "Leave the path out."
                )
        _check_limits(spec, self._services.clock.now())

    def _check_volume(self, control: PodControl, spec: CreatePod) -> None:
        wanted = spec.nbgpu.volume
        volume = self.volumes.by_id(control.record.volume_id)
        if wanted is None or volume is None or wanted in (volume.id, volume.name):
            return
        raise Conflict(
            f"'{control.name}' has the volume '{volume.name}', and that cannot be changed.",
            f"Delete it first (nbgpu delete {control.name} --keep-volume), or choose another name.",
            code="volume_differs",
        )


def _check_limits(spec: CreatePod, now_us: int) -> None:
    limits = spec.nbgpu.limits
    if limits.until_us is not None and limits.until_us <= now_us:
        raise BadRequest("--until is past already.", "Write it as in: --until 8h")
    if limits.max_cost is not None:
        try:
            good = Decimal(limits.max_cost).is_finite() and Decimal(limits.max_cost) > 0
        except InvalidOperation:
            good = False
        if not good:
            raise BadRequest(
                f"'{limits.max_cost}' is no amount of dollars.", "Write it as in: --max-cost 5"
            )


def _placed(spec: CreatePod) -> CreatePod:
    """REST v2's gpu and cpu, where those of ours are not given."""
    place = spec.nbgpu.place
    if spec.gpu is not None and not place.gpu:
        count = f":{spec.gpu.count}" if spec.gpu.count > 1 else ""
        place.gpu = [f"{name}{count}" for name in spec.gpu.ids]
    if spec.cpu is not None and place.cpu is None:
        place.cpu = spec.cpu.vcpu_count
    if place.gpu and place.cpu is not None:
        raise BadRequest("A GPU and a number of processors exclude each other.", "Leave one out.")
    return spec


def _stored(spec: CreatePod) -> CreatePod:
    """As it is kept: without what only said how to apply it."""
    kept = _placed(spec).model_copy(deep=True)
    kept.nbgpu.converge = kept.nbgpu.take = False
    return kept


def _live_names() -> tuple[str, ...]:
    return tuple(camel(name) for name in LIVE_FIELDS)


def differences(old: CreatePod, new: CreatePod) -> list[Change]:
    """Settings that differ, by their names on the wire."""
    changes = []
    for field in ("image", "env"):
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            changes.append(Change(field=field, old=before, new=after))
    for field in (*LIVE_FIELDS, *START_FIELDS):
        before, after = getattr(old.nbgpu, field), getattr(new.nbgpu, field)
        if field == "limits":
            for name in after.model_fields_set | before.model_fields_set:
                one, other = getattr(before, name), getattr(after, name)
                if one != other and name != "until_us":
                    changes.append(Change(field=f"limits.{camel(name)}", old=one, new=other))
        elif before != after:
            one, other = (v.wire() if hasattr(v, "wire") else v for v in (before, after))
            changes.append(Change(field=camel(field), old=one, new=other))
    return changes
