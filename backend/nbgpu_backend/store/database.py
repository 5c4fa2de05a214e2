"""Open a database: its engine for writing, its pool for reading, its schema brought up to date."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import QueuePool, StaticPool

from nbgpu_backend.errors import DiskError
from nbgpu_backend.store import tables
from nbgpu_backend.store.writer import Writer

T = TypeVar("T")
Kind = Literal["state", "telemetry"]

# The newest revision of each schema; a test holds them against the migration scripts.
HEAD: dict[Kind, str] = {"state": "0005", "telemetry": "0003"}
METADATA: dict[Kind, MetaData] = {"state": tables.state, "telemetry": tables.telemetry}
MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Database:
    path: Path
    writer: Writer
    _readers: Engine
    _threads: ThreadPoolExecutor

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run `function` on a read-only connection, in a thread."""

        def work() -> T:
            with self._readers.connect() as connection:
                return function(connection)

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        self.writer.close()
        self._threads.shutdown()
        self._readers.dispose()


def open_database(path: Path, kind: Kind, *, linger_s: float = 0.0) -> Database:
    """Migrate if need be (a copy is kept first) and open. Raises DiskError with a sentence.

    `linger_s`: how long the writer gathers work before it commits.
    """
    try:
        engine = _engine(path, "FULL" if kind == "state" else "NORMAL")
        _migrate(engine, path, kind)
        readers = _readers(path)
    except (DatabaseError, sqlite3.Error, OSError) as error:
        raise disk_error(path, error) from None
    writer = Writer(
        engine, name=path.name, linger_s=linger_s, translate=lambda e: disk_error(path, e)
    )
    return Database(path, writer, readers, ThreadPoolExecutor(2, thread_name_prefix=f"read-{kind}"))


def disk_error(path: Path, error: BaseException) -> DiskError:
    cause = str(getattr(error, "orig", None) or error)
    return DiskError(
        f"The database {path} cannot be used: {cause}.",
        "Free some space on its disk, or make its folder writable; nothing that was confirmed is lost.",
    )


def _engine(path: Path, synchronous: str) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def pragmas(connection: sqlite3.Connection, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA busy_timeout=5000")
        cursor.close()

    return engine


def _readers(path: Path) -> Engine:
    return create_engine(
        f"sqlite:///file:{path}?mode=ro&uri=true",
        poolclass=QueuePool,
        pool_size=2,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )


def revision(connection: Connection) -> str | None:
    """What Alembic wrote into this database, or None if it is new."""
    found = connection.exec_driver_sql(
        "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"
    ).first()
    if not found:
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return str(row[0]) if row else None


def _migrate(engine: Engine, path: Path, kind: Kind) -> None:
    with engine.connect() as connection:
        current = revision(connection)
        connection.rollback()
    if current == HEAD[kind]:
        return
    if current is not None and current > HEAD[kind]:
        raise DiskError(
            f"{path} was written by a newer nbgpu (schema {current}, this one knows {HEAD[kind]}).",
            "Install the newer nbgpu again, or set NBGPU_HOME to another folder.",
            code="newer_database",
        )
    if current is not None:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy2(path, path.with_suffix(f".{current}.bak"))
    upgrade(engine, kind)


def upgrade(engine: Engine, kind: Kind) -> None:
    """Alembic is imported here only: a database that is up to date never needs it."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS / kind))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
