"""Everything that can be wrong with a deploy is found here, before anything is stored or started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbgpu_backend.control.probe import health_check
from nbgpu_backend.control.records import ModelRecord
from nbgpu_backend.control.services import Services
from nbgpu_backend.control.sites import Site
from nbgpu_backend.domain.names import complaint, did_you_mean
from nbgpu_backend.domain.placement import LOCAL, Wanted, choose, gpu_list
from nbgpu_backend.engines.base import Engine
from nbgpu_backend.errors import BadRequest, EngineMissing, NbgpuError, Unavailable
from nbgpu_backend.hub.fetcher import FetchPlan
from nbgpu_backend.hub.library import LocalModel, locate, weight_bytes
from nbgpu_backend.schema.endpoints import CreateEndpoint, Place, QueueDelay

# the one that nbgpu installs is the edition for processors
OWN_VLLM = "A vLLM for GPUs of your own is served as a command: --engine command -- vllm serve MODEL --port {port}"


@dataclass(frozen=True, slots=True)
class Prepared:
    engine: Engine
    model: ModelRecord
    plan: FetchPlan | None  # of weights that are still to be fetched from the hub


async def prepare(spec: CreateEndpoint, services: Services) -> Prepared:
    """Raises BadRequest, BadOption, NotFound, EngineMissing, DiskError, Unavailable: each a sentence."""
    if found := complaint(spec.name):
        raise BadRequest(*found, code="bad_name")
    if spec.workers.min > spec.workers.max:
        raise BadRequest(
            f"At least {spec.workers.min} and at most {spec.workers.max} workers contradict each other.",
            "Raise --workers or lower --always-on.",
        )
    balanced = spec.type == "LOAD_BALANCER"
    if balanced:
        _check_balancer(spec)
    engine = services.engine(spec.nbgpu.engine.name)
    places = await _check_place(spec, services)
    try:
        engine.version()
        here = LOCAL in places
        engine.check_options(spec.nbgpu.engine.options, balanced=balanced, here=here)
    except EngineMissing:
        if LOCAL in places:
            raise
        # it is installed there; the engine itself refuses an option that it does not know
    model, plan = await _model(spec, services)
    return Prepared(engine, model, plan)


def _check_balancer(spec: CreateEndpoint) -> None:
    if spec.nbgpu.engine.name != "command":
        raise BadRequest(
            f"A load balancer needs the engine command, not {spec.nbgpu.engine.name}.",
            "Give the command of its server: --lb --name site -- python app.py",
            code="not_a_command",
        )
    if isinstance(spec.scaling, QueueDelay):
        raise BadRequest(
            "A load balancer scales by requests, not by the delay of a queue.",
            "Say --per-worker N instead of --delay.",
            code="scaling_type",
        )
    health_check(spec)


async def _check_place(spec: CreateEndpoint, services: Services) -> list[str]:
    """Returns the places, in their order. Raises NotFound, BadRequest, Unavailable."""
    place = spec.nbgpu.place
    names = services.sites.order(place.on, lambda name: services.rate(name).per_hour)
    if not names:
        raise BadRequest("`--on` names no place.", "This machine is --on local.")
    sites = [services.sites.get(name) for name in names]
    if place.gpu:
        await _check_gpus(place, spec.nbgpu.engine.name, sites)
    cores = os.cpu_count() or 1
    if names == [LOCAL] and place.cpu is not None and place.cpu > cores:
        raise BadRequest(f"This machine has {cores} cores, not {place.cpu}.", f"Use --cpu {cores} or less.")  # fmt: skip
    return names


async def _check_gpus(place: Place, engine: str, sites: Sequence[Site]) -> None:
    """A typo, or what no place will ever have, is told before anything is stored. What a place has that
    is not heard just now is not known: then it is believed."""
    gpus = gpu_list(place.gpu)
    offers = [offer for site in sites for offer in site.host.offers()]
    if engine != "vllm":
        seen = await asyncio.gather(*(_seen(site) for site in sites))
        if not all(seen):
            return
        offers += [offer for site in sites for offer in site.gpus.offers()]
    found = choose(Wanted(gpus), offers, {}, {}, 0.0)
    if found.gpu is not None or found.ever:
        return
    here = [offer.gpu for offer in offers]
    if not here:
        where = " and ".join("this machine" if s.name == LOCAL else s.name for s in sites)
        has = "has" if len(sites) == 1 else "have"
        usable = " that vllm can use" if engine == "vllm" else ""
        raise Unavailable(
            f"{where[0].upper()}{where[1:]} {has} no {' or '.join(place.gpu)}{usable}.",
            "Leave --gpu out, or say --cpu N, to run on its processors."
            + (f" {OWN_VLLM}" if engine == "vllm" else ""),
            code="no_gpu",
        )
    why = "; ".join(f"{skip.what}: {skip.text}" for skip in found.skipped)
    hint = did_you_mean(gpus[0][0], here) or f"Choose among: {', '.join(here)}."
    raise Unavailable(f"None of these GPUs can be had here ({why}).", hint, code="no_gpu")


async def _seen(site: Site) -> bool:
    try:
        await site.gpus.look()
    except (NbgpuError, OSError):
        return False
    return True


async def _model(spec: CreateEndpoint, services: Services) -> tuple[ModelRecord, FetchPlan | None]:
    ref = spec.nbgpu.model
    if spec.nbgpu.engine.name == "handler":
        return await _handler(spec, services), None
    if ref is None:
        if spec.nbgpu.engine.name == "command":
            return ModelRecord("", "none", None, None, 0, True), None
        raise BadRequest("No model is named.", "Give a hub id (org/name), a directory or a name.")
    found = locate(ref, services.home, _cwd(spec, services))
    if isinstance(found, LocalModel):
        source = "library" if found.path.parent == services.home.models else "directory"
        return ModelRecord(ref, source, str(found.path), None, weight_bytes(found.path), True), None
    plan = await services.fetcher.plan(found)
    complete = plan.bytes_cached >= plan.bytes_total
    record = ModelRecord(ref, "hub", str(plan.path), plan.commit, plan.bytes_total, False)
    if complete and plan.path.is_dir():
        record.fetched = True
        return record, None
    return record, plan


async def _handler(spec: CreateEndpoint, services: Services) -> ModelRecord:
    ref = spec.nbgpu.model
    if not ref:
        raise BadRequest("No file is named.", "Give the handler's file, such as handler.py.")
    found = await services.builder.look(ref, _cwd(spec, services))
    return ModelRecord(ref, "handler", str(found.path), found.revision, found.bytes, found.ready)


def _cwd(spec: CreateEndpoint, services: Services) -> Path:
    return Path(spec.nbgpu.cwd) if spec.nbgpu.cwd else services.home.root
