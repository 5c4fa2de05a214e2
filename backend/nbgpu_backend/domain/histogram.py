"""Fixed log buckets for gaps between tokens: two per doubling, from 0.25 ms to about 4 minutes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

EDGES_MS: tuple[float, ...] = tuple(0.25 * 2 ** (i / 2) for i in range(40))


class Histogram:
    """Counts per bucket; bucket i holds values up to EDGES_MS[i], the last one all that is larger."""

    __slots__ = ("counts",)

    def __init__(self, counts: Sequence[int] | None = None) -> None:
        self.counts = list(counts) if counts else [0] * (len(EDGES_MS) + 1)

    def add(self, ms: float, times: int = 1) -> None:
        self.counts[bisect_left(EDGES_MS, ms)] += times

    def quantile(self, q: float) -> float | None:
        """Upper edge, in ms, of the bucket that holds the q-quantile; None if empty."""
        total = sum(self.counts)
        if not total:
            return None
        rank, seen = q * total, 0
        for i, n in enumerate(self.counts):
            seen += n
            if seen >= rank and n:
                return EDGES_MS[min(i, len(EDGES_MS) - 1)]
        return EDGES_MS[-1]

    def sparse(self) -> dict[str, int]:
        """{bucket: count}, as it is stored."""
        return {str(i): n for i, n in enumerate(self.counts) if n}

    @classmethod
    def from_sparse(cls, sparse: dict[str, int]) -> Histogram:
        counts = [0] * (len(EDGES_MS) + 1)
        for i, n in sparse.items():
            counts[int(i)] = n
        return cls(counts)
