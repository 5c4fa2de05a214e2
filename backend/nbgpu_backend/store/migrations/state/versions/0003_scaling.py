"""Endpoints that are kept warm, and the GPUs of instances."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("warm", sa.JSON))
    op.add_column("instances", sa.Column("gpu", sa.String))
    op.add_column(
        "instances", sa.Column("gpu_count", sa.Integer, nullable=False, server_default="0")
    )
