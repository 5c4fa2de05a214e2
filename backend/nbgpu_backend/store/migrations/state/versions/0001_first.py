"""The first schema of state.db."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("model", sa.JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("stopped", sa.Integer, nullable=False),
        sa.Column("failure", sa.JSON),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("deleted_us", sa.BigInteger),
    )
    op.create_index(
        "endpoint_names",
        "endpoints",
        ["name"],
        unique=True,
        sqlite_where=sa.text("deleted_us IS NULL"),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("endpoint_id", sa.String, nullable=False, index=True),
        sa.Column("provider", sa.String, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("endpoint_version", sa.Integer, nullable=False),
        sa.Column("tier", sa.String, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False),
        sa.Column("intent_us", sa.BigInteger, nullable=False),
        sa.Column("pid", sa.Integer),
        sa.Column("started_us", sa.BigInteger),
        sa.Column("ready_us", sa.BigInteger),
        sa.Column("ended_us", sa.BigInteger),
        sa.Column("phases", sa.JSON),
        sa.Column("exit", sa.JSON),
    )
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("instance_id", sa.String, nullable=False, index=True),
        sa.Column("endpoint_id", sa.String, nullable=False, index=True),
        sa.Column("rate", sa.String, nullable=False),
        sa.Column("rate_source", sa.String, nullable=False),
        sa.Column("started_us", sa.BigInteger, nullable=False),
        sa.Column("alive_until_us", sa.BigInteger, nullable=False),
        sa.Column("ended_us", sa.BigInteger),
        sa.Column("estimated", sa.Integer, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("endpoint_id", sa.String, index=True),
        sa.Column("endpoint", sa.String),
        sa.Column("worker_id", sa.String),
        sa.Column("text", sa.String, nullable=False),
        sa.Column("values", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
