"""How much a key may ask for: so many requests a minute, and so many at once.

The rate is a token bucket in whole numbers, so that its bound is exact: at first there are `per_minute`
tokens, a request takes one, and they come back evenly. In any T seconds at most
`per_minute + per_minute * T / 60` requests are admitted, and in the long run `per_minute` a minute.
Instants are microseconds of a clock that never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MINUTE_US = 60_000_000
SECOND_US = 1_000_000
COME_BACK_US = SECOND_US  # when one of those in progress ends is not known


class Bucket:
    """A token is MINUTE_US of its level, which rises by `per_minute` a microsecond."""

    __slots__ = ("_at_us", "_level", "per_minute")

    def __init__(self, per_minute: int, now_us: int) -> None:
        self.per_minute = per_minute
        self._level = per_minute * MINUTE_US
        self._at_us = now_us

    def take(self, now_us: int) -> bool:
        """One token; False if there is none."""
        self._fill(now_us)
        if self._level < MINUTE_US:
            return False
        self._level -= MINUTE_US
        return True

    def remaining(self, now_us: int) -> int:
        """Requests that would be admitted now, one after the other."""
        self._fill(now_us)
        return self._level // MINUTE_US

    def wait_us(self, now_us: int) -> int:
        """Until there is a token; 0 if there is one."""
        self._fill(now_us)
        return max(0, -(-(MINUTE_US - self._level) // self.per_minute))

    def reset_us(self, now_us: int) -> int:
        """Until it is full again."""
        self._fill(now_us)
        return -(-(self.per_minute * MINUTE_US - self._level) // self.per_minute)

    def _fill(self, now_us: int) -> None:
        if (passed := now_us - self._at_us) > 0:
            full = self.per_minute * MINUTE_US
            self._level = min(full, self._level + passed * self.per_minute)
            self._at_us = now_us


@dataclass(frozen=True, slots=True)
class Refusal:
    """`kind` names the limit that was reached; `retry_us` is when it is worth asking again."""

    kind: Literal["rate", "at_once"]
    retry_us: int


class Allowance:
    """Both limits of one key (None: no such limit), and how much it has in progress."""

    __slots__ = ("at_once", "bucket", "held")

    def __init__(self, per_minute: int | None, at_once: int | None, now_us: int) -> None:
        self.bucket = None if per_minute is None else Bucket(per_minute, now_us)
        self.at_once = at_once
        self.held = 0

    def enter(self, now_us: int) -> Refusal | None:
        """None: it is admitted, and held until `leave`. One that is refused takes no token."""
        if self.at_once is not None and self.held >= self.at_once:
            return Refusal("at_once", COME_BACK_US)
        if self.bucket is not None and not self.bucket.take(now_us):
            return Refusal("rate", self.bucket.wait_us(now_us))
        self.held += 1
        return None

    def hold(self) -> None:
        """One that was admitted before, as a job is that goes on without its connection."""
        self.held += 1

    def leave(self) -> None:
        self.held -= 1


def retry_after_s(wait_us: int) -> int:
    """Whole seconds, as Retry-After counts: never too early."""
    return max(1, -(-wait_us // SECOND_US))


def reset_text(us: int) -> str:
    """A duration as OpenAI's headers write it: `120ms`, `8.64s`, `6m0s`."""
    if us < SECOND_US:
        return f"{-(-us // 1000)}ms"
    minutes, rest = divmod(us, MINUTE_US)
    seconds = f"{rest / SECOND_US:.2f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
