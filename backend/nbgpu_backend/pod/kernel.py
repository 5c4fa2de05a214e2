"""The pod's one kernel: its process, from start to end, and the cells that are given to it.

Sockets are `k-1` (shell), `k-2` (iopub), `k-3` (stdin), `k-4` (control) and `k-5` (heartbeat) in the run
folder. Their names and the key stay the same through restarts. A kernel that dies is started again
by whoever next wants one, never by itself.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import secrets
import signal
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, List, Optional

    from nbgpu_backend.pod.children import Children, describe, signal_group, within
    from nbgpu_backend.pod.client import CONTROL, HEARTBEAT, IOPUB, SHELL, STDIN, Client
    from nbgpu_backend.pod.intake import Intake
    from nbgpu_backend.pod.messages import dump
    from nbgpu_backend.pod.runs import Run, Runs
    from nbgpu_backend.pod.spool import Spool, log, now_us
    from nbgpu_backend.pod.wire import Refusal

    Json = Dict[str, Any]
else:
    from children import describe, signal_group, within
    from client import CONTROL, HEARTBEAT, IOPUB, SHELL, STDIN, Client
    from intake import Intake
    from messages import dump
    from spool import log, now_us
    from wire import Refusal

START_S = 60.0
SHUTDOWN_S = 3.0  # for a kernel that is asked to go
NUDGE_S = 0.05
TAIL = 30
CONNECTION = "kernel.json"
GENERATION = "generation"


def kept_generation() -> int:
    """Of the pod's last kernel: it grows through the pod's own stops, too."""
    try:
        with open(GENERATION) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def keep_generation(number: int) -> None:
    try:
        with open(GENERATION, "w") as file:
            file.write("%d" % number)
    except OSError:
        pass  # a full disk: the next agent counts from an older one


class Kernel:
    """`state` is none, starting, idle or dead; whether it is busy is the intake's to say."""

    def __init__(
        self,
        children: Children,
        spool: Spool,
        runs: Runs,
        used: Callable[[], None],
        env: Dict[str, str],
        workspace: str,
    ) -> None:
        self.children, self.spool, self.runs = children, spool, runs
        self.env, self.workspace = env, workspace
        self.run_dir = os.getcwd()
        self.loop = asyncio.get_running_loop()
        self.intake = Intake(spool, runs, used)
        self.used = used
        self.state = "none"
        self.generation = kept_generation()
        self.pid: Optional[int] = None
        self.started_us: Optional[int] = None
        self.ended: Optional[asyncio.Future[int]] = None
        self.burial: Optional[asyncio.Task[None]] = None
        self.asked_to_end = False
        self.key = self.kept_key()
        self.client = Client(self.key, spool, runs, self.intake)
        self.lock = asyncio.Lock()
        self.queue: Deque[Run] = collections.deque()
        self.feeding: Optional[asyncio.Task[None]] = None
        self.tail: Deque[str] = collections.deque(maxlen=TAIL)
        self.closed = False

    def kept_key(self) -> str:
        """The key of the pod's earlier kernels, so that open notebooks find this one."""
        try:
            with open(CONNECTION) as file:
                key = json.load(file)["key"]
            if isinstance(key, str) and len(key) >= 32:
                return key
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return secrets.token_hex(32)

    # what is told of it

    @property
    def busy(self) -> bool:
        return bool(self.intake.busy or self.queue or any(x.sent for x in self.runs.open.values()))

    def public(self, connection: bool = False) -> Json:
        state = "busy" if self.state == "idle" and self.busy else self.state
        value: Json = {"state": state, "generation": self.generation}
        value.update(pid=self.pid, started_us=self.started_us, connection=None)
        if connection:
            value["connection"] = self.connection("k")
        return value

    def connection(self, ip: str) -> Json:
        return {
            "transport": "ipc",
            "ip": ip,
            "key": self.key,
            "signature_scheme": "hmac-sha256",
            "shell_port": SHELL,
            "iopub_port": IOPUB,
            "stdin_port": STDIN,
            "control_port": CONTROL,
            "hb_port": HEARTBEAT,
        }

    def tell(self, state: str, text: str) -> None:
        self.spool.add("", "kernel", dump({"state": state, "text": text}))

    # start

    async def start(self) -> None:
        """Returns once it answers. Raises Refusal."""
        async with self.lock:
            if self.state != "idle":
                await self.launch()

    async def launch(self) -> None:
        if self.burial is not None:
            await self.burial
        if self.closed:
            raise Refusal("closing", "the pod is ending")
        self.state, self.asked_to_end = "starting", False
        self.generation += 1
        keep_generation(self.generation)
        self.tail.clear()
        try:
            for number in range(1, 6):
                try:
                    os.unlink("k-%d" % number)
                except FileNotFoundError:
                    pass
            self.write_connection()
            bound = self.spawn()
        except OSError as error:
            self.state = "none"
            raise Refusal("kernel", "the kernel could not be started: %s" % error) from error
        assert self.ended is not None
        ready = self.loop.create_task(self.ready(bound))
        try:
            both: List[asyncio.Future[Any]] = [ready, self.ended]
            await asyncio.wait(both, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            if not self.ended.done() and ready.done():
                ready.result()
                self.state = "idle"
                again = " again: its variables are gone" if self.generation > 1 else ""
                self.tell("idle", "The kernel was started%s." % again)
                return
            why = "it was not ready within %d s" % START_S
            if self.ended.done():
                why = "it ended (%s)" % describe(self.ended.result())
        finally:
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
        await self.end(0.0)
        self.state = "dead"
        text = "the kernel could not be started: %s" % why
        log(text)
        if self.tail:
            text += ". The last lines of its log:\n" + "\n".join(self.tail)
        self.tell("dead", text)
        raise Refusal("kernel", text)

    def write_connection(self) -> None:
        """The file that tells the kernel its sockets, unless it is there: a disk may be full."""
        wanted = json.dumps(dict(self.connection("k"), kernel_name="python3"))
        try:
            with open(CONNECTION) as file:
                if file.read() == wanted:
                    return
        except OSError:
            pass
        fd = os.open(CONNECTION + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(wanted)
        os.rename(CONNECTION + ".tmp", CONNECTION)

    def spawn(self) -> int:
        """-> where it says that its sockets are bound"""
        here = os.path.dirname(os.path.abspath(__file__))
        bound, its_bound = os.pipe()
        said, its_said = os.pipe()
        # frozen modules would make the debugger miss breakpoints, and say so at each start
        argv = [sys.executable, "-X", "frozen_modules=off", os.path.join(here, "launch.py")]
        argv += [str(os.getpid()), str(its_bound)]
        argv += [os.path.join(self.run_dir, CONNECTION), self.workspace]
        try:
            self.pid, self.ended = self.children.spawn(
                argv,
                env=self.env,
                cwd=self.run_dir,
                stdin=subprocess.DEVNULL,
                stdout=its_said,
                stderr=its_said,
                pass_fds=[its_bound],
                start_new_session=True,
            )
        except OSError:
            os.close(bound)
            os.close(said)
            raise
        finally:
            os.close(its_bound)
            os.close(its_said)
        self.started_us = now_us()
        os.set_blocking(said, False)
        self.loop.add_reader(said, self.overheard, said)
        self.ended.add_done_callback(self.gone)
        return bound

    def overheard(self, fd: int) -> None:
        """What it writes past its own streams goes to the log; a full disk must not block it."""
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.loop.remove_reader(fd)
            os.close(fd)
            return
        try:
            os.write(2, data)
        except OSError:
            pass
        for line in data.decode("utf-8", "replace").splitlines():
            self.tail.append(line[:500])

    async def ready(self, bound: int) -> None:
        """Connect once it is bound, and wait until it answers and its output arrives."""
        told = asyncio.Event()
        self.loop.add_reader(bound, told.set)
        try:
            await told.wait()
        finally:
            self.loop.remove_reader(bound)
            said = os.read(bound, 1)
            os.close(bound)
        if not said:
            await asyncio.sleep(START_S)  # its end is told by its exit
        self.client.connect()
        await self.client.ready()

    # cells

    def execute(self, run: Run) -> None:
        """Runs are given to the kernel in the order of these calls, once there is one."""
        self.queue.append(run)
        self.used()
        if self.state == "idle" and not self.lock.locked():
            self.feed()
        elif self.feeding is None or self.feeding.done():
            self.feeding = self.loop.create_task(self.feed_later())

    async def feed_later(self) -> None:
        try:
            await self.start()
        except Refusal:
            while self.queue:
                self.runs.end(self.queue.popleft(), "died")
            self.used()
            return
        self.feed()

    def feed(self) -> None:
        while self.queue:
            run = self.queue.popleft()
            content = {
                "code": run.code,
                "silent": False,
                "store_history": run.store_history,
                "user_expressions": {},
                "allow_stdin": True,
                "stop_on_error": False,  # others' queued cells are no business of this one
            }
            run.code, run.sent = "", True
            self.client.send(SHELL, "execute_request", content, run.id)

    async def evaluate(self, expression: str) -> None:
        """Evaluate something silently, after what is queued. Raises Refusal."""
        content = {
            "code": "",
            "silent": True,
            "store_history": False,
            "user_expressions": {"nbgpu": expression},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        while True:
            await self.start()
            answer = await self.client.ask(SHELL, "execute_request", content)
            if answer.get("status") != "aborted":  # by a cell before it that failed
                return

    # end

    def interrupt(self) -> None:
        if self.pid is None or self.state not in ("idle", "starting"):
            raise Refusal("conflict", "there is no kernel to interrupt")
        for run in self.runs.open.values():
            if run.state == "running":
                run.interrupted = True
        signal_group(self.pid, signal.SIGINT)
        self.loop.call_later(NUDGE_S, self.nudge)

    def nudge(self) -> None:
        """A kernel that awaits something acts on the signal only once its event loop wakes."""
        if self.intake.busy:
            self.client.send(SHELL, "kernel_info_request", {})

    def signal(self, number: int) -> None:
        if self.pid is None:
            raise Refusal("conflict", "there is no kernel")
        if number == signal.SIGINT:
            self.interrupt()
            return
        try:
            os.killpg(self.pid, number)
        except OSError as error:
            raise Refusal("bad_request", "signal %d: %s" % (number, error.strerror)) from error

    async def restart(self) -> None:
        async with self.lock:
            await self.end(SHUTDOWN_S, restart=True)
            await self.launch()

    async def stop(self, grace_s: float = SHUTDOWN_S) -> None:
        async with self.lock:
            await self.end(grace_s)

    async def end(self, grace_s: float, restart: bool = False) -> None:
        """End the process and its group, and what it ran."""
        if self.pid is None or self.ended is None:
            return
        pid, ended = self.pid, self.ended
        self.asked_to_end = True
        for run in self.runs.open.values():
            run.doomed = run.sent or run.by == "notebook"
        if not ended.done():
            if grace_s > 0 and self.client.connected:
                if self.intake.busy:
                    signal_group(pid, signal.SIGINT)
                self.client.send(CONTROL, "shutdown_request", {"restart": restart})
                await within(ended, grace_s)
            elif grace_s > 0:
                signal_group(pid, signal.SIGTERM)
                await within(ended, grace_s)
        signal_group(pid, signal.SIGKILL)  # also what it left running
        await ended
        await asyncio.sleep(0)  # gone() is called
        if self.burial is not None:
            await self.burial

    def gone(self, ended: asyncio.Future[int]) -> None:
        was, self.state = self.state, "dead"  # what is asked for from now on is the next one's
        self.burial = self.loop.create_task(self.bury(was, ended.result()))

    async def bury(self, was: str, status: int) -> None:
        """The process has ended: read what it had said, and end what it ran."""
        sent = [run for run in self.runs.open.values() if run.sent or run.by == "notebook"]
        await self.client.drain()
        self.pid = self.started_us = None
        shut = self.asked_to_end or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0)
        self.state = "none" if shut else "dead"
        for run in list(self.runs.open.values()):
            if run in sent or run.by == "notebook":
                self.runs.end(run, "died")
        if was == "idle":
            if shut:
                self.tell("none", "The kernel was shut down.")
            else:
                self.tell(
                    "dead", "The kernel died (%s): its variables are gone." % describe(status)
                )
                log("the kernel died: %s" % describe(status))
        self.client.give_up()
        self.intake.gone()
        self.used()

    async def close(self, grace_s: float) -> None:
        self.closed = True
        while self.queue:
            self.runs.end(self.queue.popleft(), "died")
        await self.end(grace_s)
