"""Names of endpoints (and later pods): one namespace, also the first path segment after `/v2/`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

# First path segments of REST v2 and of ours: an endpoint of that name could not be reached.
RESERVED = frozenset(
    {
        "account", "billing", "catalog", "clusters", "docs", "endpoints", "flash", "global-volumes", "health",
        "hub", "lb", "metrics", "nbgpu", "network-volumes", "openai", "openapi", "pods", "registries",
        "serverless", "templates", "v1", "v2", "all",
    }
)  # fmt: skip


def complaint(name: str) -> tuple[str, str] | None:
    """What is wrong with a name and what to do about it, or None if it can be used."""
    if name in RESERVED:
        return (
            f"The name '{name}' is reserved: it is part of the API's paths.",
            f"Try --name my-{name}",
        )
    if not PATTERN.fullmatch(name):
        better = suggest(name)
        return (
            f"'{name}' is no name: use a-z, 0-9 and '-' inside, at most 63 characters.",
            f"Try --name {better}" if better else "Try --name chat",
        )
    return None


def suggest(text: str) -> str:
    """A valid name close to `text`: its last path part, lower-cased and cleaned; "" if nothing is left."""
    last = text.rstrip("/").rsplit("/", 1)[-1].split("@")[0].lower()
    return re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:63].strip("-")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "Did you mean 'smol'?", or "" where nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else ""
