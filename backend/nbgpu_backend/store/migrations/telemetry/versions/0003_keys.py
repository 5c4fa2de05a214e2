"""The key that a request came with and the trace that it is part of; what came with each key in all."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("requests", sa.Column("key", sa.String))
    op.add_column("requests", sa.Column("trace", sa.String))
    op.create_table(
        "key_usage",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("rate", sa.String, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("tokens_in", sa.BigInteger, nullable=False),
        sa.Column("tokens_out", sa.BigInteger, nullable=False),
        sa.Column("share_us", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
