"""Volumes: what /workspace of a pod is. A pod's own goes with it; a network volume stays."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, insert, select, update

from nbgpu_backend.control.pod_records import VolumeRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.domain.names import did_you_mean
from nbgpu_backend.errors import BadRequest, Conflict, NotFound
from nbgpu_backend.providers.base import PodHost
from nbgpu_backend.schema.pods import CreateVolume, UpdateVolume
from nbgpu_backend.store.state import Draft
from nbgpu_backend.store.tables import volumes


class Volumes:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._by_id: dict[str, VolumeRecord] = {}

    async def load(self) -> None:
        query = select(volumes).where(volumes.c.deleted_us.is_(None)).order_by(volumes.c.created_us)
        for row in await self._services.state.rows(query):
            row.pop("deleted_us")
            self._by_id[row["id"]] = VolumeRecord(**row)

    def network(self) -> list[VolumeRecord]:
        return [volume for volume in self._by_id.values() if volume.pod_id is None]

    def by_id(self, volume_id: str) -> VolumeRecord | None:
        return self._by_id.get(volume_id)

    def find(self, name_or_id: str) -> VolumeRecord | None:
        """A network volume; of two with one name, the older."""
        return next((v for v in self.network() if name_or_id in (v.id, v.name)), None)

    def get(self, name_or_id: str) -> VolumeRecord:
        """Raises NotFound."""
        if (found := self.find(name_or_id)) is not None:
            return found
        hint = did_you_mean(name_or_id, [v.name for v in self.network()])
        raise NotFound(
            f"There is no volume '{name_or_id}'.",
            hint or "See what there is with: nbgpu volume ls",
            code="volume_not_found",
        )

    def path(self, volume: VolumeRecord) -> str:
        return self._host(volume).workspace(volume.id)

    async def used(self, volume: VolumeRecord) -> int:
        """Bytes on the disk. Raises what a host that is not heard raises."""
        return await self._host(volume).volume_bytes(volume.id)

    def _host(self, volume: VolumeRecord) -> PodHost:
        return self._services.sites.get(volume.place).pods

    async def create(self, wanted: CreateVolume, *, pod_id: str | None = None) -> VolumeRecord:
        """Raises BadRequest, Conflict."""
        self._services.sites.get(wanted.data_center)
        if pod_id is None and self.find(wanted.name) is not None:
            raise Conflict(
                f"There is a volume '{wanted.name}' already.", "Choose another name.",
                code="name_taken",
            )  # fmt: skip
        now = self._services.clock.now()
        record = VolumeRecord(
            "vol-" + secrets.token_hex(5), wanted.name, wanted.size, wanted.data_center, wanted.type,
            pod_id, now,
        )  # fmt: skip

        def change(connection: Connection) -> None:
            connection.execute(insert(volumes).values(**record.row()))

        drafts = [Draft(now, "volume.created", f"The volume {record.name} is made")]
        await self._services.state.commit(change, *(drafts if pod_id is None else []))
        self._by_id[record.id] = record
        return record

    async def change(self, record: VolumeRecord, wanted: UpdateVolume) -> None:
        """Raises BadRequest, Conflict: it only grows."""
        if wanted.size is not None and wanted.size < record.size_gb:
            raise BadRequest(
                f"'{record.name}' has {record.size_gb} GB, and a volume only grows.",
                "Make a new, smaller one, and copy what it should hold.",
            )
        if wanted.name is not None and (other := self.find(wanted.name)) not in (None, record):
            assert other is not None
            raise Conflict(f"There is a volume '{other.name}' already.", "Choose another name.")
        record.name, record.size_gb = wanted.name or record.name, wanted.size or record.size_gb
        row = {"name": record.name, "size_gb": record.size_gb}

        def change(connection: Connection) -> None:
            connection.execute(update(volumes).where(volumes.c.id == record.id).values(**row))

        await self._services.state.commit(change)

    async def keep(self, record: VolumeRecord) -> None:
        """Its pod goes and it stays, as a network volume of its own."""
        taken = {v.name for v in self.network()}
        record.pod_id = None
        if record.name in taken:
            record.name = f"{record.name}-{record.id.removeprefix('vol-')}"
        row = {"pod_id": None, "name": record.name}

        def change(connection: Connection) -> None:
            connection.execute(update(volumes).where(volumes.c.id == record.id).values(**row))

        await self._services.state.commit(change)

    async def delete(self, record: VolumeRecord) -> None:
        """What it holds is gone then."""
        now = self._services.clock.now()

        def change(connection: Connection) -> None:
            connection.execute(
                update(volumes).where(volumes.c.id == record.id).values(deleted_us=now)
            )

        drafts = [Draft(now, "volume.deleted", f"The volume {record.name} is deleted")]
        await self._services.state.commit(change, *(drafts if record.pod_id is None else []))
        self._by_id.pop(record.id, None)
        await self._host(record).erase_volume(record.id)
