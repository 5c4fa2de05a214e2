"""Keys that open a load balancer."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.test_keys import add, holding, listed
from tests.integration.test_load_balancer import deploy
from tests.integration.test_load_balancer_sockets import opened
from tests.support.backend import BackendProcess
from tests.support.waiting import until


@pytest.fixture(scope="module")
def site(shared_backend: BackendProcess) -> BackendProcess:
    for name in ("site-a", "site-b"):
        deploy(shared_backend, name, workers={"min": 1, "max": 1})
    for name in ("site-a", "site-b"):
        shared_backend.wait_state(name, "ready")
    return shared_backend


def test_a_key_opens_its_load_balancer_in_either_header_and_no_other(site: BackendProcess) -> None:
    key = add(site, "site-a")
    assert key["baseUrl"].endswith("/lb/site-a")
    with holding(site, key) as client:
        assert client.get("/lb/site-a/echo/x").status_code == 200
        assert client.get("/echo/x", headers={"Host": "site-a.localhost"}).status_code == 200
        ours = {"X-Nbgpu-Key": key["secret"], "Authorization": "Basic of-the-app"}
        seen = client.get("/lb/site-a/echo/x", headers=ours).text
        assert "Basic of-the-app" in seen and key["secret"] not in seen
        for elsewhere in ("site-b", "nobody"):
            refused = client.get(f"/lb/{elsewhere}/echo/x")
            assert (
                refused.status_code == 403 and refused.json()["nbgpu"]["code"] == "wrong_endpoint"
            )
        wrong = client.get("/lb/site-a/echo/x", headers={"X-Nbgpu-Key": "nbgpu_wrong"})
        assert wrong.status_code == 401
        site.http.delete(f"/nbgpu/v1/keys/{key['id']}")
        assert client.get("/lb/site-a/echo/x").status_code == 401


def test_the_app_never_sees_the_key(site: BackendProcess) -> None:
    key = add(site, "site-a")
    with holding(site, key) as client:
        assert key["secret"] not in client.get("/lb/site-a/echo/x").text
        both = {"X-Nbgpu-Key": site.backend.token}  # and the key as a bearer token
        assert key["secret"] not in client.get("/lb/site-a/echo/x", headers=both).text


def test_its_limits_hold_for_requests_and_websockets(site: BackendProcess) -> None:
    key = add(site, "site-a", atOnce=1)
    with holding(site, key) as client:
        with opened(site, "site-a", headers={"X-Nbgpu-Key": key["secret"]}) as socket:
            socket.send("hello")
            assert socket.recv(timeout=5) == "hello"
            refused = client.get("/lb/site-a/echo/x")
            assert refused.status_code == 429 and "retry-after" in refused.headers
            assert refused.json()["nbgpu"]["code"] == "concurrency_limit_exceeded"
            with (
                pytest.raises(InvalidStatus) as closed,
                opened(site, "site-a", headers={"X-Nbgpu-Key": key["secret"]}),
            ):
                pass
            assert closed.value.response.status_code == 429
        until(lambda: client.get("/lb/site-a/echo/x").status_code == 200)
    paced = add(site, "site-a", perMinute=60)
    with holding(site, paced) as client:
        answer = client.get("/lb/site-a/echo/x")
        assert answer.headers["x-ratelimit-limit-requests"] == "60"


def test_what_came_with_it_is_counted(site: BackendProcess) -> None:
    key = add(site, "site-a")
    with holding(site, key) as client:
        assert [client.get("/lb/site-a/echo/x").status_code for _ in range(3)] == [200] * 3

    def counted() -> dict[str, Any] | None:
        found = listed(site, key)
        return found if found["requests"] == 3 else None

    assert until(counted)["usedUs"] is not None
