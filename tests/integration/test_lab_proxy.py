"""What passes between the browser and the backend: bodies and streams whole, headers by name."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from nbgpu_backend import runtime

from tests.support import mirror
from tests.support.jupyter import TOKEN, JupyterProcess
from tests.support.mirror import Mirror

MANY = 8 * 1024 * 1024  # bytes


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[JupyterProcess, Mirror]]:
    """A Jupyter server in front of a stand-in that says back what it hears."""
    process = JupyterProcess(tmp_path_factory.mktemp("mirrored"))
    with Mirror(process.home) as found:
        process.start()
        yield process, found
    process.stop()


@pytest.fixture
def ndjson(
    tmp_path: Path,
) -> Iterator[tuple[JupyterProcess, Queue[bytes | None], list[str]]]:
    """What is put into the queue is written by the stand-in, each alone; None ends the answer."""
    jupyter = JupyterProcess(tmp_path / "jupyter")
    feed: Queue[bytes | None] = Queue()
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/nbgpu/v1/events":  # the extension's own
                self.send_error(404)
                return
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("X-Nbgpu-Size", "12")
            self.end_headers()
            while (line := feed.get(timeout=20)) is not None:
                self.wfile.write(line)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    jupyter.home.prepare()
    start = runtime.start_time(os.getpid())
    assert start is not None
    told = runtime.Backend(
        f"http://127.0.0.1:{server.server_port}", mirror.TOKEN, os.getpid(), start,
        runtime.boot_id(), "0.0.test", runtime.API_VERSION,
    )  # fmt: skip
    jupyter.home.backend_json.write_text(json.dumps(told.dump()))
    jupyter.start()
    try:
        yield jupyter, feed, asked
    finally:
        jupyter.home.backend_json.unlink()
        jupyter.stop()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_request_keeps_its_target_and_loses_what_is_jupyters(
    mirrored: tuple[JupyterProcess, Mirror],
) -> None:
    jupyter, seen = mirrored[0], mirrored[1].seen
    with jupyter.client({"Authorization": f"token {TOKEN}"}) as browser:
        browser.get("api/me")  # cookies
        jupyters = {
            "Cookie": "mine=1",
            "X-XSRFToken": "mine",
            "Proxy-Authorization": "Basic mine",
            "TE": "trailers",
            "Connection": "keep-alive, X-Private",
            "X-Private": "mine",
            "X-Forwarded-For": "192.0.2.1",
            "Referer": jupyter.url + "lab?token=mine",
        }
        ours = {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "Last-Event-ID": "7",
            "X-Nbgpu-Origin": "{}",
            "X-Nbgpu-Progress": "1",
        }
        target = "v2/a%20b/%C3%A4?x=%2F&y=a+b"
        browser.post("nbgpu/api/" + target, content=b"{}", headers={**jupyters, **ours})
    method, path, headers, body = seen[-1]
    assert (method, path, body) == ("POST", "/" + target, b"{}")
    assert headers.pop("Authorization") == f"Bearer {mirror.TOKEN}"
    assert {name: headers.pop(name) for name in ours} == ours
    assert set(headers) <= {"Host", "User-Agent", "Accept-Encoding", "Content-Length"}
    assert "mine" not in str(headers) and TOKEN not in str(headers)


def test_an_answer_keeps_what_a_panel_reads_and_no_more(
    mirrored: tuple[JupyterProcess, Mirror],
) -> None:
    answer = mirrored[0].http.get("nbgpu/api/nbgpu/v1/summary")
    kept = {name for name in mirror.ANSWERED if answer.headers.get(name) == mirror.ANSWERED[name]}
    assert kept == {"Cache-Control", "Retry-After", "X-Nbgpu-Cold"}
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "theirs" not in str(answer.headers) and mirror.TOKEN not in str(answer.headers)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_large_body_passes_whole_in_both_directions(
    mirrored: tuple[JupyterProcess, Mirror], method: str
) -> None:
    body = os.urandom(MANY)
    answer = mirrored[0].http.request(method, "nbgpu/api/v2/large", content=body)
    assert answer.status_code == 200 and answer.content == body
    assert mirrored[1].seen[-1][3] == body


def test_a_file_goes_to_a_pod_and_comes_back_whole(
    mirrored: tuple[JupyterProcess, Mirror],
) -> None:
    """With where it is to be, and how large: the path and every option of it reach the backend as they were sent."""
    body = os.urandom(MANY)
    octets = {"Content-Type": "application/octet-stream"}
    target = f"nbgpu/v1/pods/train/file?path=a%20b/%C3%A4.bin&offset=7&size={MANY + 7}&mode=420"
    answer = mirrored[0].http.put("nbgpu/api/" + target, content=body, headers=octets)
    assert answer.status_code == 200 and answer.content == body
    method, path, headers, sent = mirrored[1].seen[-1]
    assert (method, path, sent) == ("PUT", "/" + target, body)
    assert headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["content-type"] == "application/octet-stream"


def test_what_a_pod_prints_comes_line_by_line(
    ndjson: tuple[JupyterProcess, Queue[bytes | None], list[str]],
) -> None:
    """Also the empty ones of a quiet time, each before the next is written."""
    jupyter, feed, asked = ndjson
    target = "nbgpu/v1/pods/train/output?since=3&follow=true"
    feed.put(b'{"n": 4}\n')
    with jupyter.http.stream("GET", "nbgpu/api/" + target) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["x-nbgpu-size"] == "12"
        chunks = answer.iter_bytes()
        assert next(chunks) == b'{"n": 4}\n'
        for line in (b"\n", b'{"n": 5}\n'):
            feed.put(line)
            assert next(chunks) == line
        feed.put(None)
        assert list(chunks) == []
    assert asked == ["/" + target]


def test_what_a_browser_sends_is_sent_to_the_backend_alone(
    mirrored: tuple[JupyterProcess, Mirror], tmp_path: Path
) -> None:
    before = len(mirrored[1].seen)
    for path in (
        "http://192.0.2.1/v2/x",
        "//192.0.2.1/v2/x",
        "v2/@192.0.2.1/..",
        "v2\\x",
        "%2e/v2/x",
    ):
        assert mirrored[0].http.post("nbgpu/api/" + path).status_code == 404
    assert len(mirrored[1].seen) == before


def test_events_pass_as_they_come_and_go_on_from_an_id(jupyter: JupyterProcess) -> None:
    jupyter.deploy("told").raise_for_status()
    last = jupyter.api("nbgpu/v1/changes")["seq"]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last - 1)}
    with (
        ThreadPoolExecutor(1) as hands,
        jupyter.http.stream("GET", "nbgpu/api/nbgpu/v1/events", headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        seqs = (int(line[4:]) for line in lines if line.startswith("id: "))
        assert next(seqs) == last  # of the past
        stop = {"action": "stop"}
        done = hands.submit(jupyter.http.post, "nbgpu/api/v2/serverless/told/action", json=stop)
        assert next(seqs) == last + 1  # while the stream stays open
        told = next(json.loads(line[6:]) for line in lines if line.startswith("data: "))
        assert told["endpoint"] == "told" and done.result().status_code == 200
