"""nbgpu's own count of requests, beside what was sent to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from tests.bench.report import Report
from tests.support.backend import BackendProcess
from tests.support.waiting import until

GONE = 499  # a client that hung up


class Counted:
    def __init__(self, process: BackendProcess, name: str, found: Report) -> None:
        self._process, self._name, self._found = process, name, found
        self._total = self._now()

    def check(self, what: str, answered: int, sent: int) -> None:
        """The count has grown by what was sent since the last call. Whoever stops in the middle has sent some
        that may not have arrived: it lies between those answered and those sent."""
        total = self._now()
        counted, self._total = total - self._total, total
        self._found.check(
            answered <= counted <= sent,
            f"{what}: nbgpu counted {counted} requests; {sent} were sent and {answered} answered",
        )

    def records(self) -> None:
        """Every request that was counted is a record, and none ended otherwise than well or with its client."""
        self._total = self._now()
        try:
            until(lambda: sum(self._statuses().values()) == self._total, within=10)
        except AssertionError:
            pass
        statuses = self._statuses()
        self._found.check(
            sum(statuses.values()) == self._total,
            f"nbgpu counted {self._total} requests and recorded {sum(statuses.values())}",
        )
        self._found.check(
            statuses.keys() <= {200, GONE}, f"nbgpu recorded other ends than good ones: {statuses}"
        )

    def _now(self) -> int:
        """Once nothing is held any more."""

        def look() -> int | None:
            row = self._process.row(self._name)
            return int(row["requestsTotal"]) + 1 if row["held"] == row["queued"] == 0 else None

        return (until(look, within=30) or 1) - 1

    def _statuses(self) -> Mapping[int, int]:
        with sqlite3.connect(
            f"file:{self._process.home.telemetry_db}?mode=ro", uri=True
        ) as database:
            rows = database.execute("select status, count(*) from requests group by status")
            return dict(rows.fetchall())
