"""Keys of endpoints: NewKey, KeyListing, RevokedKey."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nbgpu.formats import dollars, plural
from nbgpu.results.jobs import clock
from nbgpu.results.shape import (
    Rich,
    frame,
    html_facts,
    html_line,
    html_table,
    text_facts,
    text_table,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas
    from nbgpu_backend.schema import keys as schema

HEADS = ("id", "endpoint", "label", "key", "limits", "created", "last used", "requests",
         "tokens in", "out", "cost")  # fmt: skip
COLUMNS = ("id", "endpoint", "label", "prefix", "per_minute", "at_once", "created", "used", "requests",
           "tokens_in", "tokens_out", "cost")  # fmt: skip
ONCE = "It is shown this once and kept nowhere. Clear this output before you pass the notebook on."


def limits(key: schema.Key) -> str:
    parts = [f"{key.per_minute:,} a minute"] if key.per_minute is not None else []
    parts += [f"{key.at_once:,} at once"] if key.at_once is not None else []
    return ", ".join(parts) or "none"


def named(key: schema.Key) -> str:
    return f"{key.label} ({key.prefix}…)" if key.label else f"{key.prefix}…"


class NewKey(Rich):
    """`.secret` is the key itself. With `-o NAME` nothing is shown, and it is in that variable."""

    def __init__(self, key: schema.NewKey) -> None:
        self.key = key

    @property
    def secret(self) -> str:
        return self.key.secret

    @property
    def id(self) -> str:
        return self.key.id

    def _facts(self) -> list[tuple[str, object]]:
        k = self.key
        facts: list[tuple[str, object]] = [("key", k.secret), ("id", k.id)]
        facts += [("label", k.label)] if k.label else []
        return [*facts, ("limits", limits(k)), ("address", k.base_url)]

    def _head(self) -> str:
        return f"A key of {self.key.endpoint}. {ONCE}"

    def text(self) -> str:
        return self._head() + "\n" + text_facts(self._facts())

    def html(self) -> str:
        return html_line(self._head()) + html_facts(self._facts())

    def to_dict(self) -> dict[str, Any]:
        return self.key.wire()


class KeyListing(Rich):
    """The keys in force, and what came with each. `.df` has one row each; iterate for the ids."""

    def __init__(self, found: schema.KeyList, about: str = "") -> None:
        self.keys = found.keys
        self._about = about

    def __iter__(self) -> Iterator[str]:
        return (key.id for key in self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def df(self) -> pandas.DataFrame:
        """One row a key; instants in UTC, the cost in dollars, as a float."""
        import pandas

        rows = [
            {**k.model_dump(), "created": k.created_us, "used": k.used_us, "cost": float(k.cost)}
            for k in self.keys
        ]
        found = frame(rows, COLUMNS)
        for name in ("created", "used"):
            found[name] = pandas.to_datetime(found[name].astype("Int64"), unit="us", utc=True)
        for name in ("per_minute", "at_once"):
            found[name] = found[name].astype("Int64")
        return found

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (k.id, k.endpoint, k.label or "–", f"{k.prefix}…", limits(k), clock(k.created_us),
             clock(k.used_us) if k.used_us else "never", f"{k.requests:,}", f"{k.tokens_in:,}",
             f"{k.tokens_out:,}", dollars(k.cost))
            for k in self.keys
        ]  # fmt: skip

    def _empty(self) -> str:
        whose = f"{self._about} has no key" if self._about else "There is no key"
        return f"{whose}. Make one with: %gpu key add {self._about or 'NAME'}"

    def text(self) -> str:
        return text_table(HEADS, self._rows()) if self.keys else self._empty()

    def html(self) -> str:
        return html_table(HEADS, self._rows()) if self.keys else html_line(self._empty())

    def to_dict(self) -> dict[str, Any]:
        return {"keys": [key.wire() for key in self.keys]}


class RevokedKey(Rich):
    def __init__(self, key: schema.Key) -> None:
        self.key = key

    def text(self) -> str:
        k = self.key
        return (
            f"The key {named(k)} of {k.endpoint} is revoked, after {plural(k.requests, 'request')} and "
            f"{dollars(k.cost)}."
        )

    def html(self) -> str:
        return html_line(self.text())

    def to_dict(self) -> dict[str, Any]:
        return {"revoked": self.key.wire()}
