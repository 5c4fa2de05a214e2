"""Wait for what announces itself by no event: look often, give up at a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], *, within: float = 20.0, every: float = 0.02) -> T:
    """The first truthy answer of `look`."""
    end = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"it did not happen within {within} s (last answer: {found!r})")
        time.sleep(every)
