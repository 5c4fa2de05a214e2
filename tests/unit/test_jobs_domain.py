"""What a submission says, what a worker's post means, which inputs a vLLM worker takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nbgpu_backend.domain.jobs import BadSubmission, read_chunk, read_post, read_submission
from nbgpu_backend.domain.vllm_input import BadInput, read_input
from nbgpu_backend.serving.job import new_id


@pytest.mark.parametrize(
    ("body", "state", "output", "error"),
    [
        ({"output": {"a": 1}}, "COMPLETED", '{"a": 1}', None),
        ({"output": None}, "COMPLETED", "null", None),
        ({}, "COMPLETED", None, None),
        ([1], "COMPLETED", "[1]", None),
        ({"error": "no"}, "FAILED", None, "no"),
        ({"error": {"code": 1}, "output": 2}, "FAILED", "2", '{"code": 1}'),
        ({"error": ""}, "FAILED", None, ""),
        ({"error": None, "output": 1}, "COMPLETED", "1", None),
        ({"status": "IN_PROGRESS", "output": "half"}, "IN_PROGRESS", '"half"', None),
    ],
)
def test_what_a_post_means(body: Any, state: str, output: str | None, error: str | None) -> None:
    found = read_post(json.dumps(body).encode())
    assert (found.state, found.output, found.error) == (state, output, error)


def test_a_post_that_is_nested_too_deeply_fails_the_job() -> None:
    verdict = read_post(b'{"output": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert verdict.state == "FAILED" and "nested" in str(verdict.error)
    assert json.loads(read_chunk(b"[" * 100_000)[0]).startswith("[[")


def test_a_post_that_cannot_be_read_fails_the_job_and_is_shown() -> None:
    found = read_post(b"<html>")
    assert found.state == "FAILED" and "<html>" in (found.error or "")
    assert read_chunk(b"\xff")[0] == '"\\ufffd"' and read_chunk(b'{"output": 1}') == ("1", 0)


@pytest.mark.parametrize(
    "body",
    [
        [], {}, {"input": 1, "webhook": "ftp://x"}, {"input": 1, "policy": []},
        {"input": 1, "policy": {"ttl": 9_999}}, {"input": 1, "policy": {"ttl": True}},
        {"input": 1, "policy": {"executionTimeout": "5s"}}, {"input": 1, "policy": {"lowPriority": 1}},
    ],
)  # fmt: skip
def test_a_submission_that_makes_no_sense_is_refused(body: Any) -> None:
    with pytest.raises(BadSubmission):
        read_submission(body)


@pytest.mark.parametrize(
    ("text", "output", "nulls"),
    [
        ("NaN", "null", 1),
        ("[1, Infinity, 1e999, -1e999, 2.5]", "[1, null, null, null, 2.5]", 3),
        ('{"a": {"b": [-Infinity, "NaN"]}, "c": NaN}', '{"a": {"b": [null, "NaN"]}, "c": null}', 2),
        ("[" * 900 + "NaN" + "]" * 900, "[" * 900 + "null" + "]" * 900, 1),
        ("[1e308, -0.0]", "[1e+308, -0.0]", 0),
    ],
)
def test_what_json_does_not_know_becomes_null_and_is_counted(
    text: str, output: str, nulls: int
) -> None:
    body = b'{"output": ' + text.encode() + b"}"
    done, chunk = read_post(body), read_chunk(body)
    assert (done.state, done.output, done.nulls) == ("COMPLETED", output, nulls)
    assert chunk == (output, nulls)
    failed = read_post(b'{"error": "no", "output": ' + text.encode() + b"}")
    assert (failed.state, failed.output, failed.nulls) == ("FAILED", output, nulls)


def test_ids_are_in_the_order_of_their_time_and_cannot_be_guessed() -> None:
    ids = [new_id(1_795_510_195_200_749 + n * 1000, sync=False) for n in range(100)]
    assert ids == sorted(ids) and len({text[14:] for text in ids}) == 100
    assert new_id(0, sync=True).startswith("sync-")


def test_the_forms_of_a_vllm_input() -> None:
    chat = read_input({"messages": [1], "sampling_params": {"max_tokens": 5}}, "m")
    assert chat.route == "/v1/chat/completions" and not chat.streamed
    assert chat.body == {"model": "m", "max_tokens": 5, "stream": False, "messages": [1]}
    assert read_input({"prompt": "x", "stream": True}, "m").streamed
    routed = read_input({"openai_route": "/v1/embeddings", "openai_input": {"model": "n"}}, "m")
    assert (routed.method, routed.body) == ("POST", {"model": "n"})
    assert read_input({"openai_route": "/v1/models"}, "m").method == "GET"
    assert read_input({"route": "/v1/x", "body": {}, "method": "POST"}, "m").method == "POST"


@pytest.mark.parametrize(
    "given",
    [
        "x", {}, {"openai_route": "v1"}, {"openai_route": "/../admin"}, {"prompt": 1, "sampling_params": 2},
        {"route": "/v1/x", "method": "DELETE"}, {"route": "/v1/x", "body": [], "method": "POST"},
    ],
)  # fmt: skip
def test_an_input_that_no_route_takes_is_refused(given: Any) -> None:
    with pytest.raises(BadInput):
        read_input(given, "m")
