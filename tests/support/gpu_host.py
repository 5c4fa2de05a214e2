"""A backend whose workers run on a stand-in for a place with GPUs: types, capacities, prices, failures.

`python -m tests.support.gpu_host` is `python -m nbgpu_backend` with another provider. What there is
stands in NBGPU_HOME/gpus.json and may be changed at any time:

    {"gpus": [{"gpu": "H100", "total": 2, "perHour": "3", "fault": "", "hidden": false}], "memory": null}

`fault`: every launch on it fails so. `hidden`: it claims to be free and refuses the launch when full.
`memory`: bytes that are available, instead of the machine's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from nbgpu_backend import runtime
from nbgpu_backend.clock import Clock
from nbgpu_backend.domain.placement import Offer
from nbgpu_backend.errors import Unavailable
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import Launched, LaunchSpec
from nbgpu_backend.providers.local.provider import LocalProvider
from nbgpu_backend.server import main

from tests.support.backend import CLONE, BackendProcess
from tests.support.waiting import until


class GpuHost(LocalProvider):
    """The processes are this machine's; the GPUs are on paper."""

    def __init__(self, home: Home, clock: Clock) -> None:
        super().__init__(home, clock)
        self._file = home.root / "gpus.json"
        self._taken: dict[str, tuple[str, int]] = {}

    def _said(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._file.read_text())
        return found

    def _free(self, card: dict[str, Any]) -> int:
        used = sum(count for gpu, count in self._taken.values() if gpu == card["gpu"])
        return int(card["total"]) - used

    def offers(self) -> Sequence[Offer]:
        return [
            Offer(
                card["gpu"],
                card["total"] if card.get("hidden") else self._free(card),
                card["total"],
                Decimal(card["perHour"]),
            )
            for card in self._said()["gpus"]
        ]

    def available_memory(self) -> int:
        return self._said().get("memory") or super().available_memory()

    async def launch(self, spec: LaunchSpec) -> Launched:
        if spec.gpu is not None:
            card = next(c for c in self._said()["gpus"] if c["gpu"] == spec.gpu)
            if card.get("fault"):
                raise Unavailable(card["fault"], code="no_capacity")
            if self._free(card) < spec.gpu_count:
                raise Unavailable(f"No {spec.gpu} is free after all.", code="no_capacity")
            self._taken[spec.name] = (spec.gpu, spec.gpu_count)
        return await super().launch(spec)

    async def forget(self, name: str) -> None:
        await super().forget(name)
        self._taken.pop(name, None)


class GpuBackend(BackendProcess):
    def say(self, *gpus: dict[str, Any], memory: int | None = None) -> None:
        self.home.root.mkdir(parents=True, exist_ok=True)
        fresh = self.home.root / "gpus.json.new"
        fresh.write_text(json.dumps({"gpus": gpus, "memory": memory}))
        fresh.rename(self.home.root / "gpus.json")

    def start(self) -> runtime.Backend:
        with (self.home.root / "host.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.gpu_host"],
                cwd=CLONE, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self._client = None
        return until(lambda: runtime.locate(self.home))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], GpuHost))
