"""The first schema of telemetry.db."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("endpoint_id", sa.String, nullable=False),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("worker_id", sa.String),
        sa.Column("arrived_us", sa.BigInteger, nullable=False),
        sa.Column("queue_us", sa.BigInteger, nullable=False),
        sa.Column("cold", sa.Integer, nullable=False),
        sa.Column("start_us", sa.BigInteger, nullable=False),
        sa.Column("phases", sa.JSON, nullable=False),
        sa.Column("first_byte_us", sa.BigInteger),
        sa.Column("total_us", sa.BigInteger, nullable=False),
        sa.Column("tokens_in", sa.Integer),
        sa.Column("tokens_out", sa.Integer),
        sa.Column("gaps", sa.JSON, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("error", sa.String),
        sa.Column("route", sa.String, nullable=False),
        sa.Column("streamed", sa.Integer, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("share_us", sa.BigInteger, nullable=False),
        sa.Column("rate", sa.String, nullable=False),
        sa.Column("origin", sa.JSON, nullable=False),
    )
    op.create_index("requests_by_endpoint", "requests", ["endpoint_id", "arrived_us"])
    op.create_index("requests_by_time", "requests", ["arrived_us"])
    op.create_table(
        "worker_states",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("worker_id", sa.String, nullable=False, index=True),
        sa.Column("endpoint_id", sa.String, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
    )
    op.create_index("worker_states_by_time", "worker_states", ["at_us"])
