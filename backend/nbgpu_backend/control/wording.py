"""Figures in the sentences of the backend."""

from __future__ import annotations

from datetime import datetime


def span(seconds: float) -> str:
    """A length of time: `80 ms`, `4.2 s`, `2 min 5 s`, `2 h 10 min`."""
    if seconds < 0.1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, rest = divmod(whole // 60, 60)
    return f"{hours} h" + (f" {rest} min" if rest else "")


def size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def at(us: int) -> str:
    """An instant on this machine's clock."""
    return f"{datetime.fromtimestamp(us / 1e6).astimezone():%H:%M}"
