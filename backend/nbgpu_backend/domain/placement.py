"""Where and how a worker starts (`choose`, `choose_place`), and which one goes (`victims`). Pure.

GPUs are tried in the order in which they were asked for. As RunPod does it: an endpoint of fewer than
five workers has all of them on the best choice that is free; from five on they are spread, most on the
first, fewer on each next one, so that no single type running out stops it.

Places are tried in the order in which they were asked for, too: the first one that is heard, has all that
the worker needs, and has room for it without anybody's going.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

SPREAD_FROM = 5  # workers
ANY = "any"
CPU = "cpu"
LOCAL = "local"  # this machine, as a place


@dataclass(frozen=True, slots=True)
class Wanted:
    """`gpus`: (type, how many a worker), in order; none: a worker without a GPU."""

    gpus: Sequence[tuple[str, int]] = ()
    cpu: int | None = None
    workers_max: int = 1


@dataclass(frozen=True, slots=True)
class Offer:
    """What a place has. `free` counts GPUs, or workers where `gpu` is "cpu"; None: not known."""

    gpu: str
    free: int | None
    total: int | None
    per_hour: Decimal | None = None  # of one GPU; None: the place has a rate of its own
    reason: str = ""  # why there is none


@dataclass(frozen=True, slots=True)
class Trouble:
    """A launch on this type failed; not before `until` is it tried again."""

    until: float
    text: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that came first and was not taken, and why. `code`: unknown, taken, failed, spread."""

    what: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """`gpu` None: nothing is free; `ever` says whether waiting can help, `retry_at` when a failure is
    forgotten."""

    gpu: str | None
    count: int = 0
    per_hour: Decimal | None = None
    skipped: tuple[Skip, ...] = ()
    ever: bool = True
    retry_at: float = math.inf
    place: str = LOCAL


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place, and what speaks against it just now. `away`: it is not heard; `lacks`: what a worker needs
    is not there yet; `short`: of memory; `trouble`: a launch there has failed."""

    place: str
    offers: Sequence[Offer] = ()
    away: str = ""
    lacks: str = ""
    short: str = ""
    trouble: Trouble | None = None


def choose(
    wanted: Wanted,
    offers: Sequence[Offer],
    have: Mapping[str, int],
    troubles: Mapping[str, Trouble],
    now: float,
) -> Choice:
    """The first acceptable offer. `have` counts this endpoint's workers by GPU type."""
    if not wanted.gpus:
        return Choice(CPU)
    known = {offer.gpu.lower(): offer for offer in offers}
    asked = _asked(wanted, offers)
    skipped: list[Skip] = []
    full: list[tuple[Offer, int]] = []  # has had its share of the spread
    ever, retry_at = False, math.inf
    for place, (name, count) in enumerate(asked):
        offer = known.get(name.lower())
        if offer is None:
            skipped.append(Skip(name, "unknown", "there is none here" + _hint(offers)))
            continue
        if offer.total is not None and offer.total < count:
            skipped.append(
                Skip(name, "unknown", f"{count} are asked for and {offer.total} are here")
            )
            continue
        ever = True
        trouble = troubles.get(offer.gpu)
        if trouble is not None and now < trouble.until:
            skipped.append(Skip(name, "failed", trouble.text))
            retry_at = min(retry_at, trouble.until)
        elif offer.free is not None and offer.free < count:
            text = offer.reason or (
                f"{offer.free} of {offer.total} are free" if offer.total else "none is free"
            )
            skipped.append(Skip(name, "taken", text))
        elif have.get(offer.gpu, 0) >= _share(wanted, place, len(asked)):
            skipped.append(Skip(name, "spread", f"it has its share of {have[offer.gpu]} workers"))
            full.append((offer, count))
        else:
            return _take(offer, count, skipped)
    if full:
        return _take(*full[0], skipped)
    return Choice(None, skipped=tuple(skipped), ever=ever, retry_at=retry_at)


