"""The one thread that writes to a database.

Work is a function of a connection. The thread drains what has come in, runs all of it in one transaction
and resolves the futures together, so that many small writes share one fsync. A function that raises takes
only itself down: the transaction is rolled back and the rest is run again without it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError, OperationalError

T = TypeVar("T")
BATCH = 2000  # functions in one transaction, so that one commit stays short
GATHER_S, GATHER_SHARE = (
    0.002,
    0.4,
)  # the longest wait for company, and its share of a commit's time
FADE = 0.9  # of the company that is expected, per commit


class Writer:
    """`linger_s`: wait this long after the first piece of work, to gather more (0: do not wait)."""

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        linger_s: float = 0.0,
        translate: Callable[[BaseException], BaseException],
    ) -> None:
        self._engine = engine
        self._linger_s = linger_s
        self._translate = translate
        self._work: deque[tuple[Callable[[Connection], Any], Future[Any]]] = deque()
        self._weight = 0  # of what waits
        self._company = 0.0  # the weight that recent commits had
        self._commit_s = 0.0
        self._wake = threading.Condition()
        self._closing = self._urgent = False
        self._thread = threading.Thread(target=self._run, name=f"writer-{name}", daemon=True)
        self._thread.start()

    def submit(
        self, function: Callable[[Connection], T], *, urgent: bool = False, weight: int = 1
    ) -> Future[T]:
        """The future is done once the transaction is committed. `urgent`: do not linger. `weight`: how
        many wait for it."""
        future: Future[T] = Future()
        with self._wake:
            if self._closing:
                raise RuntimeError("the writer is closed")
            self._work.append((function, future))
            self._weight += weight
            self._urgent = self._urgent or urgent
            self._wake.notify()
        return future

    async def write(self, function: Callable[[Connection], T]) -> T:
        """Shielded: a caller that goes away does not undo what is on its way to the disk."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(function)))

    async def flush(self) -> None:
        """Return when all that was submitted is committed."""
        await asyncio.wrap_future(self.submit(lambda connection: None, urgent=True))

    def close(self) -> None:
        """Commit what was submitted, then end."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._work and not self._closing:
                    self._wake.wait()
                if self._linger_s:
                    self._wake.wait_for(lambda: self._closing or self._urgent, self._linger_s)
                else:
                    self._gather()
                self._urgent = False
                batch = [self._work.popleft() for _ in range(min(len(self._work), BATCH))]
                self._company = max(float(self._weight), self._company * FADE)
                self._weight = 0
                if not batch and self._closing:
                    return
            began = time.monotonic()
            self._commit(batch)
            self._commit_s += (time.monotonic() - began - self._commit_s) / 8

    def _gather(self) -> None:
        """Those whom the last commit let go come back in a moment: with them in it, one commit serves
        all instead of every other one half of them. Alone, nobody waits."""
        if self._company > 1.5:
            patience = min(GATHER_S, self._commit_s * GATHER_SHARE)
            self._wake.wait_for(
                lambda: self._closing or self._urgent or self._weight >= self._company, patience
            )

    def _commit(self, batch: list[tuple[Callable[[Connection], Any], Future[Any]]]) -> None:
        while batch:
            results: list[Any] = []
            try:
                with self._engine.begin() as connection:
                    for function, _ in batch:
                        results.append(function(connection))
            except Exception as error:
                if len(results) == len(batch):  # the commit itself failed: nobody's alone
                    self._fail(batch, error)
                    return
                self._fail([batch.pop(len(results))], error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
            return

    def _fail(
        self, items: list[tuple[Callable[[Connection], Any], Future[Any]]], error: BaseException
    ) -> None:
        told = error
        if isinstance(error, OperationalError) or (
            isinstance(error, DatabaseError) and "full" in str(error)
        ):
            told = self._translate(error)
        for _, future in items:
            future.set_exception(told)
