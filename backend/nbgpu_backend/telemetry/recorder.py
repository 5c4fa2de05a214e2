"""Hands rows to the telemetry writer. Nobody waits for it; a full disk costs records, not requests."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, Table, insert

from nbgpu_backend.store.database import Database
from nbgpu_backend.store.tables import requests, worker_states
from nbgpu_backend.telemetry import usage

log = logging.getLogger(__name__)

INSERTS = {table.name: insert(table) for table in (requests, worker_states)}


class Recorder:
    """Rows that come while the writer gathers its next transaction go in together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._complained = False

    def request(self, row: dict[str, Any]) -> None:
        """`row` has the columns of `store.tables.requests`."""
        self._put(requests, row)

    def worker_state(
        self, worker_id: str, endpoint_id: str, at_us: int, state: str, reason: str
    ) -> None:
        self._put(
            worker_states,
            {
                "worker_id": worker_id,
                "endpoint_id": endpoint_id,
                "at_us": at_us,
                "state": state,
                "reason": reason,
            },
        )

    def _put(self, table: Table, row: dict[str, Any]) -> None:
        with self._lock:
            rows = self._rows.get(table.name)
            if rows is not None:
                rows.append(row)  # whoever was first takes it along
                return
            mine = self._rows[table.name] = [row]

        def work(connection: Connection) -> None:
            with self._lock:
                if self._rows.get(table.name) is mine:
                    del self._rows[table.name]
            connection.execute(INSERTS[table.name], mine)
            if table is requests:
                usage.write(connection, mine)

        self._database.writer.submit(work).add_done_callback(self._done)

    def _done(self, future: Future[None]) -> None:
        error = future.exception()
        if error is None:
            self._complained = False
        elif not self._complained:  # once per trouble, not once per record
            self._complained = True
            log.error("records are being lost: %s", error)
