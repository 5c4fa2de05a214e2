"""What is measured: the way to the stand-in itself, and the gateways before it, all up at the same time.

Each gateway has one backend, the stand-in of tests/support/fast_upstream.py; nbgpu starts its own as the
worker of a `command` endpoint. nginx has one process for requests, vllm-router a thread for each core,
nbgpu and LiteLLM one process with one thread: CPU seconds tell what each of them takes for a request.
"""

from __future__ import annotations

import contextlib
import getpass
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
from nbgpu_backend.errors import NbgpuError

from tests.bench import stand
from tests.bench.gateway import environments
from tests.bench.gateway.processes import Argv, NotStarted, Tree, program
from tests.support import fast_upstream
from tests.support.backend import BackendProcess
from tests.support.ports import free_port

MODEL = "bench"
ROUTE = "/v1/chat/completions"
CONCURRENCY = 512  # of nbgpu's worker: above every load, so that nothing waits in the queue
LITELLM_START_S = 180.0
LITELLM_KEY = "sk-bench"

NGINX = """
worker_processes 1;
daemon off;
user {user};
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream worker {{
        server 127.0.0.1:{worker};
        keepalive 512;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        keepalive_requests 100000000;
        client_max_body_size 20m;
        client_body_buffer_size 64k;
        location / {{
            proxy_pass http://worker;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
"""
LITELLM = """
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{worker}/v1
      api_key: none
general_settings:
  master_key: {key}
"""


class Absent(Exception):
    """This peer cannot be had here; the message says why."""


@dataclass(frozen=True)
class Peer:
    """Where it listens on loopback, what it wants to be told, and the processes that are its own."""

    name: str
    port: int
    tree: Tree
    path: str = ROUTE
    token: str = "none"
    slow: bool = False  # gets a bounded share of the time

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"


@dataclass(frozen=True)
class Lineup:
    """All that are there, in the order of NAMES, and why others are not."""

    peers: dict[str, Peer]
    absent: dict[str, str]
    nbgpu: BackendProcess | None


Starter = Callable[[Path, int], AbstractContextManager[Peer]]  # a folder, the stand-in's port


@contextlib.contextmanager
def lineup(only: set[str]) -> Iterator[Lineup]:
    """Start those that are asked for, or all. Of nbgpu the backend comes along, for its own figures."""
    peers: dict[str, Peer] = {}
    absent: dict[str, str] = {}
    nbgpu: BackendProcess | None = None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbgpu-peers-")))
        worker = stack.enter_context(_stand_in(folder))
        for name in NAMES:
            if only and name not in only:
                continue
            try:
                if name == "nbgpu":
                    nbgpu = stack.enter_context(stand.backend())
                    peers[name] = nbgpu_peer(nbgpu)
                else:
                    peers[name] = stack.enter_context(STARTERS[name](folder, worker.port))
            except (Absent, NbgpuError, NotStarted) as reason:
                absent[name] = str(reason)
        yield Lineup(peers, absent, nbgpu)


def _direct(folder: Path, worker: int) -> AbstractContextManager[Peer]:
    return contextlib.nullcontext(Peer("direct", worker, Tree(0, frozenset({0}))))


@contextlib.contextmanager
def _stand_in(folder: Path) -> Iterator[Peer]:
    port = free_port()
    argv = [sys.executable, fast_upstream.__file__, "--port", str(port), "--model", MODEL]
    with program(argv, folder / "stand-in.log", _answers(port, "/health"), within_s=20) as pid:
        yield Peer("direct", port, Tree(pid))


@contextlib.contextmanager
def _nginx(folder: Path, worker: int) -> Iterator[Peer]:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        raise Absent("nginx is not installed (tests/debian-packages.txt names it)")
    port = free_port()
    place = folder / "nginx"
    place.mkdir()
    config = place / "nginx.conf"
    config.write_text(NGINX.format(user=getpass.getuser(), folder=place, worker=worker, port=port))
    argv: Argv = [found, "-p", place, "-c", config, "-e", "stderr"]
    with program(argv, place / "log", _answers(port, "/health"), within_s=10) as pid:
        yield Peer("nginx", port, Tree(pid))


@contextlib.contextmanager
def _vllm_router(folder: Path, worker: int) -> Iterator[Peer]:
    port = free_port()
    argv: Argv = [
        environments.ensure("vllm-router") / "vllm-router", "--worker-urls", f"http://127.0.0.1:{worker}",
        "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--log-level", "error",
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()),
    ]  # fmt: skip
    ready = _answers(port, "/v1/models")
    with program(argv, folder / "vllm-router.log", ready, within_s=60) as pid:
        yield Peer("vllm-router", port, Tree(pid))


@contextlib.contextmanager
def _litellm(folder: Path, worker: int) -> Iterator[Peer]:
    port = free_port()
    place = folder / "litellm"
    place.mkdir()
    config = place / "config.yaml"
    config.write_text(LITELLM.format(model=MODEL, worker=worker, key=LITELLM_KEY))
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its own table of prices, not one from elsewhere
        "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False", "DISABLE_ADMIN_UI": "True", "NO_PROXY": "*",
    }  # fmt: skip
    argv: Argv = [
        environments.ensure("litellm") / "litellm", "--config", config, "--host", "127.0.0.1",
        "--port", str(port), "--num_workers", "1",
    ]  # fmt: skip
    ready = _answers(port, "/health/liveliness")
    with program(argv, place / "log", ready, within_s=LITELLM_START_S, env=env) as pid:
        yield Peer("litellm", port, Tree(pid), token=LITELLM_KEY, slow=True)


def nbgpu_peer(process: BackendProcess) -> Peer:
    """A real backend with a `command` endpoint: the token, the queue, records and ledger are all in use."""
    argv = [sys.executable, fast_upstream.__file__, "--port", "{port}", "--model", "{name}"]
    engine = {"name": "command", "options": ["--concurrency", str(CONCURRENCY), *argv]}
    process.deploy(MODEL, workers={"min": 1, "max": 1}, nbgpu={"engine": engine})
    process.wait_state(MODEL, "ready", 60)
    worker = process.worker(MODEL, "idle")
    backend = process.backend
    return Peer(
        "nbgpu",
        int(backend.url.rsplit(":", 1)[1]),
        Tree(backend.pid, frozenset({worker["pid"]})),
        path=f"/v2/{MODEL}/openai{ROUTE}",
        token=backend.token,
    )


def _answers(port: int, path: str) -> Callable[[], bool]:
    """Does it answer 200 there?"""

    def look() -> bool:
        try:
            return httpx.get(
                f"http://127.0.0.1:{port}{path}", timeout=5, trust_env=False
            ).is_success
        except httpx.HTTPError:
            return False

    return look


STARTERS: Mapping[str, Starter] = {
    "direct": _direct,
    "nginx": _nginx,
    "vllm-router": _vllm_router,
    "litellm": _litellm,
}
NAMES = ("direct", "nginx", "vllm-router", "nbgpu", "litellm")
