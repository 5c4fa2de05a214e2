"""A pod and a volume as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbgpu_backend.schema.pods import CreatePod


@dataclass(slots=True)
class PodRecord:
    """`wanted` is running or stopped; `reason` (schema.Reason) that of its last end."""

    id: str
    name: str
    spec: CreatePod
    version: int
    wanted: str
    reason: dict[str, Any] | None
    failed: bool
    volume_id: str
    created_us: int
    token_hash: bytes | None = None
    kept_until_us: int | None = None

    @classmethod
    def load(cls, row: dict[str, Any]) -> PodRecord:
        return cls(
            id=row["id"], name=row["name"], spec=CreatePod(**row["spec"]), version=row["version"],
            wanted=row["wanted"], reason=row["reason"], failed=bool(row["failed"]),
            volume_id=row["volume_id"], created_us=row["created_us"], token_hash=row["token_hash"],
            kept_until_us=row["kept_until_us"],
        )  # fmt: skip

    def row(self) -> dict[str, Any]:
        return {
            "id": self.id, "name": self.name, "spec": self.spec.wire(), "version": self.version,
            "wanted": self.wanted, "reason": self.reason, "failed": int(self.failed),
            "volume_id": self.volume_id, "created_us": self.created_us,
            "token_hash": self.token_hash, "kept_until_us": self.kept_until_us,
        }  # fmt: skip


@dataclass(slots=True)
class VolumeRecord:
    """`pod_id`: the pod whose own it is, and with which it goes; None: a network volume."""

    id: str
    name: str
    size_gb: int
    place: str
    type: str
    pod_id: str | None
    created_us: int

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}
