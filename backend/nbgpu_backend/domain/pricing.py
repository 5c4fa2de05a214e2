"""What it cost, by RunPod's rule: start, execution and idle bill per second, and the seconds are rounded
up once per instance's life.

Amounts are Decimal dollars, instants UTC microseconds. Shares are allocations made when asked:
an interval's seconds are split by the state that the worker was in (one that drains, or is not heard, counts
as what it was before), and the second that rounding added belongs to the last one. A request's cost is its part of the busy time: each instant is shared equally
among the requests that the worker held (so the requests' costs add up to the busy share).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

HOUR = Decimal(3600)
MICRO = 1_000_000
SHARES = {
    "starting": "start",
    "idle": "idle",
    "running": "busy",
    "unhealthy": "idle",
}


@dataclass(frozen=True, slots=True)
class Interval:
    """Time of one instance at one rate (dollars an hour). `end_us` is now where it still runs."""

    instance: str
    start_us: int
    end_us: int
    rate: Decimal


@dataclass(frozen=True, slots=True)
class Flip:
    """A worker entered `state` at `at_us`."""

    at_us: int
    state: str


@dataclass(frozen=True, slots=True)
class Slice:
    share: str  # start, busy, idle
    start_us: int
    end_us: int
    amount: Decimal


def lifetime_amount(intervals: Sequence[Interval]) -> Decimal:
    """Dollars for one instance: its intervals in order. Those that cost something are rounded up to whole
    seconds once, at their last rate."""
    return sum((_dollars(i.end_us - i.start_us, i.rate) for i in intervals), _rounding(intervals))


def slices(intervals: Sequence[Interval], flips: Sequence[Flip]) -> list[Slice]:
    """One instance's money by share, in order of time; the amounts add up to `lifetime_amount`.

    `flips` is the worker's timeline in order; time before the first flip counts as start.
    """
    result: list[Slice] = []
    billed = -1
    for interval in intervals:
        share, at = "start", interval.start_us
        for flip in flips:
            next_share = SHARES.get(flip.state, share)
            if flip.at_us <= at:
                share = next_share
                continue
            if flip.at_us >= interval.end_us:
                break
            if next_share != share:
                result.append(_slice(share, at, flip.at_us, interval.rate))
                share, at = next_share, flip.at_us
        result.append(_slice(share, at, interval.end_us, interval.rate))
        if interval.rate:
            billed = len(result) - 1
    if billed >= 0:
        last = result[billed]
        amount = last.amount + _rounding(intervals)
        result[billed] = Slice(last.share, last.start_us, last.end_us, amount)
    return result


def _slice(share: str, start_us: int, end_us: int, rate: Decimal) -> Slice:
    return Slice(share, start_us, end_us, _dollars(end_us - start_us, rate))


def _dollars(micros: int, rate: Decimal) -> Decimal:
    return rate * micros / MICRO / HOUR


def _rounding(intervals: Sequence[Interval]) -> Decimal:
    """Dollars that rounding up to whole seconds adds."""
    billed = [i for i in intervals if i.rate]
    if not billed:
        return Decimal(0)
    return _dollars(-sum(i.end_us - i.start_us for i in billed) % MICRO, billed[-1].rate)


def plain(amount: Decimal) -> str:
    """Decimal text without an exponent, at most nine places (a second of a cent an hour shows)."""
    text = f"{amount.quantize(Decimal('0.000000001')):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
