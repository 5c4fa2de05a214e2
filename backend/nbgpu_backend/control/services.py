"""What the reconcilers share: one of each, made once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

import aiohttp

from nbgpu_backend.billing.ledger import Ledger
from nbgpu_backend.billing.rates import UNSET, Rate
from nbgpu_backend.clock import Clock
from nbgpu_backend.control.memory import MemoryKeeper
from nbgpu_backend.control.sites import Sites
from nbgpu_backend.engines.base import Engine
from nbgpu_backend.engines.handler.builder import Builder
from nbgpu_backend.home import Home
from nbgpu_backend.hub.fetcher import Fetcher
from nbgpu_backend.providers.base import WorkerHost
from nbgpu_backend.serving.external import ExternalWorkers
from nbgpu_backend.serving.keys import Keyring
from nbgpu_backend.serving.webhooks import Webhooks
from nbgpu_backend.serving.wire import Wire
from nbgpu_backend.store.database import Database
from nbgpu_backend.store.jobs import JobStore
from nbgpu_backend.store.state import State
from nbgpu_backend.telemetry.pulse import Pulse
from nbgpu_backend.telemetry.recorder import Recorder
from nbgpu_backend.telemetry.tallies import Tallies

LEASE_POD_S = 900.0


@dataclass(slots=True)
class Services:
    home: Home
    installation: str
    clock: Clock
    state: State
    telemetry: Database
    recorder: Recorder
    pulse: Pulse
    ledger: Ledger
    provider: WorkerHost
    fetcher: Fetcher
    session: aiohttp.ClientSession
    wire: Wire
    fresh_session: aiohttp.ClientSession  # a connection a request
    jobs: JobStore
    webhooks: Webhooks
    externals: ExternalWorkers
    engine: Callable[[str], Engine]
    memory: MemoryKeeper  # of this machine
    sites: Sites
    keys: Keyring
    builder: Builder = field(init=False)  # of the environments of handlers
    url: str = ""  # of this backend, known once it is bound
    tallies: Tallies = field(default_factory=Tallies)
    rates: dict[str, Rate] = field(default_factory=dict)  # place -> dollars an hour
    lease_pod_s: float = LEASE_POD_S  # a pod that nobody uses outlives the backend by so long

    def __post_init__(self) -> None:
        self.builder = Builder(self.home)

    def rate(self, place: str) -> Rate:
        return self.rates.get(place, Rate(Decimal(0), UNSET))
