"""A pre-imported parent: imports an engine once, then forks its instances, each with a shim of its own.

    python parent.py MODULE --dir DIR --idle SECONDS

One file, one thread, the standard library: it runs under the engine's own Python. MODULE is a file
with `prepare()`, which imports (and raises where the engine is not as it expects it), and
`run(argv)`, which becomes the engine in a forked process and returns its exit code.

DIR holds `lock` (flock, held while the parent lives), `state.json` (pid, start, boot_id, pid_ns,
started_us; once it is ready also ready_s), `sock` (there once it is ready) and `log`. It ends when it
has forked nothing for SECONDS, at {"op": "stop"} and at TERM. Neither its death nor that of whoever
started it touches what it forked, for it is no subreaper.

The socket takes one JSON object a line. {"op": "status"} is answered with state.json, `idle_s` and
`forks`. {"op": "fork", "python", "shim", "folder", "spec", "env"} is answered by the shim (shim.py,
under `python`) with its own one line: a child of this process leads a session, forks the engine,
which waits, and becomes the shim by exec; so the shim is the engine's parent from the first
instruction on. {"refused": why} comes where that is not possible now.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import gc
import importlib.util
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, NoReturn

    Json = dict[str, Any]

HELD, FAILED = 75, 70
PR_SET_PDEATHSIG = 1
LOCK_S = 0.5
SETTLE_S = 5.0  # for threads that imports started and end
LINE_LIMIT = 1 << 20
LOG_LIMIT = 1 << 20
OOM_SCORE_ADJ = 800  # it goes before a worker does


def main() -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("--dir", required=True)
    parser.add_argument("--idle", type=float, required=True)
    given = parser.parse_args()
    os.umask(0o077)
    os.makedirs(given.dir, exist_ok=True)
    os.chdir(given.dir)
    held = lock("lock")
    if held is None:
        return HELD
    for name in ("sock", "state.json"):
        remove(name)
    log_to("log", os.O_TRUNC)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(OOM_SCORE_ADJ))
    state = describe()
    write_whole("state.json", state)
    module = load(os.path.abspath(given.module))
    module.prepare()
    gc.collect()
    gc.freeze()
    end = time.monotonic() + SETTLE_S
    while threads() > 1 and time.monotonic() < end:
        time.sleep(0.02)
    if threads() > 1:
        print("the imports have left %d threads: nothing can be forked" % threads(), flush=True)
        return FAILED
    state["ready_s"] = round(time.monotonic() - began, 3)
    write_whole("state.json", state)
    print("ready after %.1f s" % state["ready_s"], flush=True)
    Server(module, state, given.idle, held).run()
    remove("sock")
    return 0


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("preimport", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["preimport"] = module
    spec.loader.exec_module(module)
    return module


def lock(path: str) -> int | None:
    """With some patience: who looks whether it lives takes it for a moment."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            if time.monotonic() > end:
                return None
            time.sleep(0.01)


def describe() -> Json:
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    with open("/proc/self/stat", "rb") as stat:
        raw = stat.read()
    return {
        "pid": os.getpid(),
        "start": int(raw[raw.rindex(b")") + 2 :].split()[19]),
        "boot_id": boot,
        "pid_ns": os.readlink("/proc/self/ns/pid"),
        "started_us": time.time_ns() // 1000,
    }


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def write_whole(name: str, value: Json) -> None:
    with open(name + ".tmp", "w") as file:
        json.dump(value, file)
    os.rename(name + ".tmp", name)


