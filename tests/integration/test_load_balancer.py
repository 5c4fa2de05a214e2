"""Load-balancing endpoints: any HTTP server behind the gateway."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.backend import BackendProcess
from tests.support.waiting import until

APP = Path(__file__).resolve().parents[1] / "support" / "balanced.py"
WORKER = "x-runpod-worker-id"


def deploy(
    backend: BackendProcess, name: str, *arguments: str, concurrency: int = 64, **body: Any
) -> dict[str, Any]:
    options = ["--concurrency", str(concurrency), sys.executable, str(APP), *arguments]
    extras = {"engine": {"name": "command", "options": options}, **body.pop("nbgpu", {})}
    return backend.deploy(name, type="LOAD_BALANCER", nbgpu=extras, **body)


@pytest.fixture(scope="module")
def site(shared_backend: BackendProcess) -> BackendProcess:
    """The endpoint `site`, ready."""
    deploy(shared_backend, "site", workers={"min": 1, "max": 1})
    shared_backend.wait_state("site", "ready")
    return shared_backend


def headers_of(answer: httpx.Response) -> dict[str, str]:
    return dict(answer.json()["headers"])


# --- addresses and keys -----------------------------------------------------------------------------


def test_the_defaults_are_those_of_a_load_balancer(site: BackendProcess) -> None:
    found = site.get("/v2/serverless/site")
    assert found["type"] == "LOAD_BALANCER" and found["timeout"] == 330_000
    assert found["scaling"] == {"type": "REQUEST_COUNT", "requestCount": 4}
    assert found["nbgpu"]["policy"]["holdS"] == 120
    base = f"{site.backend.url}/lb/{found['id']}"
    assert found["requestUrls"] == {"base": base, "health": base + "/ping"}
    assert found["nbgpu"]["baseUrl"] == f"{site.backend.url}/lb/site"
    assert site.http.get(f"/lb/{found['id']}/ping").status_code == 200


def test_path_and_query_pass_as_they_came(site: BackendProcess) -> None:
    path = "/echo/a%2Fb//c/../d;x?q=%20+&q=2&empty="
    with socket.create_connection(("127.0.0.1", int(site.backend.url.rsplit(":", 1)[1]))) as raw:
        head = f"GET /lb/site{path} HTTP/1.1\r\nHost: x\r\nX-Nbgpu-Key: {site.backend.token}\r\n"
        raw.sendall(head.encode() + b"Connection: close\r\n\r\n")
        text = b"".join(iter(lambda: raw.recv(65536), b"")).decode()
    assert f'"path": "{path}"' in text


def test_a_host_of_localhost_names_the_endpoint(site: BackendProcess) -> None:
    answer = site.http.get("/echo/lb/x?y=1", headers={"Host": "site.localhost:8000"})
    assert answer.json()["path"] == "/echo/lb/x?y=1"
    assert headers_of(answer)["host"] == "site.localhost:8000"
    assert "x-forwarded-prefix" not in headers_of(answer)
    unknown = site.http.get("/", headers={"Host": "sites.localhost"})
    assert unknown.status_code == 404 and "Did you mean 'site'?" in unknown.json()["detail"]


def test_without_its_slash_a_page_is_found_by_a_redirect(site: BackendProcess) -> None:
    answer = site.http.get("/lb/site?a=1")
    assert answer.status_code == 307 and answer.headers["location"] == "/lb/site/?a=1"


def test_the_token_opens_and_never_reaches_the_app(site: BackendProcess) -> None:
    url, token = site.backend.url + "/lb/site/echo", site.backend.token
    bearer = headers_of(httpx.get(url, headers={"Authorization": f"Bearer {token}"}))
    assert "authorization" not in bearer
    own = headers_of(httpx.get(url, headers={"Authorization": "Basic YTpi", "X-Nbgpu-Key": token}))
    assert own["authorization"] == "Basic YTpi"
    both = headers_of(httpx.get(url, headers={"Authorization": token, "X-Nbgpu-Key": token}))
    for seen in (bearer, own, both):
        assert token not in str(seen) and seen["x-nbgpu-worker-key"] not in ("", token)
    for wrong in ({}, {"X-Nbgpu-Key": "no"}, {"X-Nbgpu-Key": "no", "Authorization": token}):
        answer = httpx.get(url, headers=wrong)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"


def test_it_has_no_queue_and_no_model_and_others_are_no_load_balancer(
    site: BackendProcess,
) -> None:
    run = site.http.post("/v2/site/run", json={"input": {}})
    assert run.status_code == 404 and "has no queue of jobs" in run.json()["error"]
    chat = site.chat("site")
    assert chat.status_code == 404 and "/lb/site/v1/chat" in chat.json()["error"]["message"]
    assert "site" not in [m["id"] for m in site.get("/openai/v1/models")["data"]]
    site.deploy("queue")
    answer = site.http.get("/lb/queue/x")
    assert answer.status_code == 404 and "is no load balancer" in answer.json()["detail"]
    assert site.http.get("/lb/nobody/").status_code == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"scaling": {"type": "QUEUE_DELAY", "queueDelay": 1}}, "scales by requests"),
        ({"nbgpu": {"engine": {"name": "vllm"}, "model": "x"}}, "needs the engine command"),
        ({"env": {"HEALTH_CHECK_PATH": "ping"}}, "HEALTH_CHECK_PATH cannot be"),
    ],
)
def test_what_a_load_balancer_cannot_be_is_told_at_once(
    site: BackendProcess, body: dict[str, Any], words: str
) -> None:
    extras = body.pop("nbgpu", {"engine": {"name": "command", "options": [sys.executable]}})
    sent = {"name": "bad", "type": "LOAD_BALANCER", **body, "nbgpu": extras}
    answer = site.http.post("/v2/serverless", json=sent)
    assert answer.status_code == 400 and words in answer.json()["detail"]


def test_the_type_of_an_endpoint_stays(site: BackendProcess) -> None:
    extras = {"engine": {"name": "command", "options": [sys.executable, "{port}"]}}
    sent = {"name": "site", "nbgpu": {**extras, "converge": True}}
    answer = site.http.post("/v2/serverless", json=sent)
    assert answer.status_code == 409 and "cannot be changed" in answer.json()["detail"]


def test_the_verbs_know_it(site: BackendProcess) -> None:
    line = ["deploy", "--lb", "--name", "typed", "--", sys.executable, str(APP)]
    said = site.cli(*line)
    assert said.returncode == 0, said.stderr
    assert f"{site.backend.url}/lb/typed/ with the token in the header X-Nbgpu-Key" in said.stdout
    assert "already up" in site.cli(*line).stdout
    assert site.http.get("/lb/typed/echo").status_code == 200
    assert f"{site.backend.url}/lb/typed" in site.cli("show", "typed").stdout
    assert "a request to /lb/typed/" in site.get("/nbgpu/v1/why/typed")["nextStep"]
    patched = site.http.patch("/v2/serverless/typed", json={"workers": {"max": 3}})
    assert patched.status_code == 200 and patched.json()["workers"]["max"] == 3
    delay = {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 1}}
    assert site.http.patch("/v2/serverless/typed", json=delay).status_code == 400


# --- requests and answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_any_method_passes(site: BackendProcess, method: str) -> None:
    answer = site.http.request(method, "/lb/site/echo", content=b"12345")
    assert answer.json()["method"] == method and answer.json()["length"] == 5


def test_head_has_the_length_and_no_body(site: BackendProcess) -> None:
    answer = site.http.head("/lb/site/download?n=1000")
    assert answer.status_code == 200 and answer.headers["content-length"] == "1000"
    assert site.http.get("/lb/site/not-modified").status_code == 304


def test_forwarding_is_told_and_hops_are_dropped(site: BackendProcess) -> None:
    sent = {
        "X-Forwarded-For": "10.0.0.1", "Connection": "keep-alive, X-Secret", "X-Secret": "1",
        "TE": "trailers", "Proxy-Authorization": "Basic x", "X-Nbgpu-Worker-Key": "forged",
        "Cookie": "a=1", "User-Agent": "me", "X-Nbgpu-Origin": "notebook=n",
    }  # fmt: skip
    answer = site.http.get("/lb/site/echo", headers=sent)
    seen = headers_of(answer)
    assert seen["x-forwarded-for"] == "10.0.0.1, 127.0.0.1" and seen["cookie"] == "a=1"
    assert seen["x-forwarded-proto"] == "http" and seen["x-forwarded-prefix"] == "/lb/site"
    assert seen["x-forwarded-host"] == seen["host"] == site.backend.url.removeprefix("http://")
    assert seen["user-agent"] == "me" and seen["x-nbgpu-worker-key"] != "forged"
    assert not {"x-secret", "te", "proxy-authorization", "x-nbgpu-origin"} & set(seen)
    assert answer.headers[WORKER] == site.worker("site")["id"]


def test_redirects_and_cookies_pass_untouched(site: BackendProcess) -> None:
    answer = site.http.get("/lb/site/redirect")
    assert answer.status_code == 303 and answer.headers["location"] == "/elsewhere"
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert "x-hop" not in answer.headers


def test_events_come_one_by_one(site: BackendProcess) -> None:
    with site.http.stream("GET", "/lb/site/events?n=20") as answer:
        late = [time.time() - float(line.split()[2]) for line in answer.iter_lines() if line]
    assert len(late) == 20 and max(late) < 0.5  # they take a second in all
    with site.http.stream("GET", "/lb/site/chunks?n=3") as answer:
        assert list(answer.iter_text()) == ["0\n", "1\n", "2\n"]
    assert site.records("site", 1)[-1]["route"] == "lb"


def test_a_client_that_expects_100_is_asked_for_its_body_by_the_worker_alone(
    site: BackendProcess,
) -> None:
    def ask(path: str) -> tuple[bytes, bytes]:
        port = int(site.backend.url.rsplit(":", 1)[1])
        head = (
            f"POST /lb/site{path} HTTP/1.1\r\nHost: x\r\nX-Nbgpu-Key: {site.backend.token}\r\n"
            "Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(head.encode())
            first = raw.recv(65536)
            if first.startswith(b"HTTP/1.1 100"):
                raw.sendall(b"12345")
            return first, first + b"".join(iter(lambda: raw.recv(65536), b""))

    first, whole = ask("/upload")
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n" and b'"length": 5' in whole
    first, _ = ask("/refuse")
    assert first.startswith(b"HTTP/1.1 401")


def rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError


class Watch(threading.Thread):
    """The most memory that a process has while it is watched."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.before, self.most, self.over = pid, rss(pid), 0, threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(0.05):
            self.most = max(self.most, rss(self.pid))


