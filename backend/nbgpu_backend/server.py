"""The backend as a process: one per NBGPU_HOME, bound to loopback, told of in `run/backend.json`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version

import uvicorn

from nbgpu_backend import runtime
from nbgpu_backend.api.app import build
from nbgpu_backend.clock import Clock, SystemClock, boot_id
from nbgpu_backend.control.core import Core
from nbgpu_backend.errors import BackendError, DiskError
from nbgpu_backend.front import front
from nbgpu_backend.home import Home
from nbgpu_backend.providers.base import WorkerHost
from nbgpu_backend.providers.local.provider import LocalProvider
from nbgpu_backend.serving.sockets import MESSAGE_LIMIT

log = logging.getLogger(__name__)

OPEN_FILES = 65_536
GC_THRESHOLDS = 20_000, 20, 20
BIND_TRIES, BIND_PAUSE_S = 10, 0.05
CLOSE_S = 5  # how long open connections may delay the end
# A websocket that answers no ping for so long is let go. Long, since one whose messages wait for a slow
# worker is not read from, and its pong waits behind them.
PONG_S = 300.0


def version() -> str:
    try:
        return distribution_version("nbgpu")
    except PackageNotFoundError:
        return "0+source"


async def serve(
    home: Home, ready_fd: int | None, host: Callable[[Home, Clock], WorkerHost]
) -> None:
    """Run until told to end. Raises DiskError, BackendError."""
    home.prepare()
    if not await _alone(home):
        running = runtime.read(home)
        raise BackendError(
            f"A backend runs for {home.root} already"
            + (f" (pid {running.pid}, {running.url})." if running else "."),
            "Use it, or end it with: nbgpu shutdown",
            code="already_running",
        )
    clock = SystemClock()
    core = await Core.open(home, clock, host(home, clock))
    former = runtime.read(home)
    token = former.token if former else secrets.token_urlsafe(32)
    listener = _bind(former)
    core.services.url = "http://{}:{}".format(*listener.getsockname()[:2])
    stop = asyncio.Event()
    everything = False

    def shutdown(all_: bool) -> None:
        nonlocal everything
        everything = everything or all_
        stop.set()

    config = uvicorn.Config(
        build(core, token, version(), shutdown),
        log_level="warning",
        access_log=False,
        lifespan="off",
        http=front(_open_files()),
        ws="websockets-sansio",
        ws_max_size=MESSAGE_LIMIT,
        ws_per_message_deflate=False,  # the workers are a loopback away, and so is most often the client
        ws_ping_timeout=PONG_S,
        proxy_headers=False,  # nobody's X-Forwarded-For changes who the client is
        timeout_keep_alive=60,
        timeout_graceful_shutdown=CLOSE_S,
        server_header=False,
        date_header=False,
    )
    server = _Server(config)
    await core.start()
    _settle_heap()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shutdown, False)
    bound = asyncio.create_task(server.bound.wait())
    await asyncio.wait((serving, bound), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        bound.cancel()
        await core.close(everything=False)
        await serving  # raises what kept it from serving
        raise BackendError("The server ended before it was bound.", f"See {home.backend_log}")
    _announce(home, core.services.url, token)
    if ready_fd is not None:
        os.write(ready_fd, b"1")
        os.close(ready_fd)
    log.info("nbgpu %s serves %s at %s", version(), home.root, core.services.url)
    await asyncio.wait(
        (serving, asyncio.create_task(stop.wait())), return_when=asyncio.FIRST_COMPLETED
    )
    # requests in progress first: what is cut while its worker is well would count as its death
    core.hang_up()
    server.should_exit = True
    await serving
    await core.close(everything=everything)
    log.info("ended")


async def _alone(home: Home) -> bool:
    """Take the lock that a backend holds for life. One that was killed has it until its last thread is
    gone, which may be a moment after its pid is nobody's."""
    end = time.monotonic() + runtime.DYING_S
    while runtime.lock(home.run / "backend.lock", wait=False) is None:
        running = runtime.read(home)
        if (running is not None and runtime.alive(running)) or time.monotonic() >= end:
            return False
        await asyncio.sleep(runtime.LOOK_S)
    return True


def _settle_heap() -> None:
    """What is there now stays: a full collection that walked it would stop the loop for 0.1 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


class _Server(uvicorn.Server):
    """Tells when it is bound, and leaves the signals to us."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.bound = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.bound.set()


def _open_files() -> int:
    """As many as the system lets this process have: each client and each request to a worker is
    one. What it starts inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _bind(former: runtime.Backend | None) -> socket.socket:
    """The former port where it is free, so that clients need not look again; else another one."""
    wanted = int(former.url.rsplit(":", 1)[1]) if former else 0
    for port in dict.fromkeys((wanted, 0)):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not _try_bind(listener, port):
            listener.close()
            log.warning("port %d is taken by another program: another port is used", port)
            continue
        listener.listen(2048)
        listener.set_inheritable(False)
        return listener
    raise BackendError("No port of loopback can be bound.", "End what holds them, then try again.")


def _try_bind(listener: socket.socket, port: int) -> bool:
    """A killed backend may hold its port for a moment longer than its pid."""
    for attempt in range(BIND_TRIES):
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            if attempt + 1 < BIND_TRIES:
                time.sleep(BIND_PAUSE_S)
        else:
            return True
    return False


def _announce(home: Home, url: str, token: str) -> None:
    """Write backend.json whole or not at all, readable by this user alone."""
    pid = os.getpid()
    backend = runtime.Backend(
        url=url,
        token=token,
        pid=pid,
        start=runtime.start_time(pid) or 0,
        boot_id=boot_id(),
        version=version(),
        api_version=runtime.API_VERSION,
    )
    temporary = home.backend_json.with_suffix(f".{pid}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(backend.dump(), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(home.backend_json)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DiskError(
            f"{home.backend_json} cannot be written: {error.strerror}.",
            "Free some space on its disk.",
        ) from None


def main(argv: list[str], host: Callable[[Home, Clock], WorkerHost] = LocalProvider) -> int:
    """`python -m nbgpu_backend [--ready-fd N]`. `host` makes what runs the workers."""
    ready_fd = int(argv[argv.index("--ready-fd") + 1]) if "--ready-fd" in argv else None
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    home = Home.default()
    os.environ["NBGPU_HOME"] = str(home.root)
    try:
        import uvloop

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    try:
        run(serve(home, ready_fd, host))
    except (DiskError, BackendError) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0
