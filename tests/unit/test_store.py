"""The writer and the schema."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from nbgpu_backend.billing.ledger import Ledger
from nbgpu_backend.billing.rates import Rate
from nbgpu_backend.errors import DiskError
from nbgpu_backend.store.database import HEAD, METADATA, MIGRATIONS, Database, open_database
from nbgpu_backend.store.state import Draft, State
from nbgpu_backend.store.tables import events, instances, ledger, settings
from sqlalchemy import Connection, create_engine, inspect, select, text


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "state.db", "state")
    yield opened
    opened.close()


def put(key: str) -> object:
    def work(connection: Connection) -> str:
        connection.execute(settings.insert().values(key=key, value="v", source="s", at_us=1))
        return key

    return work


def keys(database: Database) -> list[str]:
    with create_engine(f"sqlite:///{database.path}").connect() as connection:
        return sorted(connection.execute(select(settings.c.key)).scalars())


def test_many_writes_share_transactions_and_each_hears_of_its_own(database: Database) -> None:
    futures = [database.writer.submit(put(f"k{i:03}")) for i in range(300)]  # type: ignore[arg-type]
    assert [f.result(10) for f in futures] == [f"k{i:03}" for i in range(300)]
    assert len(keys(database)) == 300


def test_one_that_fails_takes_only_itself_down(database: Database) -> None:
    good = [database.writer.submit(put(k)) for k in ("a", "b")]  # type: ignore[arg-type]
    bad = database.writer.submit(put("a"))  # type: ignore[arg-type]
    last = database.writer.submit(put("c"))  # type: ignore[arg-type]
    with pytest.raises(Exception, match="UNIQUE"):
        bad.result(10)
    assert [f.result(10) for f in [*good, last]] == ["a", "b", "c"]
    assert keys(database) == ["a", "b", "c"]


async def test_events_get_their_seq_in_the_transaction_of_their_change(database: Database) -> None:
    state, heard = State(database), []
    state.listen(heard.append)
    await state.commit(None, Draft(1, "one", "first"), Draft(2, "two", "second"))

    def broken(connection: Connection) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await state.commit(broken, Draft(3, "never", "never"))
    await state.commit(None, Draft(4, "three", "third"))
    stored = await state.events_since(0)
    assert [e.kind for e in stored] == [e.kind for e in heard] == ["one", "two", "three"]
    assert [e.seq for e in stored] == sorted({e.seq for e in stored})


@pytest.mark.parametrize("kind", ["state", "telemetry"])
def test_the_migrations_make_what_the_tables_say(tmp_path: Path, kind: str) -> None:
    open_database(tmp_path / "x.db", kind).close()  # type: ignore[arg-type]
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    found, metadata = inspect(engine), METADATA[kind]  # type: ignore[index]
    for table in metadata.tables.values():
        columns = {
            c["name"]: (str(c["type"]), c["nullable"]) for c in found.get_columns(table.name)
        }
        assert columns == {c.name: (str(c.type.compile(engine.dialect)), c.nullable) for c in table.columns}  # fmt: skip
        assert {i["name"] for i in found.get_indexes(table.name)} == {i.name for i in table.indexes}
    scripts = sorted((MIGRATIONS / kind / "versions").glob("*.py"))
    assert scripts[-1].name.split("_")[0] == HEAD[kind]  # type: ignore[index]


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    open_database(path, "state").close()
    with create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DiskError, match="newer nbgpu"):
        open_database(path, "state")


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(DiskError, match="cannot be used"):
        open_database(path, "state")


def test_seq_is_never_used_again(database: Database) -> None:
    row = Draft(1, "k", "t").row()
    database.writer.submit(lambda c: c.execute(events.insert().values(**row)) and None).result(5)
    database.writer.submit(lambda c: c.execute(events.delete()) and None).result(5)
    database.writer.submit(lambda c: c.execute(events.insert().values(**row)) and None).result(5)
    with create_engine(f"sqlite:///{database.path}").connect() as connection:
        assert connection.execute(select(events.c.seq)).scalar() == 2


async def test_a_bill_ends_with_its_instance_at_the_latest(database: Database) -> None:
    def work(connection: Connection) -> list[tuple[str, int | None]]:
        for name, ended in (("gone", 50), ("there", None)):
            connection.execute(
                instances.insert().values(
                    id=name, name=name, endpoint_id="e", provider="local", generation=1,
                    endpoint_version=1, tier="plain", port=0, slots=1, intent_us=1, ended_us=ended,
                )
            )  # fmt: skip
            Ledger.write_open(connection, name, "e", Rate(Decimal(1), "a test"), 10)
        Ledger.write_missed_ends(connection)
        rows = connection.execute(select(ledger.c.instance_id, ledger.c.ended_us))
        return sorted((str(row[0]), row[1]) for row in rows)

    assert await database.writer.write(work) == [("gone", 50), ("there", None)]
