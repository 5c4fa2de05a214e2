"""Keys of endpoints: what they open, what they may ask for, and what came with them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
import pytest
from nbgpu import errors
from nbgpu.client import Client
from nbgpu_backend.store.database import open_database
from nbgpu_backend.store.tables import requests
from sqlalchemy import create_engine, delete, text

from tests.support.backend import BackendProcess, command_engine
from tests.support.waiting import until

KEYS = "/nbgpu/v1/keys"
CHAT = "/v2/{}/openai/v1/chat/completions"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_names = count(1)


def add(backend: BackendProcess, endpoint: str, **limits: Any) -> dict[str, Any]:
    answer = backend.http.post(KEYS, json={"endpoint": endpoint, **limits})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def listed(backend: BackendProcess, key: dict[str, Any]) -> dict[str, Any]:
    keys = backend.get(f"{KEYS}?endpoint={key['endpoint']}")["keys"]
    found: dict[str, Any] = next(k for k in keys if k["id"] == key["id"])
    return found


@contextmanager
def holding(backend: BackendProcess, key: dict[str, Any] | str) -> Iterator[httpx.Client]:
    """A client that has this key and nothing else."""
    secret = key if isinstance(key, str) else key["secret"]
    client = backend.client()
    client.headers["Authorization"] = f"Bearer {secret}"
    with client:
        yield client


def body(name: str, **more: Any) -> dict[str, Any]:
    return {"model": name, "messages": [{"role": "user", "content": "two words"}], **more}


def chat(client: httpx.Client, name: str, **more: Any) -> httpx.Response:
    return client.post(CHAT.format(name), json=body(name, **more))


@pytest.fixture
def name(shared_backend: BackendProcess) -> str:
    """A fresh endpoint with the tiny upstream behind it."""
    found = f"keyed-{next(_names)}"
    shared_backend.deploy(found)
    return found


def test_a_key_opens_the_models_and_jobs_of_its_endpoint(
    shared_backend: BackendProcess, name: str
) -> None:
    key = add(shared_backend, name, label="app")
    assert key["secret"].startswith("nbgpu_") and key["secret"].startswith(key["prefix"])
    assert key["baseUrl"].endswith(f"/v2/{name}/openai/v1")
    with holding(shared_backend, key) as client:
        assert chat(client, name).status_code == 200
        by_name = client.post("/openai/v1/chat/completions", json=body(name))
        assert by_name.status_code == 200
        by_id = client.post(CHAT.format(key["endpointId"]), json=body(name))
        assert by_id.status_code == 200
        given = {"input": {"prompt": "x"}}
        job = client.post(f"/v2/{name}/runsync", json=given).json()
        assert job["status"] == "COMPLETED"
        assert client.get(f"/v2/{name}/status/{job['id']}").status_code == 200
        assert client.get(f"/v2/{name}/health").status_code == 200
        raw = client.get(f"/v2/{name}/health", headers={"Authorization": key["secret"]})
        assert raw.status_code == 200  # RunPod's clients may leave Bearer out


def test_a_key_opens_nothing_else(shared_backend: BackendProcess, name: str) -> None:
    shared_backend.deploy("neighbour")
    with holding(shared_backend, add(shared_backend, name)) as client:
        for other in ("neighbour", "no-such-endpoint"):
            refused = chat(client, other)
            assert refused.status_code == 403
            assert f"another endpoint than '{other}'" in refused.json()["error"]["message"]
            by_model = client.post("/openai/v1/chat/completions", json=body(other))
            assert by_model.status_code == 403
            models = client.get(f"/v2/{other}/openai/v1/models")
            assert models.status_code == 403
            job = client.post(f"/v2/{other}/run", json={"input": {}})
            assert job.status_code == 403 and job.json()["status"] == "FAILED"
            assert f"another endpoint than '{other}'" in job.json()["error"]
        ids = [m["id"] for m in client.get("/openai/v1/models").json()["data"]]
        assert ids == [name]
        assert client.get("/openai/v1/models/neighbour").status_code == 404
        for verb in ("job-take/w-1", "job-take-batch/w-1", "job-stop/w-1", "ping/w-1"):
            assert client.get(f"/v2/{name}/{verb}").status_code == 403, verb
        for verb in ("job-done/w-1/j", "job-stream/w-1/j"):
            assert client.post(f"/v2/{name}/{verb}", json={}).status_code == 403, verb
        for method, path in (
            ("GET", "/v2/serverless"), ("GET", f"/v2/serverless/{name}"),
            ("DELETE", f"/v2/serverless/{name}"), ("GET", KEYS), ("POST", KEYS),
            ("GET", "/nbgpu/v1/summary"), ("GET", "/nbgpu/v1/events"), ("GET", "/metrics"),
            ("POST", "/nbgpu/v1/shutdown"), ("GET", "/nbgpu/v1/jobs"),
        ):  # fmt: skip
            answer = client.request(method, path, json={} if method == "POST" else None)
            assert answer.status_code == 403, (method, path)
            assert "and nothing else" in answer.json()["detail"]
            assert answer.headers["content-type"] == "application/problem+json"


def test_a_revoked_or_unknown_key_is_told_in_the_shape_of_the_route(
    shared_backend: BackendProcess, name: str
) -> None:
    key = add(shared_backend, name)
    with holding(shared_backend, key) as client:
        assert client.get("/openai/v1/models").status_code == 200
        gone = shared_backend.http.delete(f"{KEYS}/{key['id']}")
        assert gone.status_code == 200 and "secret" not in gone.json()
        assert gone.json()["id"] == key["id"]
        assert shared_backend.http.delete(f"{KEYS}/{key['id']}").status_code == 404
        assert shared_backend.get(f"{KEYS}?endpoint={name}")["keys"] == []
        for secret in (key["secret"], key["secret"] + "x", "nbgpu_", "."):
            client.headers["Authorization"] = f"Bearer {secret}"
            openai = chat(client, name)
            assert openai.status_code == 401
            assert openai.json()["error"]["type"] == "authentication_error"
            job = client.post(f"/v2/{name}/run", json={"input": {}})
            assert job.status_code == 401 and job.json()["code"] == "unauthorized"
            control = client.get("/nbgpu/v1/summary")
            assert control.status_code == 401 and control.json()["status"] == 401


def test_the_rate_is_told_in_every_answer_and_kept(
    shared_backend: BackendProcess, name: str
) -> None:
    with holding(shared_backend, add(shared_backend, name, perMinute=3)) as client:
        assert client.get("/openai/v1/models").status_code == 200  # counts to no limit
        first = chat(client, name)
        assert first.headers["x-ratelimit-limit-requests"] == "3"
        assert first.headers["x-ratelimit-remaining-requests"] == "2"
        assert first.headers["x-ratelimit-reset-requests"].endswith("s")
        streamed = chat(client, name, stream=True)
        assert streamed.headers["x-ratelimit-remaining-requests"] == "1"
        job = client.post(f"/v2/{name}/run", json={"input": {"prompt": "x"}})
        assert job.headers["x-ratelimit-remaining-requests"] == "0"
        refused = chat(client, name)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert "3 requests a minute" in refused.json()["error"]["message"]
        no_job = client.post(f"/v2/{name}/run", json={"input": {"prompt": "x"}})
        assert no_job.status_code == 429 and no_job.json()["status"] == "FAILED"
        assert "retry-after" in no_job.headers
        assert client.get(f"/v2/{name}/status/{job.json()['id']}").status_code == 200
    assert chat(shared_backend.http, name).status_code == 200  # the token has no limit


def test_what_a_key_has_at_once_is_bounded_and_comes_free(
    shared_backend: BackendProcess, name: str
) -> None:
    chat(shared_backend.http, name)  # a worker is there
    key = add(shared_backend, name, atOnce=2)
    with holding(shared_backend, key) as client, ThreadPoolExecutor(2) as pool:
        slow = [
            pool.submit(chat, client, name, nbgpu_test={"stall_s": 1.5}),
            pool.submit(chat, client, name, stream=True, nbgpu_test={"stall_s": 1.5}),
        ]
        until(lambda: shared_backend.row(name)["held"] == 2)
        refused = chat(client, name)
        assert refused.status_code == 429 and "retry-after" in refused.headers
        assert refused.json()["error"]["code"] == "concurrency_limit_exceeded"
        assert [s.result().status_code for s in slow] == [200, 200]
        assert chat(client, name).status_code == 200
        failed = chat(client, name, nbgpu_test={"status": 422})
        assert failed.status_code == 422
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT.format(name), timeout=0.3,
                        json=body(name, nbgpu_test={"stall_s": 30}))  # fmt: skip
        until(lambda: shared_backend.row(name)["held"] == 0)
        both = [chat(client, name, stream=s).status_code for s in (True, False)]
        assert both == [200, 200]


def test_a_job_counts_until_its_end_also_when_nobody_waits_for_it(
    backend: BackendProcess,
) -> None:
    backend.deploy("work", workers={"max": 0})  # nobody takes them
    key = add(backend, "work", atOnce=2)
    given = {"input": {"prompt": "x"}}
    with holding(backend, key) as client:
        ids = [client.post("/v2/work/run", json=given).json()["id"] for _ in range(2)]
        assert client.post("/v2/work/run", json=given).status_code == 429
        backend.kill()
        backend.start()
    with holding(backend, key) as client:
        assert client.post("/v2/work/run", json=given).status_code == 429
        assert client.post(f"/v2/work/cancel/{ids[0]}").json()["status"] == "CANCELLED"
        assert client.post("/v2/work/run", json=given).status_code == 200
        assert client.post("/v2/work/run", json=given).status_code == 429
        assert client.post("/v2/work/purge-queue").json()["removed"] == 2
        assert client.post("/v2/work/run", json=given).status_code == 200
    until(lambda: listed(backend, key)["requests"] == 3)  # those with an end


def test_what_came_with_a_key_is_known_and_outlives_its_records(backend: BackendProcess) -> None:
    backend.deploy("chat")
    backend.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "36"}}).raise_for_status()
    key, idle = add(backend, "chat", label="app"), add(backend, "chat")
    with holding(backend, key) as client:
        for _ in range(2):
            assert chat(client, "chat", nbgpu_test={"stall_s": 0.2}).status_code == 200
        backend.http.patch("/nbgpu/v1/settings", json={"rates": {"local": "72"}}).raise_for_status()
        assert chat(client, "chat", nbgpu_test={"stall_s": 0.2}).status_code == 200
        assert chat(backend.http, "chat").status_code == 200
    rows = backend.records("chat", 4)
    assert [row["key"] for row in rows] == [key["id"]] * 3 + [None]
    seen = listed(backend, key)
    assert (seen["requests"], seen["tokensIn"], seen["tokensOut"]) == (3, 6, 12)
    assert float(seen["cost"]) == pytest.approx(sum(float(r["cost"]) for r in rows[:3]), rel=1e-3)
    assert float(seen["cost"]) > 0.2 * 3 * 36 / 3600
    assert seen["usedUs"] > seen["createdUs"] and "secret" not in seen
    unused = listed(backend, idle)
    assert unused["usedUs"] is None and unused["requests"] == 0
    backend.shutdown(everything=True)
    with create_engine(f"sqlite:///{backend.home.telemetry_db}").begin() as connection:
        assert connection.execute(delete(requests)).rowcount == 4
    for file in backend.home.root.rglob("*.db*"):
        assert key["secret"].encode() not in file.read_bytes(), file
    backend.start()
    again = listed(backend, key)
    assert again == seen
    with holding(backend, key) as client:
        assert client.get("/openai/v1/models").status_code == 200
    assert key["secret"] not in backend.log()


def test_the_keys_of_an_endpoint_go_with_it(backend: BackendProcess) -> None:
    backend.deploy("chat")
    key = add(backend, "chat")
    backend.http.delete("/v2/serverless/chat").raise_for_status()
    backend.deploy("chat")
    with holding(backend, key) as client:
        assert client.get("/openai/v1/models").status_code == 401
    assert backend.get(KEYS)["keys"] == []
    backend.kill()
    backend.start()
    with holding(backend, key) as client:
        assert client.get("/openai/v1/models").status_code == 401


def test_the_queue_is_fair_to_keys_whatever_their_clients_call_themselves(
    shared_backend: BackendProcess,
) -> None:
    engine = command_engine()
    engine["options"] = ["--concurrency", "1", *engine["options"]]
    shared_backend.deploy("fair", nbgpu={"engine": engine})
    greedy, modest = add(shared_backend, "fair"), add(shared_backend, "fair")
    ended: list[str] = []

    def one(client: httpx.Client, who: str, number: int) -> None:
        origin = {"X-Nbgpu-Origin": f"notebook={who}{number}"}
        answer = client.post(CHAT.format("fair"), headers=origin,
                             json=body("fair", nbgpu_test={"stall_s": 0.15}))  # fmt: skip
        assert answer.status_code == 200
        ended.append(who)

    chat(shared_backend.http, "fair")
    with (
        holding(shared_backend, greedy) as many,
        holding(shared_backend, modest) as few,
        ThreadPoolExecutor(8) as pool,
    ):
        waiting = [pool.submit(one, many, "greedy", n) for n in range(6)]
        until(lambda: shared_backend.row("fair")["queued"] == 5)
        waiting.append(pool.submit(one, few, "modest", 0))
        for one_ in waiting:
            one_.result()
    assert ended.index("modest") <= 2


def test_trace_headers_go_to_the_worker_as_they_came_and_the_record_has_the_id(
    shared_backend: BackendProcess, name: str
) -> None:
    parent = f"00-{TRACE}-00f067aa0ba902b7-01"
    states = [("tracestate", "rojo=00f067aa0ba902b7"), ("tracestate", "congo=t61rcWkgMzE")]
    answer = shared_backend.http.post(
        CHAT.format(name), json=body(name), headers=[("traceparent", parent), *states]
    )
    assert answer.status_code == 200
    assert upstream_headers(shared_backend, name) == [("traceparent", parent), *states]
    record = shared_backend.records(name, 1)[0]
    assert record["trace"] == TRACE and record["key"] is None
    why = shared_backend.get(f"/nbgpu/v1/why/{record['id']}")
    assert f"trace {TRACE}" in why["facts"]
    odd = [("traceparent", "no-trace-at-all")]
    shared_backend.http.post(CHAT.format(name), json=body(name), headers=odd)
    assert upstream_headers(shared_backend, name) == odd
    chat(shared_backend.http, name)
    assert upstream_headers(shared_backend, name) == []
    assert [r["trace"] for r in shared_backend.records(name, 3)] == [TRACE, None, None]


def upstream_headers(backend: BackendProcess, name: str) -> list[tuple[str, str]]:
    """Those of tracing, in the last request that the worker got."""
    worker = backend.worker(name)
    folder = next(p for p in backend.home.instances.iterdir() if worker["id"] in p.name)
    key = (folder / "key").read_text()
    with httpx.Client(trust_env=False) as client:
        answer = client.get(
            f"http://127.0.0.1:{worker['port']}/nbgpu_test/stats",
            headers={"Authorization": f"Bearer {key}"},
        )
    last = answer.json()["last"]["traces"]
    return [(n, v) for n, v in last]


def test_why_tells_the_key_of_a_request(shared_backend: BackendProcess, name: str) -> None:
    key = add(shared_backend, name, label="the app")
    with holding(shared_backend, key) as client:
        answer = chat(client, name)
    why = shared_backend.get(f"/nbgpu/v1/why/{answer.headers['x-nbgpu-request']}")
    assert f"with the key {key['id']}, 'the app'" in why["facts"]
    history = shared_backend.get(f"/nbgpu/v1/history?endpoint={name}")["events"]
    told = next(e for e in history if e["kind"] == "key.added")
    assert "the app" in told["text"] and key["secret"] not in str(history)


@pytest.mark.parametrize(
    "wrong",
    [{"perMinute": 0}, {"atOnce": 0}, {"perMinute": 1.5}, {"label": "x" * 81}, {"label": "a\nb"},
     {"limit": 3}],
)  # fmt: skip
def test_a_key_with_limits_that_cannot_be_meant_is_refused(
    shared_backend: BackendProcess, name: str, wrong: dict[str, Any]
) -> None:
    answer = shared_backend.http.post(KEYS, json={"endpoint": name, **wrong})
    assert answer.status_code == 400
    missing = shared_backend.http.post(KEYS, json={"endpoint": name[:-1] + "x"})
    assert missing.status_code == 404 and "Did you mean" in missing.json()["detail"]
    assert shared_backend.get(f"{KEYS}?endpoint={name}")["keys"] == []


def test_the_command_line_makes_lists_and_revokes(
    shared_backend: BackendProcess, name: str
) -> None:
    cli = shared_backend.cli
    made = cli("key", "add", name, "--label", "app", "--per-minute", "60")
    assert made.returncode == 0 and "shown this once" in made.stdout
    secret = next(word for word in made.stdout.split() if word.startswith("nbgpu_"))
    with holding(shared_backend, secret) as client:
        assert chat(client, name).status_code == 200
    listing = cli("key", "ls", name).stdout
    assert "60 a minute" in listing and secret not in listing and secret[:12] in listing
    key = shared_backend.cli_json("key", "ls", name)["keys"][0]
    gone = cli("key", "rm", key["id"])
    assert gone.returncode == 0 and "is revoked, after 1 request" in gone.stdout
    assert "has no key" in cli("key", "ls", name).stdout
    unknown = cli("key", "rm", "key-0000")
    assert unknown.returncode != 0 and "There is no key key-0000" in unknown.stderr
    assert "are for a new key" in cli("key", "ls", "--label", "x").stderr


def test_the_handle_of_an_endpoint_has_its_keys(shared_backend: BackendProcess, name: str) -> None:
    with Client(home=shared_backend.home) as gpu:
        endpoint = gpu.endpoint(name)
        key = endpoint.key_add("sdk", at_once=3)
        with holding(shared_backend, key.secret) as client:
            assert chat(client, name).status_code == 200
        frame = endpoint.key_ls().df
        assert frame["requests"].tolist() == [1] and frame["at_once"].tolist() == [3]
        assert endpoint.metrics()["key"].tolist() == [key.id]
        assert "is revoked" in endpoint.key_rm(key.id).text() and len(endpoint.key_ls()) == 0
        with pytest.raises(errors.NotFound, match="There is no key"):
            endpoint.key_rm(key.id)


def test_a_home_of_an_earlier_version_is_brought_up_to_date(backend: BackendProcess) -> None:
    backend.deploy("old")
    backend.chat("old")
    backend.records("old", 1)
    backend.shutdown(everything=True)
    for path, revision, statements in (
        (backend.home.state_db, "0003", ("DROP TABLE keys", "ALTER TABLE jobs DROP COLUMN api_key", "DROP TABLE pods",
         "DROP TABLE volumes")),
        (backend.home.telemetry_db, "0002",
         ("DROP TABLE key_usage", "ALTER TABLE requests DROP COLUMN key",
          "ALTER TABLE requests DROP COLUMN trace")),
    ):  # fmt: skip
        with create_engine(f"sqlite:///{path}").begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{revision}'"))
    backend.start()
    assert backend.records("old", 1)[0]["key"] is None
    with holding(backend, add(backend, "old")) as client:
        assert chat(client, "old").status_code == 200
    open_database(backend.home.root / "fresh.db", "telemetry").close()
