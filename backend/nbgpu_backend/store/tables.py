"""The tables. Instants are UTC microseconds; rates are decimal text; structured values are JSON text."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    text,
)
from sqlalchemy.types import UserDefinedType


class Bytes(UserDefinedType[bytes]):
    """A BLOB as the driver takes and gives it; LargeBinary wraps each value."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "BLOB"


state = MetaData()
telemetry = MetaData()

meta = Table(
    "meta", state, Column("key", String, primary_key=True), Column("value", String, nullable=False)
)

settings = Table(
    "settings",
    state,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
    Column("source", String, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)

endpoints = Table(
    "endpoints",
    state,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("spec", JSON, nullable=False),  # schema.CreateEndpoint as it is in force
    Column("model", JSON, nullable=False),  # ModelRecord: source, revision, path, bytes, fetched
    Column("version", Integer, nullable=False),
    Column("stopped", Integer, nullable=False),
    Column("failure", JSON(none_as_null=True)),  # Reason of the failure that holds it down
    Column("created_us", BigInteger, nullable=False),
    Column("deleted_us", BigInteger),
    Column("warm", JSON(none_as_null=True)),  # {"until_us", "workers"}: kept up until then
)
Index("endpoint_names", endpoints.c.name, unique=True, sqlite_where=text("deleted_us IS NULL"))

pods = Table(
    "pods",
    state,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("spec", JSON, nullable=False),  # schema.CreatePod as it is in force
    Column("version", Integer, nullable=False),
    Column("wanted", String, nullable=False),  # running or stopped
    Column("reason", JSON(none_as_null=True)),  # Reason of its last end, or of a failure
    Column("failed", Integer, nullable=False),
    Column("volume_id", String, nullable=False),
    Column("token_hash", Bytes),  # SHA-256 of what opens the backend from inside
    Column("kept_until_us", BigInteger),  # it was extended: not idle before that
    Column("created_us", BigInteger, nullable=False),
    Column("deleted_us", BigInteger),
)
Index("pod_names", pods.c.name, unique=True, sqlite_where=text("deleted_us IS NULL"))

# What /workspace is. One with a pod's id goes with that pod; the others are network volumes.
volumes = Table(
    "volumes",
    state,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("size_gb", Integer, nullable=False),
    Column("place", String, nullable=False),
    Column("type", String, nullable=False),
    Column("pod_id", String),
    Column("created_us", BigInteger, nullable=False),
    Column("deleted_us", BigInteger),
)

# Workers of endpoints, and pods. An owner is an endpoint or a pod; so it is in `ledger` and in `events`.
instances = Table(
    "instances",
    state,
    Column("id", String, primary_key=True),  # new at every launch, never used again
    Column("name", String, nullable=False, unique=True),
    Column("endpoint_id", String, nullable=False, index=True),  # of its owner
    Column("provider", String, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("endpoint_version", Integer, nullable=False),
    Column("tier", String, nullable=False),
    Column("port", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("intent_us", BigInteger, nullable=False),  # written before the launch
    Column("pid", Integer),
    Column("started_us", BigInteger),
    Column("ready_us", BigInteger),
    Column("ended_us", BigInteger),
    Column("phases", JSON(none_as_null=True)),  # [[name, seconds], …]
    Column("exit", JSON(none_as_null=True)),
    Column("gpu", String),  # its type; NULL: none
    Column("gpu_count", Integer, nullable=False, server_default="0"),
)

ledger = Table(
    "ledger",
    state,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("instance_id", String, nullable=False, index=True),
    Column("endpoint_id", String, nullable=False, index=True),
    Column("rate", String, nullable=False),  # dollars an hour
    Column("rate_source", String, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("alive_until_us", BigInteger, nullable=False),
    Column("ended_us", BigInteger),
    Column("estimated", Integer, nullable=False),
)

events = Table(
    "events",
    state,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("at_us", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("endpoint_id", String, index=True),
    Column("endpoint", String),
    Column("worker_id", String),
    Column("text", String, nullable=False),
    Column("values", JSON, nullable=False),
    sqlite_autoincrement=True,  # a seq is never used twice, even after old events are dropped
)

# The long texts of a job (input, output, chunks) are JSON text; above 64 KiB they are files.
jobs = Table(
    "jobs",
    state,
    Column("id", String, primary_key=True),
    Column("endpoint_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("client", String, nullable=False),
    Column("low", Integer, nullable=False),
    Column("body", Bytes),  # what the worker gets; NULL: a file
    Column("webhook", String),
    Column("webhook_state", String),  # pending, sent, failed
    Column("execution_ms", Integer),  # its own limit; NULL: the endpoint's
    Column("ttl_ms", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("queued_us", BigInteger, nullable=False),  # created, or retried by hand
    Column("assigned_us", BigInteger),
    Column("finished_us", BigInteger),
    Column("drop_us", BigInteger),  # the result is kept until then
    Column("worker_id", String),
    Column("tries", Integer, nullable=False),
    Column("retried", Integer, nullable=False),
    Column("output", Bytes),
    Column("output_file", Integer, nullable=False),
    Column("error", String),
    Column("chunks_read", Integer, nullable=False),
    Column("history", String, nullable=False),  # a JSON array a line: [at_us, what, why]
    Column("api_key", String),  # the id of the key that it came with
)
Index("jobs_by_endpoint", jobs.c.endpoint_id, jobs.c.created_us)
Index("jobs_live", jobs.c.created_us, sqlite_where=text("finished_us IS NULL"))
Index("jobs_to_drop", jobs.c.drop_us, sqlite_where=text("drop_us IS NOT NULL"))
Index("jobs_to_tell", jobs.c.id, sqlite_where=text("webhook_state = 'pending'"))

job_chunks = Table(
    "job_chunks",
    state,
    Column("job_id", String, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("body", Bytes, nullable=False),
    sqlite_with_rowid=False,
)

# What became of an endpoint's jobs, also of those whose rows are gone.
job_counts = Table(
    "job_counts",
    state,
    Column("endpoint_id", String, primary_key=True),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("retried", Integer, nullable=False),
)

# What opens one endpoint's data routes. The secret itself is nowhere.
keys = Table(
    "keys",
    state,
    Column("id", String, primary_key=True),
    Column("endpoint_id", String, nullable=False, index=True),
    Column("hash", Bytes, nullable=False),  # SHA-256
    Column("prefix", String, nullable=False),
    Column("label", String, nullable=False),
    Column("per_minute", Integer),  # NULL: no limit
    Column("at_once", Integer),
    Column("created_us", BigInteger, nullable=False),
    Column("used_us", BigInteger),
    Column("revoked_us", BigInteger),
)

requests = Table(
    "requests",
    telemetry,
    Column("id", String, primary_key=True),
    Column("endpoint_id", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("worker_id", String),
    Column("arrived_us", BigInteger, nullable=False),
    Column("queue_us", BigInteger, nullable=False),
    Column("cold", Integer, nullable=False),
    Column("start_us", BigInteger, nullable=False),
    Column("phases", JSON, nullable=False),
    Column("first_byte_us", BigInteger),
    Column("total_us", BigInteger, nullable=False),
    Column("tokens_in", Integer),
    Column("tokens_out", Integer),
    Column("gaps", JSON, nullable=False),  # domain.histogram, sparse
    Column("status", Integer, nullable=False),
    Column("error", String),
    Column("route", String, nullable=False),
    Column("streamed", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("share_us", BigInteger, nullable=False),  # its part of the worker's busy time
    Column("rate", String, nullable=False),
    Column("origin", JSON, nullable=False),
    Column("tier", String),  # of the cold start that it waited for
    Column("key", String),  # the id of the key that it came with; NULL: the token
    Column("trace", String),  # the id of the trace that it is part of
)
Index("requests_by_endpoint", requests.c.endpoint_id, requests.c.arrived_us)
Index("requests_by_time", requests.c.arrived_us)

# What came with each key, also of records that are gone. A part of a worker's busy time is priced by the
# rate that it had, so there is a row for each.
key_usage = Table(
    "key_usage",
    telemetry,
    Column("key", String, primary_key=True),
    Column("rate", String, primary_key=True),  # dollars an hour
    Column("requests", BigInteger, nullable=False),
    Column("tokens_in", BigInteger, nullable=False),
    Column("tokens_out", BigInteger, nullable=False),
    Column("share_us", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

worker_states = Table(
    "worker_states",
    telemetry,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("worker_id", String, nullable=False, index=True),
    Column("endpoint_id", String, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
)
Index("worker_states_by_time", worker_states.c.at_us)
