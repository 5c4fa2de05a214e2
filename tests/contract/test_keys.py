"""The real clients, unmodified, with the key of an endpoint instead of the token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import openai
import pytest

from tests.contract.conftest import Deploy
from tests.contract.test_clients import CLIENTS, python
from tests.support.backend import BackendProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="handlers run on Linux")


def add(backend: BackendProcess, endpoint: str, **limits: Any) -> dict[str, Any]:
    answer = backend.http.post("/nbgpu/v1/keys", json={"endpoint": endpoint, **limits})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_runpod_package_works_with_a_key(serverless: BackendProcess, deploy: Deploy) -> None:
    steps, other = deploy("steps.py"), deploy("count.py")
    key = add(serverless, steps.name, perMinute=3)
    revoked = add(serverless, steps.name)
    serverless.http.delete(f"/nbgpu/v1/keys/{revoked['id']}").raise_for_status()
    done = subprocess.run(
        [python(serverless, "stable-sync")[0], str(CLIENTS / "keyed.py")],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(serverless.home.root),  # no key of whoever runs the tests
            "RUNPOD_ENDPOINT_BASE_URL": f"{serverless.backend.url}/v2",
            "KEY": key["secret"],
            "REVOKED": revoked["secret"],
            "STEPS": steps.name,
            "OTHER": other.name,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["run_sync"] == {"do": "echo", "n": 1}
    assert seen["run"] == [{"do": "echo", "n": 2}, "COMPLETED"]
    assert seen["health"] == ["jobs", "workers"]
    assert seen["too many"] == [429, "FAILED"] and 1 <= seen["retry after"] <= 20
    assert seen["cancel"] == "CANCELLED"
    status, said = seen["other endpoint"]
    assert status == 403 and f"another endpoint than '{other.name}'" in said
    assert "401" in seen["revoked"]


def test_the_openai_package_works_with_a_key(serverless: BackendProcess) -> None:
    for name in ("opened", "closed"):
        serverless.deploy(name)
    key = add(serverless, "opened", perMinute=3)
    url = f"{serverless.backend.url}/openai/v1"
    words: Any = [{"role": "user", "content": "x"}]
    with openai.OpenAI(base_url=url, api_key=key["secret"], max_retries=0) as client:
        assert [m.id for m in client.models.list()] == ["opened"]
        with pytest.raises(openai.PermissionDeniedError, match="another endpoint than 'closed'"):
            client.chat.completions.create(model="closed", messages=words)
        raw = client.chat.completions.with_raw_response.create(model="opened", messages=words)
        assert raw.headers["x-ratelimit-remaining-requests"] == "2"
        assert raw.parse().choices[0].message.content
        chunks = list(client.chat.completions.create(model="opened", messages=words, stream=True))
        assert sum(bool(c.choices[0].delta.content) for c in chunks) == 4
        assert client.completions.create(model="opened", prompt="x").choices[0].text
        with pytest.raises(openai.RateLimitError, match="3 requests a minute") as limited:
            client.chat.completions.create(model="opened", messages=words)
        assert limited.value.code == "rate_limit_exceeded"
        assert int(limited.value.response.headers["retry-after"]) >= 1
        serverless.http.delete(f"/nbgpu/v1/keys/{key['id']}").raise_for_status()
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    for name in ("opened", "closed"):
        serverless.http.delete(f"/v2/serverless/{name}").raise_for_status()


def test_the_openai_package_waits_out_the_rate_by_itself(serverless: BackendProcess) -> None:
    serverless.deploy("patient")
    key = add(serverless, "patient", perMinute=30)
    words: Any = [{"role": "user", "content": "x"}]
    url = f"{serverless.backend.url}/v2/patient/openai/v1"
    with openai.OpenAI(base_url=url, api_key=key["secret"], max_retries=0) as eager:
        for _ in range(29):
            eager.chat.completions.create(model="patient", messages=words)
        patient = eager.with_options(max_retries=3)
        for _ in range(3):
            assert patient.chat.completions.create(model="patient", messages=words).choices
    serverless.http.delete("/v2/serverless/patient").raise_for_status()