def choose_place(
    wanted: Wanted,
    candidates: Sequence[Candidate],
    have: Mapping[str, int],
    troubles: Mapping[str, Trouble],
    now: float,
) -> Choice:
    """The first place that will do; else the first one that only lacks memory.

    Skips are of places, with code away, coming, trouble or memory, or those of `choose` (named `place gpu`
    where there are several places).
    """
    skipped: list[Skip] = []
    full: Choice | None = None
    ever, retry_at = False, math.inf
    for candidate in candidates:
        place = candidate.place
        if (against := _against(candidate, now)) is not None:
            skipped.append(against)
            ever = True
            if against.code == "trouble" and candidate.trouble is not None:
                retry_at = min(retry_at, candidate.trouble.until)
            continue
        found = choose(wanted, candidate.offers, have, troubles, now)
        ever = ever or found.ever
        several = len(candidates) > 1
        skipped += [replace(s, what=f"{place} {s.what}") if several else s for s in found.skipped]
        if found.gpu is None:
            retry_at = min(retry_at, found.retry_at)
            continue
        if candidate.short:
            skipped.append(Skip(place, "memory", candidate.short))
            full = full or replace(found, place=place)
            continue
        return replace(found, place=place, skipped=tuple(skipped))
    if full is not None:
        return replace(full, skipped=tuple(s for s in skipped if s.what != full.place))
    return Choice(None, skipped=tuple(skipped), ever=ever, retry_at=retry_at)


def _against(candidate: Candidate, now: float) -> Skip | None:
    if candidate.away:
        return Skip(candidate.place, "away", candidate.away)
    if candidate.lacks:
        return Skip(candidate.place, "coming", candidate.lacks)
    if candidate.trouble is not None and now < candidate.trouble.until:
        return Skip(candidate.place, "trouble", candidate.trouble.text)
    return None


def _take(offer: Offer, count: int, skipped: Sequence[Skip]) -> Choice:
    price = None if offer.per_hour is None else offer.per_hour * count
    return Choice(offer.gpu, count, price, tuple(skipped))


def _asked(wanted: Wanted, offers: Sequence[Offer]) -> list[tuple[str, int]]:
    """`any` stands for all that is here, the cheapest first."""
    asked: list[tuple[str, int]] = []
    for name, count in wanted.gpus:
        if name.lower() == ANY:
            rest = [o for o in offers if o.gpu != CPU and (o.gpu, count) not in asked]
            rest.sort(key=lambda o: (o.per_hour is None, o.per_hour or 0, o.gpu))
            asked += [(o.gpu, count) for o in rest] or [(name, count)]
        else:
            asked.append((name, count))
    return asked


def _share(wanted: Wanted, place: int, choices: int) -> float:
    """Workers that the choice at `place` (0 is the first) may have before the next one is asked."""
    if wanted.workers_max < SPREAD_FROM or choices < 2:
        return math.inf
    weight, weights = choices - place, choices * (choices + 1) / 2
    return math.ceil(wanted.workers_max * weight / weights)


def _hint(offers: Sequence[Offer]) -> str:
    here = [offer.gpu for offer in offers if offer.gpu != CPU]
    return f"; there is: {', '.join(here)}" if here else ""


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What `victims` sorts by. `since`: of one that is ready, when it last answered; else its launch."""

    worker: str
    held: int
    ready: bool
    since: float = 0.0
    per_hour: Decimal = Decimal(0)


def victims(workers: Sequence[WorkerLoad], surplus: int) -> list[str]:
    """Which workers to end, never a busy one.

    Sort key: (ready, -per_hour, since, worker): those not ready yet first, then the dearest, then the
    one that has been without work for longest.
    """
    free = [w for w in workers if w.held == 0]
    free.sort(key=lambda w: (w.ready, -w.per_hour, w.since, w.worker))
    return [w.worker for w in free[: max(0, surplus)]]


def gpu_list(texts: Sequence[str]) -> list[tuple[str, int]]:
    """`H100:8` is eight of them, `H100` one."""
    found = []
    for text in texts:
        match = re.fullmatch(r"(.+?)(?::(\d+))?", text.strip())
        if match:
            found.append((match[1], int(match[2] or 1)))
    return found
