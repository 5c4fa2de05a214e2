"""Starts the workers of one endpoint: when there is room, and not again and again what cannot start."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbgpu_backend.control.endings import certain
from nbgpu_backend.control.probe import free_port
from nbgpu_backend.control.records import InstanceRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.worker import WorkerControl
from nbgpu_backend.domain.scaling import FOREVER
from nbgpu_backend.engines.base import WorkerSpec
from nbgpu_backend.errors import NoMemory
from nbgpu_backend.providers.base import Exit, Observed
from nbgpu_backend.schema.common import Reason

if TYPE_CHECKING:
    from nbgpu_backend.control.endpoint import EndpointControl

START_TRIES = 3  # starts in a row that may fail before the endpoint is held down
RETRY_S = 2.0  # after a failed start, and while there is too little memory


class Launcher:
    def __init__(self, owner: EndpointControl, services: Services) -> None:
        self.generation = 0
        self.throttled: Reason | None = None
        self._owner = owner
        self._services = services
        self._not_before = 0.0  # no launch before this instant of `elapsed`
        self._failures = 0  # starts in a row that failed

    def grow(self, count: int, now: float) -> float:
        """Start workers; returns when to ask again."""
        weights = self._owner.weights
        if not weights.look():
            weights.start()
            return FOREVER
        if now < self._not_before:
            return self._not_before
        for _ in range(count):
            if not self._admit(now):
                return self._not_before
            self._launch()
        return FOREVER

    def adopt(self, record: InstanceRecord, seen: Observed, key: str | None) -> None:
        self._services.memory.reserve(record.id, self._memory_needed())
        self._control(record).adopt(seen, key)

    async def bury(self, record: InstanceRecord, ended: Exit) -> None:
        """Write down the end of a worker that ended while no backend was there."""
        await self._control(record).bury(ended)

    def succeeded(self) -> None:
        self._failures, self._not_before = 0, 0.0

    def failed(self, ended: Exit, text: str) -> bool:
        """A start failed. True: it would fail again, or has failed too often."""
        self._failures += 1
        port_taken = "port" in text and "in use" in text
        hopeless = certain(self._owner.engine, ended) and not port_taken
        if hopeless or self._failures >= START_TRIES:
            self._failures = 0
            return True
        self._not_before = self._services.clock.elapsed() + RETRY_S * (self._failures - 1)
        return False

    def _admit(self, now: float) -> bool:
        """Is there memory for one more? If not, wait for what will be freed, or say no to who waits."""
        services, owner = self._services, self._owner
        fit = services.memory.fit(
            needed=self._memory_needed(), available=services.provider.available_memory()
        )
        if fit.fits:
            self.throttled = None
            return True
        self._not_before = now + RETRY_S
        values: dict[str, Any] = {"needed": fit.needed, "available": fit.available}
        reason = Reason(
            code="no_memory", text=f"too little memory: {fit.text}",
            since_us=self.throttled.since_us if self.throttled else services.clock.now(),
            values=values,
        )  # fmt: skip
        if self.throttled is None:
            owner.tell_later("worker.throttled", f"{owner.name} waits: {reason.text}", **values)
        self.throttled = owner.last_failure = reason
        if not fit.ever:
            owner.refuse_waiting(
                NoMemory(
                    f"'{owner.name}' cannot start here: {fit.text}.",
                    "End other programs, or deploy a smaller model, or set a smaller "
                    "--kv-cache-memory-bytes after `--`.",
                    **values,
                )
            )
        return False

    def _launch(self) -> None:
        services, owner = self._services, self._owner
        spec, engine = owner.record.spec, owner.engine
        self.generation += 1
        worker_id = "w-" + secrets.token_hex(5)
        record = InstanceRecord(
            id=worker_id,
            name=f"nbgpu-{services.installation}-{worker_id}-{self.generation}",
            endpoint_id=owner.id,
            provider=spec.nbgpu.place.on,
            generation=self.generation,
            endpoint_version=owner.version,
            tier="plain",
            port=0 if engine.pull else free_port(),
            slots=owner.slots(),
            intent_us=services.clock.now(),
        )
        services.memory.reserve(worker_id, self._memory_needed())
        self._control(record).launch(
            WorkerSpec(
                served_name=owner.name,
                model=self._model_path(),
                port=record.port,
                cpu=spec.nbgpu.place.cpu or default_threads(),
                options=spec.nbgpu.engine.options,
                env={"HOME": str(services.home.instances / record.name), **spec.env},
                endpoint=owner.id,
                worker=worker_id,
            ),
            cwd=spec.nbgpu.cwd if spec.nbgpu.engine.name == "command" else None,
        )

    def _control(self, record: InstanceRecord) -> WorkerControl:
        owner = self._owner
        policy = owner.record.spec.nbgpu.policy
        worker = WorkerControl(
            self._services, owner, owner.engine, record,
            unhealthy_s=policy.unhealthy_s, start_s=policy.start_s,
        )  # fmt: skip
        owner.workers[record.id] = worker
        return worker

    def _memory_needed(self) -> int:
        options = self._owner.record.spec.nbgpu.engine.options
        return self._owner.engine.memory(self._model_path(), options)

    def _model_path(self) -> Path | None:
        path = self._owner.record.model.path
        return Path(path) if path else None


def default_threads() -> int:
    """All cores but one, which the gateway and the notebook share."""
    return max(1, len(os.sched_getaffinity(0)) - 1) if hasattr(os, "sched_getaffinity") else 1
