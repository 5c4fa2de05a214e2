"""Clients that mean no good, on the data routes: each is bounded, and the others are served on."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from nbgpu_backend import front

from tests.integration.test_load_balancer import deploy, rss
from tests.support.backend import BackendProcess
from tests.support.waiting import until

MANY = 10_000  # idle connections, or as many as the open files of this process allow


@pytest.fixture(scope="module")
def site(shared_backend: BackendProcess) -> Iterator[BackendProcess]:
    """A load balancer `site` and an endpoint `chat`, both ready; served as ever at the end of each test."""
    deploy(shared_backend, "site", workers={"min": 1, "max": 1})
    shared_backend.deploy("chat", workers={"min": 1, "max": 1})
    shared_backend.wait_state("site", "ready")
    shared_backend.wait_state("chat", "ready")
    yield shared_backend


@pytest.fixture(autouse=True)
def others_are_served(site: BackendProcess) -> Iterator[None]:
    yield
    assert site.http.get("/lb/site/echo").status_code == 200
    assert site.chat("chat").status_code == 200
    until(lambda: site.row("site")["held"] == site.row("chat")["held"] == 0)


def dial(backend: BackendProcess) -> socket.socket:
    port = int(backend.backend.url.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def talk(backend: BackendProcess, *pieces: bytes) -> bytes:
    """All that is answered until the connection is closed, or nothing comes for a second."""
    with closing(dial(backend)) as raw:
        found = b""
        try:
            for piece in pieces:
                raw.sendall(piece)
            raw.settimeout(1)
            while got := raw.recv(65536):
                found += got
        except (TimeoutError, ConnectionError):
            pass
        return found


def head(
    backend: BackendProcess, *lines: str, request: str = "POST /lb/site/echo HTTP/1.1"
) -> bytes:
    key = f"X-Nbgpu-Key: {backend.backend.token}"
    return "\r\n".join([request, "Host: x", key, *lines, "", ""]).encode()


# Each could be read as one request here and as another behind: none may reach the app as two.
SMUGGLED = "GET /echo/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
FORMS = {
    "length and chunks": ["Content-Length: 6", "Transfer-Encoding: chunked", "", "0", "", SMUGGLED],
    "two lengths": ["Content-Length: 5", "Content-Length: 50", "", "12345" + SMUGGLED],
    "a list of lengths": ["Content-Length: 5, 50", "", "12345" + SMUGGLED],
    "a length with a sign": ["Content-Length: +5", "", "12345" + SMUGGLED],
    "an unknown coding": ["Transfer-Encoding: xchunked", "", "0", "", SMUGGLED],
    "chunks that are not last": ["Transfer-Encoding: chunked, gzip", "", "0", "", SMUGGLED],
    "a space before the colon": ["Transfer-Encoding : chunked", "", "0", "", SMUGGLED],
    "a folded line": ["X-A: 1", " Transfer-Encoding: chunked", "", "0", "", SMUGGLED],
    "a folded coding": ["Transfer-Encoding:", " chunked", "", "0", "", SMUGGLED],
    "a length of a chunk with a prefix": [
        "Transfer-Encoding: chunked",
        "",
        "0x5",
        "12345",
        "0",
        "",
    ],
    "two hosts": ["Host: y", "Content-Length: 0", "", ""],
    "a null byte": ["X-A: a\0b", "Content-Length: 0", "", ""],
    "a bare carriage return": ["X-A: a\rTransfer-Encoding: chunked", "Content-Length: 0", "", ""],
}


@pytest.mark.parametrize("form", FORMS)
def test_what_can_be_read_in_two_ways_is_refused(site: BackendProcess, form: str) -> None:
    key = f"X-Nbgpu-Key: {site.backend.token}"
    lines = ["POST /lb/site/echo HTTP/1.1", "Host: x", key, *FORMS[form]]
    answer = talk(site, "\r\n".join(lines).encode())
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1
    assert b"smuggled" not in answer


def test_lines_end_as_http_has_it(site: BackendProcess) -> None:
    bare = head(site, "Content-Length: 0").replace(b"\r\n", b"\n")
    assert talk(site, bare).startswith(b"HTTP/1.1 400")
    chunks = head(site, "Transfer-Encoding: chunked") + b"5\n12345\n0\n\n"
    assert talk(site, chunks).startswith(b"HTTP/1.1 400")
    nobody = head(site, "Content-Length: 0").replace(b"Host: x\r\n", b"")
    assert talk(site, nobody).startswith(b"HTTP/1.1 400")


def test_trailers_do_not_become_headers(site: BackendProcess) -> None:
    body = b"5\r\n12345\r\n0\r\nX-Late: 1\r\nX-Nbgpu-Worker-Key: f\r\n\r\n"
    answer = talk(site, head(site, "Transfer-Encoding: chunked", "Connection: close") + body)
    assert b'"length": 5' in answer and b"x-late" not in answer
    no_key = b"POST /lb/site/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    late_key = no_key + f"X-Nbgpu-Key: {site.backend.token}\r\n\r\n".encode()
    assert talk(site, late_key).startswith(b"HTTP/1.1 401")


def test_pipelined_requests_are_answered_in_their_order(site: BackendProcess) -> None:
    requests = [head(site, request=f"GET /lb/site/echo/{n} HTTP/1.1") for n in range(50)]
    answer = talk(site, b"".join(requests))
    places = [answer.index(f'"path": "/echo/{n}"'.encode()) for n in range(50)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /lb/site/echo HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_of_ours_is_told(
    site: BackendProcess, request_: bytes, status: int
) -> None:
    assert talk(site, request_).startswith(f"HTTP/1.1 {status}".encode())


def endless(backend: BackendProcess, start: bytes, more: bytes) -> bool:
    """Does the other side cut a client that sends 32 MB of this?"""
    with closing(dial(backend)) as raw:
        try:
            raw.sendall(start)
            for _ in range((32 << 20) // len(more)):
                raw.sendall(more)
        except ConnectionError:
            return True
        return False


def test_no_part_of_a_request_but_its_body_is_endless(site: BackendProcess) -> None:
    chunked = head(site, "Transfer-Encoding: chunked")
    before, piece = rss(site.backend.pid), b"a" * 65_536
    assert endless(site, b"GET /", piece)
    assert endless(site, b"GET / HTTP/1.1\r\nHost: x\r\nA: ", piece)
    assert endless(site, b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 10_000)
    assert endless(site, chunked + b"5;", piece)  # a chunk's extension
    assert endless(site, chunked + b"0\r\nX-Late: ", piece)
    assert endless(site, chunked + b"0\r\n", b"A: b\r\n" * 10_000)
    assert endless(site, b"", b"\r\n" * 30_000)
    assert rss(site.backend.pid) - before < 16_000_000


def test_half_a_connection_is_none(site: BackendProcess) -> None:
    """Who closes its sending side is gone; its request gives up its place."""
    with closing(dial(site)) as raw:
        raw.sendall(head(site, "Content-Length: 0", request="POST /lb/site/sleep?s=30 HTTP/1.1"))
        until(lambda: site.row("site")["held"] == 1)
        raw.shutdown(socket.SHUT_WR)
        until(lambda: site.row("site")["held"] == 0)
    with closing(dial(site)) as raw:
        raw.sendall(head(site, "Content-Length: 1000") + b"part")
        raw.shutdown(socket.SHUT_WR)
        until(lambda: site.row("site")["held"] == 0)


def test_upgrades_that_are_not_served_are_plain_requests(site: BackendProcess) -> None:
    upgrade = ("Connection: Upgrade", "Upgrade: h2c")
    bare = head(site, *upgrade, request="GET /lb/site/echo HTTP/1.1")
    assert b'"method": "GET"' in talk(site, bare)
    socketless = head(site, "Connection: Upgrade", "Upgrade: websocket", request="GET /lb/site/ws HTTP/1.1")  # fmt: skip
    assert b"HTTP/1.1 400" in talk(site, socketless)
    long = head(site, *upgrade[:1], "Upgrade: websocket", "Cookie: " + "a" * 9000,
                request="GET /lb/site/ws HTTP/1.1")  # fmt: skip
    assert talk(site, long).startswith(b"HTTP/1.1 431")


async def test_the_slow_are_let_go_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with shorter times than the backend's own."""
    import uvicorn

    monkeypatch.setattr(front, "QUIET_S", 0.6)
    monkeypatch.setattr(front, "HEAD_S", 0.3)
    monkeypatch.setattr(front, "BODY_S", 0.3)

    async def app(scope: dict, receive: object, send: object) -> None:  # type: ignore[type-arg]
        if scope["path"] == "/wait":  # reads nothing for longer than a body may take
            await asyncio.sleep(0.8)
        while (message := await receive())["type"] == "http.request":  # type: ignore[operator]
            if not message["more_body"]:
                await send({"type": "http.response.start", "status": 204})  # type: ignore[operator]
                await send({"type": "http.response.body"})  # type: ignore[operator]
                return

    config = uvicorn.Config(app, http=front.front(0), lifespan="off", log_level="error", port=0)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    async def slow(*pieces: bytes) -> tuple[bytes, float]:
        """One piece every 0.1 s; the answer, and how long the connection lived."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        reading = asyncio.create_task(reader.read())
        for piece in pieces:
            if not reading.done():
                writer.write(piece)
                await asyncio.wait((reading,), timeout=0.1)
        answer = await reading
        writer.close()
        return answer, time.monotonic() - began

    start = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
    body = start % b"/" + b"200000\r\n\r\n"
    unread = start % b"/wait" + b"200000\r\n\r\n" + bytes(200_000)
    expecting = start % b"/wait" + b"0\r\nExpect: 100-continue\r\n\r\n"
    found = await asyncio.gather(
        slow(),
        slow(*(bytes([b]) for b in b"GET / HTTP/1.1\r\n")),
        slow(b"\r\n", b"\r\n", b"\r\n", b"\r\n"),
        slow(body, b"x" * 10),
        slow(body, *[b"x" * 20_000] * 10),
        slow(unread),
        slow(expecting),
    )
    quiet, trickle, blank, stalled, steady, held, expected = (
        (answer.rpartition(b"HTTP/1.1 ")[2][:3], seconds) for answer, seconds in found
    )
    assert quiet[0] == blank[0] == b"" and 0.5 < quiet[1] < 1.5
    assert trickle[0] == b"408" and trickle[1] < 2 and stalled[0] == b"408"
    assert steady[0] == held[0] == expected[0] == b"204"
    server.should_exit = True
    await serving


def test_thousands_of_idle_connections_cost_little_and_others_are_served(
    site: BackendProcess,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(MANY, hard - 500)
    if count < MANY:
        print(f"{count} connections instead of {MANY}: the limit of open files is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before, idle = rss(site.backend.pid), []
    try:
        for number in range(count):
            idle.append(dial(site))
            if number % 3 == 0:
                idle[-1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            with httpx.Client(base_url=site.backend.url, trust_env=False, verify=False) as client:
                key = {"X-Nbgpu-Key": site.backend.token}
                assert client.get("/lb/site/echo", headers=key).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        used = rss(site.backend.pid) - before
        assert slowest < 1 and used < count * 15_000, (
            f"{slowest:.3f} s, {used / count:.0f} bytes each"
        )
    finally:
        for raw in idle:
            raw.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
