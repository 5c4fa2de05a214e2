"""What the rows cost: the backend's own records, joined by the jobs' ids."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING

from nbgpu import errors
from nbgpu.batch.journal import Entry, Journal
from nbgpu.verbs.call import Call

if TYPE_CHECKING:
    from nbgpu.client import Client

UNRECORDED_S = 60  # a record that has not come by then was lost with its backend
GRACE_US = 5_000_000


def total(entries: dict[int, Entry]) -> Decimal:
    return sum((Decimal(e.cost) for e in entries.values() if e.cost is not None), Decimal(0))


class Costs:
    """`look` asks for what ended since; `spent` is the sum of all rows, earlier runs included."""

    def __init__(self, client: Client, endpoint: str, journal: Journal, rows: set[int]) -> None:
        self._client = client
        self._endpoint = endpoint
        self._journal = journal
        self._open = {
            number for number in rows
            if (entry := journal.entries.get(number)) is None or entry.cost is None
        }  # fmt: skip
        self._ended_s: dict[int, float] = {}
        self.spent = total({n: e for n, e in journal.entries.items() if n in rows})

    def look(self) -> None:
        now = time.monotonic()
        waiting: dict[str, int] = {}
        since_us = None
        for number in list(self._open):
            entry = self._journal.entries.get(number)
            if entry is None or entry.end is None:
                continue
            if entry.job is None or now - self._ended_s.setdefault(number, now) > UNRECORDED_S:
                self._open.discard(number)
                continue
            waiting[entry.job] = number
            since_us = entry.at_us if since_us is None else min(since_us, entry.at_us)
        if not waiting or since_us is None:
            return
        params: dict[str, str | int | list[str]] = {
            "endpoint": self._endpoint, "since_us": max(0, since_us - GRACE_US)
        }  # fmt: skip
        try:
            table = self._client.send(
                Call("GET", "/nbgpu/v1/metrics/requests", "Columns", params=params)
            )
        except errors.OneLine:
            return  # it matters less than the rows themselves
        columns = table.columns
        for job, cost in zip(columns.get("id", ()), columns.get("cost", ()), strict=True):
            number = waiting.get(job, -1)
            if number in self._open:
                self._open.discard(number)
                self._journal.cost(number, str(cost))
                self.spent += Decimal(str(cost))