def log_to(path: str, more: int = 0) -> None:
    """Standard output and error append to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | more, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, fd), (2, fd)):
        os.dup2(source, target)
    os.close(fd)
    os.close(null)


class Server:
    """The loop of a parent that is ready."""

    def __init__(self, module: ModuleType, state: Json, idle_s: float, held: int) -> None:
        self.module, self.state, self.idle_s, self.held = module, state, idle_s, held
        self.forks = 0
        self.used = time.monotonic()
        self.stopping = False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("sock")  # relative: the path of a socket has 107 bytes at most
        self.listener.listen(64)
        self.listener.setblocking(False)
        self.wake, self.woken = os.pipe()
        for fd in (self.wake, self.woken):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self.woken, warn_on_full_buffer=False)
        self.clients: dict[socket.socket, bytes] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def run(self) -> None:
        while not self.stopping:
            left = self.used + self.idle_s - time.monotonic()
            if left <= 0 and not self.clients:
                print("idle for %d s: it ends" % self.idle_s, flush=True)
                return
            for key, _ in self.selector.select(max(0.05, left)):
                if key.fileobj is self.listener:
                    self.accept()
                elif key.fileobj == self.wake:
                    self.signalled()
                elif key.fileobj in self.clients:
                    self.receive(key.fileobj)
            if os.fstat(1).st_size > LOG_LIMIT:
                os.ftruncate(1, 0)

    def signalled(self) -> None:
        try:
            numbers = os.read(self.wake, 4096)
        except BlockingIOError:
            return
        self.stopping = self.stopping or signal.SIGTERM in numbers
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                return

    def accept(self) -> None:
        try:
            client, _ = self.listener.accept()
        except OSError:
            return
        self.clients[client] = b""
        self.selector.register(client, selectors.EVENT_READ)

    def drop(self, client: socket.socket) -> None:
        self.selector.unregister(client)
        del self.clients[client]
        client.close()

    def receive(self, client: socket.socket) -> None:
        try:
            got = client.recv(65536)
        except OSError:
            got = b""
        data = self.clients[client] + got
        line, newline, _ = data.partition(b"\n")
        if newline:
            try:
                self.answer(client, json.loads(line.decode()))
            except Exception as error:  # whatever a client sends is its own trouble
                traceback.print_exc()
                self.say(client, {"refused": "not understood: %r" % error})
            self.drop(client)
        elif not got or len(data) > LINE_LIMIT:
            self.drop(client)
        else:
            self.clients[client] = data

    def say(self, client: socket.socket, line: Json) -> None:
        try:
            client.sendall(json.dumps(line).encode() + b"\n")
        except OSError:
            pass

    def answer(self, client: socket.socket, request: Json) -> None:
        if request["op"] == "fork":
            self.fork(client, request)
            return
        if request["op"] == "stop":
            self.stopping = True
        idle = round(time.monotonic() - self.used, 3)
        self.say(client, dict(self.state, idle_s=idle, forks=self.forks))

    def fork(self, client: socket.socket, request: Json) -> None:
        if (count := threads()) > 1:
            self.say(client, {"refused": "it has %d threads" % count})
            return
        for key in ("python", "shim", "folder", "spec", "env"):
            request[key]
        self.forks += 1
        self.used = time.monotonic()
        os.utime("state.json")  # by which it is told how long it has been idle
        if os.fork() == 0:
            try:
                self.become_shim(client, request)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(FAILED)

    def leave(self, client: socket.socket | None) -> None:
        """In a child: hold nothing of the parent's."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        for fd in (self.held, self.wake, self.woken):
            os.close(fd)
        self.listener.close()
        for other in self.clients:
            if other is not client:
                other.close()

    def become_shim(self, client: socket.socket, request: Json) -> NoReturn:
        self.leave(client)
        os.setsid()
        me = os.getpid()
        go_read, go_write = os.pipe()
        up_read, up_write = os.pipe()
        engine = os.fork()
        if engine == 0:
            os.close(go_write)
            os.close(up_read)
            client.close()
            become_engine(self.module, request["spec"], request["folder"], me, go_read, up_write)
        os.close(go_read)
        os.close(up_write)
        os.read(up_read, 1)  # it leads its session now
        os.close(up_read)
        spec = dict(request["spec"], child=engine, go_fd=go_write)
        document = os.memfd_create("spec")
        os.write(document, json.dumps(spec).encode())
        os.lseek(document, 0, os.SEEK_SET)
        os.dup2(document, 0)
        os.dup2(client.fileno(), 1)
        client.setblocking(True)
        os.close(document)
        client.close()
        os.set_inheritable(go_write, True)
        default_signals()
        argv = [request["python"], "-I", "-S", "-E", request["shim"], request["folder"]]
        os.execve(argv[0], argv, request["env"])


def default_signals() -> None:
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            try:
                signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError):
                pass
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def become_engine(
    module: ModuleType, spec: Json, folder: str, parent: int, go: int, up: int
) -> NoReturn:
    """In the forked child: wait for the shim's word, then be the engine."""
    code = FAILED
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(FAILED)
        os.setsid()
        os.write(up, b"x")
        os.close(up)
        if not os.read(go, 1):
            os._exit(FAILED)
        os.close(go)
        default_signals()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log_to(os.path.join(folder, "log"))
        os.chdir(spec.get("cwd") or folder)
        os.environ.clear()
        os.environ.update(spec["env"])
        sys.argv = list(spec["argv"])
        code = run(module, sys.argv)
        finish()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(module: ModuleType, argv: list[str]) -> int:
    """The engine's exit code, as the interpreter would give it."""
    try:
        return int(module.run(argv) or 0)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1


def finish() -> None:
    """What the interpreter does at its end: what is registered there stops the engine's own children."""
    import atexit
    import threading
    from multiprocessing import util

    threading._shutdown()  # type: ignore[attr-defined]
    util._exit_function()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


if __name__ == "__main__":
    try:
        ended = main()
    except BaseException:
        traceback.print_exc()
        ended = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)
