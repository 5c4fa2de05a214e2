"""An endpoint and an instance as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbgpu_backend.schema.endpoints import CreateEndpoint


@dataclass(slots=True)
class ModelRecord:
    """`fetched`: the weights lie at `path`. `bytes` counts the weights.

    Of a handler, `path` is its file, `bytes` counts its code and `fetched` means its environment.
    """

    ref: str
    source: str  # hub, directory, library, handler, none
    path: str | None
    revision: str | None
    bytes: int
    fetched: bool

    def row(self) -> dict[str, Any]:
        return {
            "ref": self.ref, "source": self.source, "path": self.path, "revision": self.revision,
            "bytes": self.bytes, "fetched": self.fetched,
        }  # fmt: skip


@dataclass(slots=True)
class EndpointRecord:
    id: str
    name: str
    spec: CreateEndpoint
    model: ModelRecord
    version: int
    stopped: bool
    failure: dict[str, Any] | None  # schema.Reason
    created_us: int
    warm: dict[str, int] | None = None  # until_us, workers

    @classmethod
    def load(cls, row: dict[str, Any]) -> EndpointRecord:
        return cls(
            id=row["id"],
            name=row["name"],
            spec=CreateEndpoint(**row["spec"]),
            model=ModelRecord(**row["model"]),
            version=row["version"],
            stopped=bool(row["stopped"]),
            failure=row["failure"],
            created_us=row["created_us"],
            warm=row["warm"],
        )

    def row(self) -> dict[str, Any]:
        return {
            "id": self.id, "name": self.name, "spec": self.spec.wire(), "model": self.model.row(),
            "version": self.version, "stopped": int(self.stopped), "failure": self.failure,
            "created_us": self.created_us, "warm": self.warm,
        }  # fmt: skip


@dataclass(slots=True)
class InstanceRecord:
    """`id` is the worker's: new at every launch, never used again."""

    id: str
    name: str
    endpoint_id: str
    provider: str
    generation: int
    endpoint_version: int
    tier: str
    port: int
    slots: int
    intent_us: int
    pid: int | None = None
    started_us: int | None = None
    ready_us: int | None = None
    ended_us: int | None = None
    phases: list[tuple[str, float]] | None = None
    exit: dict[str, Any] | None = None
    gpu: str | None = None
    gpu_count: int = 0

    @classmethod
    def load(cls, row: dict[str, Any]) -> InstanceRecord:
        phases = [(str(n), float(s)) for n, s in row["phases"]] if row["phases"] else None
        return cls(**{**row, "phases": phases})

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}
