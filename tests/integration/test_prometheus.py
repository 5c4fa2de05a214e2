"""`/metrics`, as a scraper reads it."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from nbgpu_backend.domain.states import WORKER_STATES
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.support.backend import BackendProcess, command_engine
from tests.support.waiting import until

Labels = frozenset[tuple[str, str]]
CHAT = "/v2/{}/openai/v1/chat/completions"


class Scrape:
    """Samples by name and labels; `kinds` are the types of the families."""

    def __init__(self, text: str, families: Any = text_string_to_metric_families) -> None:
        self.samples: dict[tuple[str, Labels], float] = {}
        self.kinds: dict[str, str] = {}
        for family in families(text):
            assert family.documentation, family.name
            self.kinds[family.name] = family.type
            for sample in family.samples:
                at = sample.name, frozenset(sample.labels.items())
                assert at not in self.samples, f"{at} is there twice"
                self.samples[at] = sample.value

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def labels(self, **wanted: str) -> list[tuple[str, dict[str, str]]]:
        """The names and labels of all samples with these labels."""
        return [(n, dict(ls)) for n, ls in self.samples if wanted.items() <= dict(ls).items()]


def scrape(backend: BackendProcess) -> Scrape:
    answer = backend.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Scrape(answer.text)


def test_requests_are_counted_by_endpoint_route_and_class(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("counted")
    for _ in range(3):
        assert shared_backend.chat("counted", prompt="two words").status_code == 200
    streamed = {"stream": True, "max_tokens": 7}
    assert shared_backend.chat("counted", prompt="one", **streamed).status_code == 200
    assert shared_backend.chat("counted", nbgpu_test={"status": 422}).status_code == 422
    odd = shared_backend.http.post("/v2/counted/openai/v1/made/up", json={"model": "counted"})
    assert odd.status_code == 404
    job = shared_backend.http.post("/v2/counted/runsync", json={"input": {"prompt": "x"}})
    assert job.json()["status"] == "COMPLETED"
    seen = scrape(shared_backend)
    chat = {"endpoint": "counted", "route": "chat"}
    assert seen.value("nbgpu_requests_total", **chat, status="2xx") == 4
    assert seen.value("nbgpu_requests_total", **chat, status="4xx") == 1
    other = {"endpoint": "counted", "route": "other"}
    assert seen.value("nbgpu_requests_total", **other, status="4xx") == 1
    assert seen.value("nbgpu_requests_total", endpoint="counted", route="job", status="2xx") == 1
    assert seen.value("nbgpu_tokens_in_total", endpoint="counted") == 3 * 2 + 1
    assert seen.value("nbgpu_tokens_out_total", endpoint="counted") == 3 * 4 + 7
    for what in ("duration", "queue", "first_byte"):
        name = f"nbgpu_request_{what}_seconds"
        assert seen.value(f"{name}_count", **chat) == 5
        buckets = sorted(
            (float(labels["le"]), seen.samples[n, frozenset(labels.items())])
            for n, labels in seen.labels(**chat)
            if n == f"{name}_bucket"
        )
        counts = [count for _, count in buckets]
        assert counts == sorted(counts) and buckets[-1] == (float("inf"), 5)
    # the first of them waited for the worker to start
    duration = seen.value("nbgpu_request_duration_seconds_sum", **chat)
    queue = seen.value("nbgpu_request_queue_seconds_sum", **chat)
    assert 0 < queue <= duration
    assert seen.value("nbgpu_cold_start_seconds_count", endpoint="counted", tier="plain") == 1
    assert seen.value("nbgpu_jobs_ended_total", endpoint="counted", state="COMPLETED") == 1
    assert seen.kinds["nbgpu_requests"] == "counter"
    assert seen.kinds["nbgpu_request_duration_seconds"] == "histogram"


def test_gauges_are_as_things_stand_now(shared_backend: BackendProcess) -> None:
    settings = {"rates": {"local": "7.20"}}
    shared_backend.http.patch("/nbgpu/v1/settings", json=settings).raise_for_status()
    shared_backend.deploy("gauged", workers={"max": 0})
    shared_backend.deploy("running")
    assert shared_backend.chat("running").status_code == 200
    shared_backend.http.post("/v2/gauged/run", json={"input": {"prompt": "x"}})
    shared_backend.worker("running", "idle")
    seen = scrape(shared_backend)
    assert seen.value("nbgpu_queue_length", endpoint="gauged") == 1
    assert seen.value("nbgpu_jobs", endpoint="gauged", state="IN_QUEUE") == 1
    assert seen.value("nbgpu_workers", endpoint="running", state="idle") == 1
    assert seen.value("nbgpu_workers", endpoint="running", state="running") == 0
    states = {labels["state"] for n, labels in seen.labels(endpoint="running") if n == "nbgpu_workers"}  # fmt: skip
    assert states == set(WORKER_STATES) - {"stopped"}
    assert seen.value("nbgpu_rate_dollars_per_hour", endpoint="running") == pytest.approx(7.2)
    assert seen.value("nbgpu_rate_dollars_per_hour", endpoint="gauged") == 0
    assert seen.value("nbgpu_cost_dollars_total", endpoint="running") > 0
    assert seen.value("nbgpu_requests_held", endpoint="running") == 0
    assert seen.value("nbgpu_event_loop_lag_seconds") >= 0


def test_the_series_of_a_deleted_endpoint_go_with_it(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("passing")
    shared_backend.chat("passing")
    assert scrape(shared_backend).labels(endpoint="passing")
    shared_backend.http.delete("/v2/serverless/passing").raise_for_status()
    assert scrape(shared_backend).labels(endpoint="passing") == []
    assert shared_backend.chat("passing").status_code == 404
    assert scrape(shared_backend).labels(endpoint="passing") == []


def test_keys_are_no_labels_and_what_they_keep_out_is_counted(
    shared_backend: BackendProcess,
) -> None:
    shared_backend.deploy("limited")
    wanted = {"endpoint": "limited", "label": "mine", "perMinute": 1}
    key = shared_backend.http.post("/nbgpu/v1/keys", json=wanted).json()
    with shared_backend.client() as client:
        client.headers["Authorization"] = f"Bearer {key['secret']}"
        body = {"model": "limited", "messages": [{"role": "user", "content": "x"}]}
        codes = [client.post(CHAT.format("limited"), json=body).status_code for _ in range(4)]
        job = client.post("/v2/limited/run", json={"input": {"prompt": "x"}})
    assert codes == [200, 429, 429, 429] and job.status_code == 429
    text = shared_backend.http.get("/metrics").text
    seen = Scrape(text)
    chat = {"endpoint": "limited", "route": "chat"}
    assert seen.value("nbgpu_requests_total", **chat, status="2xx") == 1
    assert seen.value("nbgpu_requests_total", **chat, status="4xx") == 3
    assert seen.value("nbgpu_requests_total", endpoint="limited", route="job", status="4xx") == 1
    assert seen.value("nbgpu_request_duration_seconds_count", **chat) == 1
    for secret in (key["id"], key["prefix"], key["secret"], "mine"):
        assert secret not in text
    assert len(shared_backend.records("limited", 1)) == 1


def test_the_token_is_taken_as_a_password_here_and_nowhere_else(
    shared_backend: BackendProcess,
) -> None:
    backend = shared_backend.backend
    with httpx.Client(base_url=backend.url, trust_env=False) as client:
        assert client.get("/metrics", auth=("prometheus", backend.token)).status_code == 200
        assert client.get("/metrics", auth=("", backend.token)).status_code == 200
        for auth in (("prometheus", "wrong"), (backend.token, ""), ("a", backend.token + ":")):
            assert client.get("/metrics", auth=auth).status_code == 401
        none = client.get("/metrics")
        assert none.status_code == 401 and none.headers["www-authenticate"].startswith("Basic ")
        for garbage in ("Basic", "Basic !!!", "Basic " + base64.b64encode(b"x").decode()):
            broken = client.get("/metrics", headers={"Authorization": garbage})
            assert broken.status_code == 401
        elsewhere = client.get("/nbgpu/v1/summary", auth=("prometheus", backend.token))
        assert elsewhere.status_code == 401 and "www-authenticate" not in elsewhere.headers


def test_a_scraper_that_asks_for_openmetrics_gets_it(shared_backend: BackendProcess) -> None:
    shared_backend.deploy("open")
    shared_backend.chat("open")
    answer = shared_backend.http.get(
        "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    seen = Scrape(answer.text, openmetrics_families)
    unknown = {"Accept": "application/openmetrics-text;version=none, text/plain;version=x"}
    assert shared_backend.http.get("/metrics", headers=unknown).status_code == 200
    assert seen.value("nbgpu_requests_total", endpoint="open", route="chat", status="2xx") == 1


def test_a_start_from_nothing_and_a_waking_are_told_apart(shared_backend: BackendProcess) -> None:
    shared_backend.deploy(
        "woken",
        workers={"max": 1, "idleTimeout": 1},
        nbgpu={"engine": command_engine(), "policy": {"parkS": 60}},
    )
    shared_backend.chat("woken")
    until(lambda: shared_backend.worker("woken")["state"] == "parked")
    assert scrape(shared_backend).value("nbgpu_workers", endpoint="woken", state="parked") == 1
    shared_backend.chat("woken")
    seen = scrape(shared_backend)
    for tier in ("plain", "parked"):
        assert seen.value("nbgpu_cold_start_seconds_count", endpoint="woken", tier=tier) == 1
