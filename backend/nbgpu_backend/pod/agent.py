"""The agent of a pod: `python agent.py`, with NBGPU_AGENT in its environment.

It runs inside the pod, in the pod's own Python (3.8 or newer) with what ipykernel brings, and ends with
it. It starts the one kernel and is its client; numbers and keeps all output; runs cells; moves files and
values; gives terminals and port forwards; and knows whether the pod is in use. Its socket is `agent` in
the run folder: one request line a connection, each answered by the function of that name in Ops.

NBGPU_AGENT is {"pod", "id", "run", "workspace", "before_stop", "grace_s", "spool_bytes", "tether": it ends
at once when its standard input does}; all other variables are the kernel's and the terminals'. Exit codes:
0 asked to end, 64 bad settings, 71 the socket or the spool cannot be made.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Awaitable, Callable, Coroutine, Dict, Optional, Set

    from nbgpu_backend.pod.activity import Activity
    from nbgpu_backend.pod.children import Children, signal_group, within
    from nbgpu_backend.pod.files import Files, text, whole
    from nbgpu_backend.pod.forward import forward
    from nbgpu_backend.pod.kernel import Kernel
    from nbgpu_backend.pod.output import output
    from nbgpu_backend.pod.parcels import Parcels
    from nbgpu_backend.pod.runs import ID, Runs
    from nbgpu_backend.pod.spool import Spool, log
    from nbgpu_backend.pod.terminal import Terminals
    from nbgpu_backend.pod.wire import Refusal, Wire

    Json = Dict[str, Any]
else:
    from activity import Activity
    from children import Children, signal_group, within
    from files import Files, text, whole
    from forward import forward
    from kernel import Kernel
    from output import output
    from parcels import Parcels
    from runs import ID, Runs
    from spool import Spool, log
    from terminal import Terminals
    from wire import Refusal, Wire
SOCKET = "agent"
BAD_SETTINGS, SYSTEM = 64, 71
SPOOL_BYTES = 128 << 20
CONNECTIONS = 1000
REQUEST_S = 60.0  # a client may take so long to say what it wants
DISCARD_S = 5.0  # a refused client may first send all it has, and then read why
BUFFER = 256 << 10
KERNEL_SHARE = 0.3  # of the grace; the rest is for before_stop
ENDING = ("status", "runs", "output", "stop")  # what is answered while the pod ends


class Settings:
    """Raises ValueError, KeyError or TypeError for what cannot be used."""

    def __init__(self, raw: str) -> None:
        value = json.loads(raw)
        self.run = str(value["run"])
        self.workspace = str(value["workspace"])
        self.before_stop: Optional[str] = value.get("before_stop") or None
        self.grace_s = float(value.get("grace_s", 10.0))
        self.spool_bytes = int(value.get("spool_bytes") or SPOOL_BYTES)
        self.tether = bool(value.get("tether"))


class Agent:
    """Made in the running event loop. Raises OSError."""

    def __init__(self, settings: Settings, env: Dict[str, str]) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.env = dict(env, PWD=settings.workspace)
        self.children = Children()
        self.spool = Spool("spool", settings.spool_bytes)
        self.runs = Runs("runs.ndjson", self.spool)
        self.activity = Activity(self.children, lambda: self.kernel.busy)
        used = self.activity.used
        self.kernel = Kernel(
            self.children,
            self.spool,
            self.runs,
            self.activity.changed,
            self.env,
            settings.workspace,
        )
        self.files = Files(settings.workspace, used)
        self.parcels = Parcels(os.getcwd(), self.kernel, self.files)
        self.terminals = Terminals(self.children, self.env, settings.workspace, used)
        self.clients: Set[asyncio.Task[None]] = set()
        self.ending: Optional[asyncio.Task[None]] = None
        self.ended = asyncio.Event()

    # connections

    async def serve(self) -> None:
        """Returns once the pod has ended."""
        try:
            os.unlink(SOCKET)
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listener.bind(SOCKET)
        finally:
            os.umask(before)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.stop, self.settings.grace_s)
        if self.settings.tether:
            self.loop.add_reader(0, self.tethered)
        server = await asyncio.start_unix_server(
            self.connected, sock=listener, limit=BUFFER, backlog=1024
        )
        watch = self.loop.create_task(self.activity.watch())
        watch.add_done_callback(told)
        try:
            await self.ended.wait()
        finally:
            server.close()
            watch.cancel()
            for task in list(self.clients):
                task.cancel()
            await asyncio.gather(*self.clients, return_exceptions=True)
            try:
                os.unlink(SOCKET)
            except OSError:
                pass

    def tethered(self) -> None:
        if not os.read(0, 4096):
            os._exit(0)  # the first process of a container takes all others with it

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self.loop.create_task(self.client(Wire(reader, writer)))
        self.clients.add(task)
        task.add_done_callback(self.clients.discard)

    async def client(self, wire: Wire) -> None:
        try:
            try:
                if len(self.clients) > CONNECTIONS:
                    raise Refusal("refused", "%d connections are open" % CONNECTIONS)
                request = await asyncio.wait_for(wire.request(), REQUEST_S)
                if request:
                    await self.answer(wire, request)
            except Refusal as error:
                answer = dict(error.more, error=str(error), kind=error.kind)
                await wire.answer(answer)
                await asyncio.wait_for(wire.discard(), DISCARD_S)
        except (OSError, asyncio.TimeoutError):
            pass  # the client is gone
        except asyncio.CancelledError:
            pass
        except Exception as error:
            log("a fault of the agent: %r" % error)
            import traceback

            log(traceback.format_exc())
            try:
                await wire.answer({"error": "a fault of the agent: %r" % error, "kind": "io"})
            except OSError:
                pass
        finally:
            wire.writer.close()

    async def answer(self, wire: Wire, request: Json) -> None:
        op = request.get("op")
        plain: Dict[str, Callable[[Json], Awaitable[Json]]] = {
            "status": self.status,
            "kernel": self.act,
            "run": self.run,
            "runs": self.list_runs,
            "input": self.give_input,
            "stat": self.files.stat,
            "list": self.files.list,
            "mkdir": self.files.mkdir,
        }
        raw: Dict[str, Callable[[Wire, Json], Coroutine[Any, Any, Optional[Json]]]] = {
            "output": self.output,
            "put": self.files.put,
            "get": self.files.get,
            "send": self.parcels.send,
            "fetch": self.parcels.fetch,
            "terminal": self.terminals.serve,
            "forward": self.forward,
            "stop": self.stop_asked,
        }
        if not isinstance(op, str) or (op not in plain and op not in raw):
            raise Refusal("bad_request", "there is no op %r" % (op,))
        if self.ending is not None and op not in ENDING:
            raise Refusal("closing", "the pod is ending")
        if op in plain:
            await wire.answer(await plain[op](request))
            return
        found = await raw[op](wire, request)
        if found is not None:
            await wire.answer(found)

    # what is asked

    async def status(self, request: Json) -> Json:
        self.activity.sample()
        busy, last = self.kernel.busy, self.runs.last()
        if busy:
            self.activity.used()
        return {
            "kernel": self.kernel.public(),
            "busy": busy,
            "active_us": self.activity.active_us,
            "first": self.spool.first,
            "seq": self.spool.seq,
            "run": last.public() if last is not None else None,
            "processes": self.activity.processes,
            "cpu_s": round(self.activity.cpu_s, 2),
            "rss": self.activity.rss,
            "terminals": self.terminals.count,
            "gpus": self.activity.gpus,
        }

    async def act(self, request: Json) -> Json:
        action = request.get("action")
        self.activity.used()
        if action == "start":
            await self.kernel.start()
        elif action == "restart":
            await self.kernel.restart()
        elif action == "interrupt":
            self.kernel.interrupt()
        elif action == "stop":
            await self.kernel.stop()
        elif action == "signal":
            self.kernel.signal(whole(request, "signum"))
        else:
            raise Refusal("bad_request", "action is start, restart, interrupt, stop or signal")
        return {"kernel": self.kernel.public(connection=True)}

    async def run(self, request: Json) -> Json:
        name, code = text(request, "id"), request.get("code")
        if not ID.fullmatch(name) or name.startswith(("cell-", "nbgpu-")):
            raise Refusal("bad_request", "%r cannot be the id of a run" % name)
        if not isinstance(code, str):
            raise Refusal("bad_request", "code is missing")
        run = self.runs.get(name)
        if run is None:
            run = self.runs.ask(name, str(request.get("label") or ""), "run")
            run.code = code
            run.store_history = request.get("store_history", True) is not False
            self.kernel.execute(run)
        return {"run": run.public()}

    async def list_runs(self, request: Json) -> Json:
        return {"runs": self.runs.listed()}

    async def output(self, wire: Wire, request: Json) -> None:
        await output(wire, request, self.spool, self.runs)

    async def give_input(self, request: Json) -> Json:
        run, value = self.runs.get(text(request, "run")), request.get("value")
        if run is None:
            raise Refusal("not_found", "there is no run %s" % request["run"])
        if not isinstance(value, str):
            raise Refusal("bad_request", "value is a text")
        self.kernel.client.reply(run, value)
        self.activity.used()
        return {}

    async def forward(self, wire: Wire, request: Json) -> None:
        await forward(wire, request, self.activity.used)

    # the end

    async def stop_asked(self, wire: Wire, request: Json) -> None:
        grace = request.get("grace_s")
        number = isinstance(grace, (int, float)) and 0 <= grace < float("inf")
        await wire.answer({})
        self.stop(float(grace) if number and grace is not None else self.settings.grace_s)

    def stop(self, grace_s: float) -> None:
        if self.ending is None:
            self.ending = self.loop.create_task(self.end(grace_s))
            self.ending.add_done_callback(told)

    async def end(self, grace_s: float) -> None:
        began = self.loop.time()
        log("the pod ends within %g s" % grace_s)
        try:
            if self.settings.before_stop:
                await self.before_stop(self.settings.before_stop, grace_s * (1 - KERNEL_SHARE))
            left = grace_s - (self.loop.time() - began)
            await self.kernel.close(max(0.0, left - 0.2))
        finally:
            self.spool.flush()
            # who follows the output is to see the end of it
            await asyncio.sleep(0.1)
            self.ended.set()

    async def before_stop(self, command: str, seconds: float) -> None:
        try:
            pid, ended = self.children.spawn(
                ["sh", "-c", command],
                env=self.env,
                cwd=self.settings.workspace,
                stdin=subprocess.DEVNULL,
                stdout=2,
                stderr=2,
                start_new_session=True,
            )
        except OSError as error:
            log("before_stop could not be run: %s" % error)
            return
        if not await within(ended, seconds):
            log("before_stop was not done within %g s" % seconds)
            signal_group(pid, signal.SIGKILL)
        elif ended.result():
            log("before_stop failed with status %d" % (ended.result() >> 8))


def take_lock(seconds: float) -> int:
    """One agent at a time works in a run folder; a former one may be ending. Raises OSError."""
    fd = os.open("agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def told(task: asyncio.Task[None]) -> None:
    """A task of ours that fails says so in the log."""
    if not task.cancelled() and task.exception() is not None:
        log("a fault of the agent: %r" % task.exception())


async def live(settings: Settings, env: Dict[str, str]) -> int:
    try:
        agent = Agent(settings, env)
        await agent.serve()
    except OSError as error:
        log("the agent cannot work: %s" % error)
        return SYSTEM
    agent.spool.close()
    return 0


def main() -> int:
    # whoever started us may have ignored them, and shells that inherit that cannot be hung up
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    env = dict(os.environ)
    try:
        settings = Settings(env.pop("NBGPU_AGENT", ""))
        os.chdir(settings.run)
        take_lock(settings.grace_s)
    except (ValueError, KeyError, TypeError) as error:
        log("NBGPU_AGENT cannot be used: %r" % error)
        return BAD_SETTINGS
    except OSError as error:
        log("%s cannot be used: %s" % (settings.run, error.strerror))
        return SYSTEM
    # not asyncio.run, which waits for the threads that hash or sync
    return asyncio.new_event_loop().run_until_complete(live(settings, env))


if __name__ == "__main__":
    os._exit(main())
