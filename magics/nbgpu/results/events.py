"""What happened: EventListing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nbgpu.results.jobs import clock
from nbgpu.results.shape import Rich, frame, html_line, html_table, text_table

if TYPE_CHECKING:
    import pandas
    from nbgpu_backend.schema.events import Event, EventList

COLUMNS = ("at", "kind", "endpoint", "worker_id", "text", "seq", "values")


class EventListing(Rich):
    """The newest comes last, as in a log: above the prompt of a terminal. `.df` has one row each."""

    def __init__(self, found: EventList, about: str = "") -> None:
        self.events: list[Event] = found.events[::-1]
        self._about = about

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    @property
    def df(self) -> pandas.DataFrame:
        """One row an event, oldest first; `at` in UTC."""
        import pandas

        found = frame([{**e.model_dump(), "at": e.at_us} for e in self.events], COLUMNS)
        found["at"] = pandas.to_datetime(found["at"].astype("Int64"), unit="us", utc=True)
        return found

    def _heads(self) -> tuple[str, ...]:
        return ("when", "what") if self._about else ("when", "endpoint", "what")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (clock(e.at_us), *([] if self._about else [e.endpoint or "–"]), e.text)
            for e in self.events
        ]

    def _empty(self) -> str:
        return f"Nothing has happened{f' to {self._about}' if self._about else ''} yet."

    def text(self) -> str:
        return text_table(self._heads(), self._rows()) if self.events else self._empty()

    def html(self) -> str:
        return html_table(self._heads(), self._rows()) if self.events else html_line(self._empty())

    def to_dict(self) -> dict[str, Any]:
        return {"events": [event.wire() for event in self.events]}
