"""A stand-in for the backend that answers with what it was asked, and with headers that no proxy may pass on."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nbgpu_backend import runtime
from nbgpu_backend.home import Home

TOKEN = "the-token-of-the-mirror"
ANSWERED = {
    "Keep-Alive": "timeout=5",
    "Set-Cookie": "theirs=1",
    "WWW-Authenticate": f'Bearer error="{TOKEN}"',
    "Server-Timing": "own",
    "Cache-Control": "no-store",
    "Retry-After": "7",
    "X-Nbgpu-Cold": "1",
}  # fmt: skip


class Mirror:
    """`with Mirror(home) as mirror:`; `mirror.seen` are (method, target, headers, body)."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> Mirror:
        self._thread.start()
        self.home.prepare()
        start = runtime.start_time(os.getpid())
        assert start is not None
        told = runtime.Backend(
            f"http://127.0.0.1:{self._server.server_port}", TOKEN, os.getpid(), start,
            runtime.boot_id(), "0.0.test", runtime.API_VERSION,
        )  # fmt: skip
        self.home.backend_json.write_text(json.dumps(told.dump()))
        return self

    def __exit__(self, *_: object) -> None:
        self.home.backend_json.unlink()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(mirror: Mirror) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path != "/nbgpu/v1/events":  # the extension's own
                mirror.seen.append((self.command, self.path, dict(self.headers), body))
            self.send_response(200)
            for name, value in ANSWERED.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    return Handler
