"""One clock, injected everywhere, so that a test can own time.

Instants are UTC int64 microseconds. Durations come from CLOCK_BOOTTIME, which goes on while the
machine sleeps and means nothing after a reboot: keep the boot id beside it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    def now(self) -> int:
        """UTC, int64 microseconds since 1970."""
        ...

    def elapsed(self) -> float:
        """Seconds since an arbitrary start, suspend included."""
        ...

    async def sleep_until(self, elapsed_s: float) -> None:
        """Return once `elapsed()` has reached `elapsed_s`."""
        ...


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1000

    def elapsed(self) -> float:
        # macOS and Windows have no CLOCK_BOOTTIME; they run the client and `command` engines only
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    async def sleep_until(self, elapsed_s: float) -> None:
        while (left := elapsed_s - self.elapsed()) > 0:
            await asyncio.sleep(left)


def boot_id() -> str:
    """The kernel's id of this boot, or "" where there is none (not Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
