"""Keys of endpoints, and the key that a job came with."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("endpoint_id", sa.String, nullable=False, index=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("prefix", sa.String, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("per_minute", sa.Integer),
        sa.Column("at_once", sa.Integer),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("used_us", sa.BigInteger),
        sa.Column("revoked_us", sa.BigInteger),
    )
    op.add_column("jobs", sa.Column("api_key", sa.String))
