"""Websockets through a load balancer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.integration.test_load_balancer import Watch, deploy
from tests.support.backend import BackendProcess
from tests.support.waiting import until


@contextlib.contextmanager
def opened(
    backend: BackendProcess, name: str, path: str = "/ws", **options: Any
) -> Iterator[ClientConnection]:
    headers = {"X-Nbgpu-Key": backend.backend.token, **options.pop("headers", {})}
    url = backend.backend.url.replace("http", "ws") + f"/lb/{name}{path}"
    with connect(url, additional_headers=headers, proxy=None, **options) as socket:
        yield socket


@pytest.fixture(scope="module")
def site(shared_backend: BackendProcess) -> BackendProcess:
    deploy(shared_backend, "site", workers={"min": 1, "max": 1})
    shared_backend.wait_state("site", "ready")
    return shared_backend


def test_text_and_bytes_pass_both_ways(site: BackendProcess) -> None:
    with opened(site, "site") as socket:
        for message in ("", "hällo", b"", bytes(range(256)), "x" * 1_000_000, bytes(1_000_000)):
            socket.send(message)
            assert socket.recv(timeout=5) == message
        socket.send(iter(["in ", "parts"]))
        assert socket.recv(timeout=5) == "in parts"
        assert socket.ping().wait(5)


def test_the_workers_subprotocol_and_headers_are_the_clients(site: BackendProcess) -> None:
    with opened(site, "site", subprotocols=["chat.v1", "other"]) as socket:
        assert socket.subprotocol == "chat.v1"
        assert socket.response is not None
        assert socket.response.headers["X-Runpod-Worker-Id"] == site.worker("site")["id"]
        socket.send("headers")
        seen = str(socket.recv(timeout=5))
        assert site.backend.token not in seen and "X-Nbgpu-Worker-Key" in seen
        assert '"X-Forwarded-Prefix": "/lb/site"' in seen


def test_a_refused_handshake_keeps_its_status(site: BackendProcess) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(site, "site", "/ws-no"):
        pass
    assert refused.value.response.status_code == 403
    assert refused.value.response.headers["X-Why"] == "no"
    with pytest.raises(InvalidStatus) as wrong, opened(site, "site", headers={"X-Nbgpu-Key": "no"}):
        pass
    assert wrong.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as nowhere, opened(site, "nobody"):
        pass
    assert nowhere.value.response.status_code == 404
    with pytest.raises(InvalidStatus) as plain, opened(site, "site", "/echo"):
        pass
    assert plain.value.response.status_code == 502  # it answered 200


def test_other_routes_serve_no_websocket(site: BackendProcess) -> None:
    url = site.backend.url.replace("http", "ws")
    for path in ("/nbgpu/v1/summary", "/v2/site/run"):
        with pytest.raises(InvalidStatus) as refused:
            connect(url + path, proxy=None)
        assert refused.value.response.status_code == 404
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AA"}
    assert site.http.get("/nbgpu/v1/summary", headers=upgrade).status_code == 200


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (3001, 3001), (4999, 4999)])
def test_a_close_passes_from_the_worker(site: BackendProcess, code: int, seen: int) -> None:
    with opened(site, "site") as socket:
        socket.send(f"close {code} the end")
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=5)
        assert (socket.close_code, socket.close_reason) == (seen, "the end")


def test_a_close_passes_from_the_client(site: BackendProcess) -> None:
    with opened(site, "site") as socket:
        socket.close(4123, "enough")
    until(lambda: "closed with 4123" in str(site.get("/nbgpu/v1/logs/site?tail=50")))
    until(lambda: site.row("site")["held"] == 0)
    assert site.records("site", 1)[-1]["status"] == 101


def test_a_worker_that_dies_is_a_close_of_1011(shared_backend: BackendProcess) -> None:
    deploy(shared_backend, "dies")
    with opened(shared_backend, "dies", open_timeout=20) as socket:
        socket.send("die")
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=5)
        assert socket.close_code == 1011
    (record,) = shared_backend.records("dies", 1)
    assert record["status"] == 502 and record["streamed"] and record["cold"]


def test_a_slow_reader_slows_the_sender_and_fills_no_memory(site: BackendProcess) -> None:
    with Watch(site.backend.pid) as watch, opened(site, "site", max_queue=1) as socket:
        socket.send("burst 200 1000000")
        time.sleep(1)
        assert sum(len(socket.recv(timeout=5)) for _ in range(200)) == 200_000_000
        socket.send("swallow")
        socket.send("stall 1")
        for _ in range(200):
            socket.send(bytes(1_000_000))
        socket.send("swallowed")
        assert socket.recv(timeout=10) == "200000000"
    assert watch.most - watch.before < 30_000_000


def test_an_open_websocket_keeps_its_worker_and_the_idle_time_counts_from_its_end(
    shared_backend: BackendProcess,
) -> None:
    deploy(shared_backend, "kept", workers={"min": 0, "max": 1, "idleTimeout": 1})
    with opened(shared_backend, "kept", open_timeout=20) as socket:
        worker = shared_backend.worker("kept")
        assert worker["held"] == 1 and worker["state"] == "running"
        time.sleep(2.5)
        assert shared_backend.worker("kept")["pid"] == worker["pid"]
        socket.send("there")
        assert socket.recv(timeout=5) == "there"
    time.sleep(0.3)
    assert shared_backend.row("kept")["workers"]
    until(lambda: not shared_backend.row("kept")["workers"])


def test_a_client_that_leaves_before_its_worker_is_there_frees_its_place(
    shared_backend: BackendProcess,
) -> None:
    deploy(shared_backend, "never", "--startup-s", "60")
    with pytest.raises(TimeoutError), opened(shared_backend, "never", open_timeout=0.5):
        pass
    until(lambda: shared_backend.row("never")["queued"] == 0)
    assert shared_backend.records("never", 1)[0]["status"] == 499


def test_the_end_of_the_backend_is_told_to_both(backend: BackendProcess) -> None:
    deploy(backend, "site")
    with opened(backend, "site", open_timeout=20) as socket:
        threading.Timer(0.2, backend.shutdown, kwargs={"everything": False}).start()
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        assert socket.close_code == 1012
    backend.start()
    assert backend.http.get("/lb/site/echo").status_code == 200
