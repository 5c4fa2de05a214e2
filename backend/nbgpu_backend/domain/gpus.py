"""The GPUs of one machine, told apart by their indices. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nbgpu_backend.domain.placement import Offer


def offers(gpus: Sequence[tuple[int, str]], taken: Collection[int]) -> list[Offer]:
    """(index, type) of a machine's GPUs, and the indices that somebody has."""
    totals: dict[str, int] = {}
    free: dict[str, int] = {}
    for index, name in gpus:
        totals[name] = totals.get(name, 0) + 1
        free[name] = free.get(name, 0) + (index not in taken)
    return [Offer(name, free[name], total) for name, total in totals.items()]


def pick(
    gpus: Sequence[tuple[int, str]], taken: Collection[int], name: str, count: int
) -> list[int]:
    """The first free ones of a type; fewer than `count` where there are not so many."""
    return [index for index, kind in gpus if kind == name and index not in taken][:count]
