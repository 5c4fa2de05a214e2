"""Hands rows to the telemetry writer. Nobody waits for it; a full disk costs records, not requests."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, Insert, insert

from nbgpu_backend.store.database import Database
from nbgpu_backend.store.tables import requests, worker_states

log = logging.getLogger(__name__)


class Recorder:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._complained = False

    def request(self, row: dict[str, Any]) -> None:
        """`row` has the columns of `store.tables.requests`."""
        self._put(insert(requests).values(**row))

    def worker_state(
        self, worker_id: str, endpoint_id: str, at_us: int, state: str, reason: str
    ) -> None:
        self._put(
            insert(worker_states).values(
                worker_id=worker_id,
                endpoint_id=endpoint_id,
                at_us=at_us,
                state=state,
                reason=reason,
            )
        )

    def _put(self, statement: Insert) -> None:
        def work(connection: Connection) -> None:
            connection.execute(statement)

        self._database.writer.submit(work).add_done_callback(self._done)

    def _done(self, future: Future[None]) -> None:
        error = future.exception()
        if error is None:
            self._complained = False
        elif not self._complained:  # once per trouble, not once per record
            self._complained = True
            log.error("records are being lost: %s", error)
