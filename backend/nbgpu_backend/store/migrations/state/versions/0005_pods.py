"""Pods and volumes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "pods",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("wanted", sa.String, nullable=False),
        sa.Column("reason", sa.JSON),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("volume_id", sa.String, nullable=False),
        sa.Column("token_hash", sa.LargeBinary),
        sa.Column("kept_until_us", sa.BigInteger),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("deleted_us", sa.BigInteger),
    )
    op.create_index(
        "pod_names", "pods", ["name"], unique=True, sqlite_where=sa.text("deleted_us IS NULL")
    )
    op.create_table(
        "volumes",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("size_gb", sa.Integer, nullable=False),
        sa.Column("place", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("pod_id", sa.String),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("deleted_us", sa.BigInteger),
    )