GIGABYTE = 1_000_000_000


def test_a_gigabyte_each_way_leaves_the_memory_flat(site: BackendProcess) -> None:
    piece = bytes(1_000_000)
    with Watch(site.backend.pid) as watch:
        with site.http.stream("GET", f"/lb/site/download?n={GIGABYTE}") as answer:
            assert sum(map(len, answer.iter_raw())) == GIGABYTE
        sent = (piece for _ in range(GIGABYTE // len(piece)))
        answer = site.http.post("/lb/site/upload", content=sent)
        assert answer.json()["length"] == GIGABYTE
    assert watch.most - watch.before < 30_000_000


def test_a_slow_side_slows_the_other_and_fills_no_memory(site: BackendProcess) -> None:
    with Watch(site.backend.pid) as watch:
        with site.http.stream("GET", f"/lb/site/download?n={GIGABYTE}") as answer:
            pieces = answer.iter_raw()
            for _ in range(20):
                next(pieces)
                time.sleep(0.02)
        body = (bytes(100_000) for _ in range(400))
        answer = site.http.post("/lb/site/upload?pause=0.002", content=body)
        assert answer.json()["length"] == 40_000_000
    assert watch.most - watch.before < 30_000_000
    until(lambda: site.row("site")["held"] == 0)


# --- failures -----------------------------------------------------------------------------------------


def test_what_may_be_repeated_is_and_what_may_not_is_told(shared_backend: BackendProcess) -> None:
    deploy(shared_backend, "mortal")
    http = shared_backend.http
    with ThreadPoolExecutor(4) as pool:
        until(lambda: http.get("/lb/mortal/echo").status_code == 200)
        get = pool.submit(http.get, "/lb/mortal/sleep?s=2")
        post = pool.submit(http.post, "/lb/mortal/sleep?s=2", content=b"x")
        until(lambda: shared_backend.row("mortal")["held"] == 2)
        os.kill(shared_backend.worker("mortal")["pid"], signal.SIGKILL)
        assert get.result().status_code == 200
        assert post.result().status_code == 502
    assert "before it answered" in post.result().json()["detail"]
    assert sorted(r["retries"] for r in shared_backend.records("mortal", 3)) == [0, 0, 1]
    assert http.get("/lb/mortal/die").status_code == 502  # three workers later
    assert http.get("/lb/mortal/echo").status_code == 200


def test_an_answer_that_breaks_off_is_cut_not_ended(shared_backend: BackendProcess) -> None:
    deploy(shared_backend, "within")
    with pytest.raises(httpx.RemoteProtocolError):
        shared_backend.http.get("/lb/within/die-within")
    (record,) = shared_backend.records("within", 1)
    assert record["status"] == 502 and "while it answered" in record["error"]


def test_a_request_is_cut_at_the_endpoints_time_out(shared_backend: BackendProcess) -> None:
    deploy(shared_backend, "brief", timeout=5000)
    began = time.monotonic()
    answer = shared_backend.http.get("/lb/brief/sleep?s=30")
    assert answer.status_code == 504 and answer.json()["nbgpu"]["code"] == "execution_timeout"
    assert 5 <= time.monotonic() - began < 9


def test_a_client_that_goes_away_while_it_waits_frees_its_place(
    shared_backend: BackendProcess,
) -> None:
    deploy(shared_backend, "left", "--startup-s", "60")
    with shared_backend.client() as impatient:
        for method in ("GET", "POST"):
            with pytest.raises(httpx.ReadTimeout):
                impatient.request(method, "/lb/left/echo", content=b"x", timeout=0.5)
    until(lambda: shared_backend.row("left")["queued"] == 0)
    assert [r["status"] for r in shared_backend.records("left", 2)] == [499, 499]


# --- health -------------------------------------------------------------------------------------------


def test_204_is_a_start_that_goes_on_and_the_health_may_have_a_port_of_its_own(
    shared_backend: BackendProcess,
) -> None:
    env = {"HEALTH_CHECK_PATH": "/up", "PORT": "8000", "PORT_HEALTH": "8001"}
    deploy(shared_backend, "slow", "--initialising-s", "1", env=env)
    answer = shared_backend.http.get("/lb/slow/echo")
    variables = answer.json()["variables"]
    port = int(variables["PORT"])
    assert (
        variables["PORT_HEALTH"] == str(port + 1) and port == shared_backend.worker("slow")["port"]
    )
    (record,) = shared_backend.records("slow", 1)
    assert record["cold"] and record["start_ms"] >= 1000
    assert shared_backend.get("/v2/serverless/slow")["nbgpu"]["lastFailure"] is None


def test_a_worker_that_says_so_gets_no_requests_and_is_ended_only_if_it_is_sick(
    shared_backend: BackendProcess,
) -> None:
    deploy(shared_backend, "aside", nbgpu={"policy": {"holdS": 1}}, workers={"min": 1, "max": 1})
    http = shared_backend.http
    shared_backend.wait_state("aside", "ready")
    assert http.get("/lb/aside/health-is?code=204").status_code == 200
    worker = shared_backend.worker("aside", "starting")
    assert "it initialises" in shared_backend.get(f"/nbgpu/v1/why/{worker['id']}")["reason"]["text"]
    assert http.get("/lb/aside/echo").status_code == 504
    key = Path(shared_backend.home.instances).glob("*/key")
    direct = {"X-Nbgpu-Worker-Key": next(k.read_text() for k in key if worker["id"] in str(k))}
    url = f"http://127.0.0.1:{worker['port']}"
    assert httpx.get(f"{url}/echo").status_code == 403  # others of this machine
    httpx.get(f"{url}/health-is?code=0", headers=direct)
    back = shared_backend.worker("aside", "idle")
    assert back["pid"] == worker["pid"] and http.get("/lb/aside/echo").status_code == 200


# --- affinity -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(shared_backend: BackendProcess) -> tuple[str, str]:
    """The ids of the two workers of the endpoint `pair`, of one slot each."""
    deploy(shared_backend, "pair", concurrency=1, workers={"min": 2, "max": 2})
    ids = until(lambda: [w["id"] for w in shared_backend.row("pair")["workers"] if w["state"] == "idle"][1:]
                and [w["id"] for w in shared_backend.row("pair")["workers"]])  # fmt: skip
    return ids[0], ids[1]


def bound(backend: BackendProcess, name: str, wish: str, path: str = "/echo") -> httpx.Response:
    with backend.client() as client:
        return client.get(f"/lb/{name}{path}", headers={"X-Runpod-Worker-Id": wish})


def test_a_wish_is_followed_while_there_is_room(
    shared_backend: BackendProcess, pair: tuple[str, str]
) -> None:
    for worker in pair * 2:
        assert bound(shared_backend, "pair", worker).headers[WORKER] == worker
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(bound, shared_backend, "pair", pair[0], "/sleep?s=1")
        until(lambda: shared_backend.row("pair")["held"] == 1)
        assert bound(shared_backend, "pair", pair[0]).headers[WORKER] == pair[1]
        assert long.result().headers[WORKER] == pair[0]
    assert bound(shared_backend, "pair", "w-nobody").status_code == 200


def test_a_strict_request_waits_for_its_worker_and_nobody_waits_for_it(
    shared_backend: BackendProcess, pair: tuple[str, str]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(bound, shared_backend, "pair", pair[0], "/sleep?s=1")
        until(lambda: shared_backend.row("pair")["held"] == 1)
        strict = pool.submit(bound, shared_backend, "pair", f"strict {pair[0]}")
        until(lambda: shared_backend.row("pair")["queued"] == 1)
        assert bound(shared_backend, "pair", "").headers[WORKER] == pair[1]
        assert not strict.done()
        assert strict.result().headers[WORKER] == long.result().headers[WORKER] == pair[0]


def test_a_strict_request_fails_in_the_words_of_runpod(
    shared_backend: BackendProcess, pair: tuple[str, str]
) -> None:
    gone = bound(shared_backend, "pair", "strict w-nobody")
    assert gone.status_code == 404 and gone.json()["nbgpu"]["code"] == "affinity_worker_gone"
    assert bound(shared_backend, "pair", "sticky w-1").status_code == 400
    deploy(shared_backend, "late", concurrency=1, nbgpu={"policy": {"affinityS": 0.5}})
    with ThreadPoolExecutor(1) as pool:
        worker = bound(shared_backend, "late", "").headers[WORKER]
        long = pool.submit(bound, shared_backend, "late", worker, "/sleep?s=2")
        until(lambda: shared_backend.row("late")["held"] == 1)
        late = bound(shared_backend, "late", f"strict {worker}")
        assert late.status_code == 400 and late.json()["nbgpu"]["code"] == "worker_timeout"
        assert long.result().status_code == 200


def test_who_waits_for_a_worker_that_ends_hears_of_it(shared_backend: BackendProcess) -> None:
    deploy(shared_backend, "ends", concurrency=1)
    worker = bound(shared_backend, "ends", "").headers[WORKER]
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(shared_backend.client().post, "/lb/ends/sleep?s=30", content=b"x")
        until(lambda: shared_backend.row("ends")["held"] == 1)
        strict = pool.submit(bound, shared_backend, "ends", f"strict {worker}")
        until(lambda: shared_backend.row("ends")["queued"] == 1)
        os.kill(shared_backend.worker("ends")["pid"], signal.SIGKILL)
        assert strict.result().status_code == 404
        assert long.result().status_code == 502


def test_a_parked_worker_is_woken_for_strict_resume_alone(shared_backend: BackendProcess) -> None:
    limits = {"min": 0, "max": 1, "idleTimeout": 1}
    deploy(shared_backend, "parks", workers=limits, nbgpu={"policy": {"parkS": 600}})
    first = bound(shared_backend, "parks", "")
    shared_backend.worker("parks", "parked")
    worker = first.headers[WORKER]
    assert bound(shared_backend, "parks", f"strict {worker}").status_code == 404
    woken = bound(shared_backend, "parks", f"strict-resume {worker}")
    assert woken.status_code == 200 and woken.headers[WORKER] == worker
    assert woken.json()["pid"] == first.json()["pid"]
