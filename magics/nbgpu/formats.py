"""Numbers as people read them (stdlib only)."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """`30s`, `5m`, `2h`, `1h30m`, `1d`, or a bare number of seconds. Raises ValueError with a sentence."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    if not re.fullmatch(r"(\d+[smhd])+", text):
        raise ValueError(f"{text!r} is no length of time. Write it as in: 30s, 5m, 2h, 1d")
    return sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([smhd])", text))


def fine_seconds(text: str) -> float:
    """As `seconds`, and parts of one: `0.5s`, `0.5`. Raises ValueError with a sentence."""
    if found := re.fullmatch(r"(\d*\.\d+)s?", text):
        return float(found[1])
    return float(seconds(text))


def span(value: float) -> str:
    """A length of time: `0.4 s`, `21.4 s`, `2 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    if isinstance(value, int) and value < 60:
        return f"{value} s"
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.2f}".rstrip("0").rstrip(".") + " s" if value < 1 else f"{value:.1f} s"
    whole = round(value)
    for size, name, below, small in (
        (86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")
    ):  # fmt: skip
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def dollars(amount: str | float | Decimal) -> str:
    """`$0.41`, `$1,204.00`; below a cent two digits that count: `$0.0012`. Nothing is `$0`."""
    try:
        value = Decimal(str(amount))
    except InvalidOperation:
        return str(amount)
    sign, value = ("-" if value < 0 else ""), abs(value)
    if not value:
        return "$0"
    if value >= Decimal("0.0995"):
        return f"{sign}${value:,.2f}"
    if value < Decimal("0.000001"):
        return f"less than {sign}$0.000001"
    digits = 1 - value.adjusted()
    return f"{sign}$" + (f"{value:.{digits}f}".rstrip("0") if digits > 2 else f"{value:.2f}")


def per_hour(rate: str | float | Decimal) -> str:
    return dollars(rate) + "/h"


def size(count: float) -> str:
    """Bytes: `812 MB`, `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return (
                f"{count:.0f} {unit}"
                if unit in ("B", "kB") or count >= 100
                else f"{count:.1f} {unit}"
            )
        count /= 1000
    return f"{count:.1f} TB"


def sentence(text: str) -> str:
    """With its full stop; nothing stays nothing."""
    text = text.rstrip()
    return text if not text or text[-1] in ".!?:" else text + "."


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
