"""Jobs, what they stream, and how many came to which end."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("endpoint_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("client", sa.String, nullable=False),
        sa.Column("low", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.Column("webhook", sa.String),
        sa.Column("webhook_state", sa.String),
        sa.Column("execution_ms", sa.Integer),
        sa.Column("ttl_ms", sa.BigInteger, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("queued_us", sa.BigInteger, nullable=False),
        sa.Column("assigned_us", sa.BigInteger),
        sa.Column("finished_us", sa.BigInteger),
        sa.Column("drop_us", sa.BigInteger),
        sa.Column("worker_id", sa.String),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("retried", sa.Integer, nullable=False),
        sa.Column("output", sa.LargeBinary),
        sa.Column("output_file", sa.Integer, nullable=False),
        sa.Column("error", sa.String),
        sa.Column("chunks_read", sa.Integer, nullable=False),
        sa.Column("history", sa.String, nullable=False),
    )
    op.create_index("jobs_by_endpoint", "jobs", ["endpoint_id", "created_us"])
    op.create_index(
        "jobs_live", "jobs", ["created_us"], sqlite_where=sa.text("finished_us IS NULL")
    )
    op.create_index(
        "jobs_to_drop", "jobs", ["drop_us"], sqlite_where=sa.text("drop_us IS NOT NULL")
    )
    op.create_index(
        "jobs_to_tell", "jobs", ["id"], sqlite_where=sa.text("webhook_state = 'pending'")
    )
    op.create_table(
        "job_chunks",
        sa.Column("job_id", sa.String, primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "job_counts",
        sa.Column("endpoint_id", sa.String, primary_key=True),
        sa.Column("completed", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("retried", sa.Integer, nullable=False),
    )
