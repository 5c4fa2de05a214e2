"""The id in a `traceparent` header (W3C Trace Context)."""

from __future__ import annotations

import re

PARENT = re.compile(r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?")  # fmt: skip


def trace_id(traceparent: str) -> str | None:
    """32 hexadecimal digits; None if the header is not valid. Later versions may have more fields."""
    found = PARENT.fullmatch(traceparent.strip())
    if found is None or found["version"] == "ff":
        return None
    if not found["trace"].strip("0") or not found["parent"].strip("0"):
        return None
    return None if found["version"] == "00" and found["more"] else found["trace"]
