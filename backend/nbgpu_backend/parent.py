"""A pre-imported parent: imports an engine once, then forks a worker of it whenever one is asked for.

    python parent.py --dir DIR --idle S -- MODULE_FILE

One file, one thread, the standard library, run by the Python of the engine's own environment. The
module has `prepare()`, which imports whatever the engine will need, once, and `run(argv) -> int`,
which is the engine: it runs in the forked process and returns the exit code.

DIR (0700) holds `lock` (flock, held while the parent lives), `state.json` (pid, start, boot_id,
pid_ns, started_us; once it is ready also ready_s), `sock`, and `log` (what it and its imports say).
A held lock without a socket that answers: it is still importing.

The socket takes one JSON object a line. {"op": "status"} is answered with state.json, idle_s and
forks; {"op": "stop"} ends the parent. {"op": "fork", "python", "shim", "env", "folder", "spec"}
forks twice: the child leads a session and forks the engine (a session of its own, PDEATHSIG), then
execs `python -I -S -E shim.py FOLDER` with the spec on its stdin and the connection as its stdout.
So the engine's parent is its shim from the beginning, and the caller reads the shim's one line. A
refusal is {"error", "kind": "parent"}; end of file without a line means that nothing was started.

The parent is nobody's child for long: neither its end nor its starter's touches a worker. It ends
by itself when it has forked nothing for S seconds. Exit codes: 75 another one holds the lock, 1
`prepare` failed (the last line of the log says why).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

HELD, NO_EXEC = 75, 127
OOM_SCORE_ADJ = "800"  # where memory is out it goes before a worker does
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
START_S = 600  # an import that hangs must not hold its memory for ever
SETTLE_S = 5.0  # threads that the imports used may take so long to end
LINE_LIMIT = 16 << 20
LOG_LIMIT = 1 << 20
LOCK_S = 0.2  # whoever probes the lock holds it for a moment
OURS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LIBC = ctypes.CDLL(None, use_errno=True)

Json = dict[str, Any]


class Refused(Exception):
    """This worker cannot be forked; the text says why."""


@dataclass(frozen=True)
class Asked:
    """In the forked engine: what it shall be."""

    argv: list[str]


def prctl(option: int, value: int | bytes) -> None:
    if LIBC.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def set_oom(value: str) -> None:
    """See proc(5). Anybody may raise it, and lower it again to what it was."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(value)


def fresh_signals() -> None:
    """The dispositions of a new interpreter, whatever was inherited."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def enter(folder: str) -> int:
    """Make the folder, go there and take its lock. -> the lock's descriptor, -1 if another has it"""
    end = time.monotonic() + LOCK_S
    while True:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        fd = -1
        try:
            fd = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.chdir(folder)
            # who found the lock free a moment ago may have removed the folder meanwhile
            if os.path.samestat(os.fstat(fd), os.stat("lock")):
                return fd
        except FileNotFoundError:
            pass
        except BlockingIOError:
            if time.monotonic() > end:
                return -1
        if fd >= 0:
            os.close(fd)
        time.sleep(0.01)


def write_whole(name: str, value: Json) -> None:
    with open(name + ".tmp", "w") as file:
        json.dump(value, file)
    os.rename(name + ".tmp", name)


def describe() -> Json:
    with open("/proc/self/stat", "rb") as file:
        raw = file.read()
    with open("/proc/sys/kernel/random/boot_id") as text:
        boot = text.read().strip()
    return {
        "pid": os.getpid(),
        # the command's name may hold blanks and brackets
        "start": int(raw[raw.rindex(b")") + 2 :].split()[19]),
        "boot_id": boot,
        "pid_ns": os.readlink("/proc/self/ns/pid"),
        "started_us": time.time_ns() // 1000,
    }


def load(path: str) -> ModuleType:
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def threads() -> list[str]:
    """The names of this process's threads, native ones too, the main one apart."""
    found = []
    for task in os.listdir("/proc/self/task"):
        if int(task) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
                found.append(file.read().strip())
    python = [x.name for x in threading.enumerate() if x is not threading.main_thread()]
    return [*found, *(f"in Python {name}" for name in python)] if found else []


def settle() -> None:
    """Wait until this thread is the only one. A fork copies no other, but whatever they had locked."""
    end = time.monotonic() + SETTLE_S
    while names := threads():
        if time.monotonic() > end:
            raise RuntimeError(f"prepare() left threads behind: {'; '.join(names)}")
        time.sleep(0.02)


def opened() -> set[int]:
    """Every open descriptor."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.add(int(name))
    return found


def close_all_but(keep: set[int]) -> None:
    for fd in opened() - keep:
        with contextlib.suppress(OSError):
            os.close(fd)


class Parent:
    """The loop from ready to the end. `kept`: descriptors of the imports, which engines share;
    `oom`: the oom_score_adj that this process was born with, which shims have."""

    def __init__(self, state: Json, idle_s: float, kept: set[int], oom: str) -> None:
        self.state, self.idle_s, self.kept, self.oom = state, idle_s, kept, oom
        self.last = time.monotonic()
        self.forks = 0
        self.ending = False
        self.clients: dict[int, bytes] = {}
        self.wakeup, wake_write = os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("sock")  # relative: the path of a socket has 107 bytes at most
        os.chmod("sock", 0o600)
        self.listener.listen(128)
        self.listener.setblocking(False)
        self.poll = select.poll()
        self.poll.register(self.listener, select.POLLIN)
        self.poll.register(self.wakeup, select.POLLIN)

    def serve(self) -> Asked | None:
        """Return None when the parent ends, and what it shall be in each forked engine."""
        self.reap()
        while True:
            left = self.last + self.idle_s - time.monotonic()
            if self.ending or left <= 0:
                self.close()
                return None
            for fd, _ in self.poll.poll(min(left, 3600.0) * 1000 + 1):
                if fd == self.wakeup:
                    self.signalled()
                elif fd == self.listener.fileno():
                    self.accept()
                elif fd in self.clients and (asked := self.receive(fd)) is not None:
                    return asked

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink("sock")
        self.listener.close()
        for fd in list(self.clients):
            self.drop(fd)

    def signalled(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGTERM in os.read(self.wakeup, 4096):
                self.ending = True
        self.reap()

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    # clients

    def accept(self) -> None:
        try:
            client, _ = self.listener.accept()
        except OSError:
            return
        size = struct.calcsize("3i")
        raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        if struct.unpack("3i", raw)[1] not in (os.geteuid(), 0):
            client.close()
            return
        client.setblocking(False)
        fd = client.detach()  # a number: an object would close it once more in a forked engine
        self.clients[fd] = b""
        self.poll.register(fd, select.POLLIN)

    def drop(self, fd: int) -> None:
        if self.clients.pop(fd, None) is not None:
            self.poll.unregister(fd)
            os.close(fd)

    def receive(self, fd: int) -> Asked | None:
        try:
            got = os.read(fd, 1 << 20)
        except BlockingIOError:
            return None
        except OSError:
            got = b""
        *lines, rest = (self.clients[fd] + got).split(b"\n")
        self.clients[fd] = rest
        for line in lines:
            try:
                request = json.loads(line)
                if request["op"] == "fork":
                    # the connection is the shim's from here on
                    return self.fork(fd, request)
                self.reply(fd, self.answer(request["op"]))
            except Refused as error:
                self.reply(fd, {"error": str(error), "kind": "parent"})
            except Exception as error:  # whatever a client sends is its own trouble
                self.reply(fd, {"error": f"not understood: {error!r}", "kind": "parent"})
        if not got or len(rest) > LINE_LIMIT:
            self.drop(fd)
        return None

    def answer(self, op: str) -> Json:
        if op == "status":
            idle = round(time.monotonic() - self.last, 3)
            return dict(self.state, idle_s=idle, forks=self.forks)
        if op == "stop":
            self.ending = True
            return {"pid": os.getpid()}
        raise ValueError(op)

    def reply(self, fd: int, answer: Json) -> None:
        data = json.dumps(answer).encode() + b"\n"
        try:
            if fd in self.clients and os.write(fd, data) < len(data):
                self.drop(fd)
        except OSError:  # gone, or it never reads
            self.drop(fd)

    # the fork

    def fork(self, client: int, request: Json) -> Asked | None:
        """None in the parent. Signals are blocked meanwhile: the children share our handlers at first."""
        spec = request["spec"]
        command = [request["python"], "-I", "-S", "-E", request["shim"], request["folder"]]
        Fork.check(command, request["env"], spec)
        if names := threads():
            raise Refused(f"it has other threads now ({'; '.join(names)}), so it cannot be forked")
        self.keep_log_small()
        sys.stdout.flush()
        sys.stderr.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise Refused(f"no process could be forked: {error.strerror}") from None
        if pid == 0:
            self.listener.detach()
            signal.set_wakeup_fd(-1)
            set_oom(self.oom)
            return Fork(client, command, request["env"], spec, self.kept).divide()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.drop(client)
        self.forks += 1
        self.last = time.monotonic()
        return None

    def keep_log_small(self) -> None:
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size > LOG_LIMIT:
                os.ftruncate(2, 0)


class Fork:
    """In the forked child: become the shim, and in its child the engine."""

    def __init__(
        self, client: int, command: list[str], env: dict[str, str], spec: Json, kept: set[int]
    ) -> None:
        self.client, self.command, self.env, self.spec = client, command, env, spec
        self.folder = command[-1]
        self.kept = kept

    @staticmethod
    def check(command: list[str], env: Json, spec: Json) -> None:
        texts = [*command, *env.values(), *spec["env"].values(), *spec["argv"], spec["argv"][0]]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("argv and env must hold strings")

    def divide(self) -> Asked:
        """Return in the engine; the other one of the two execs the shim."""
        pid = 0
        try:
            os.setsid()
            me = os.getpid()
            go_read, go_write = os.pipe()
            born_read, born_write = os.pipe()
            pid = os.fork()
            if pid:
                os.close(go_read)
                os.close(born_write)
                self.shim(pid, go_write, born_read)
        except BaseException as error:
            with contextlib.suppress(OSError):
                if pid:
                    os.kill(pid, signal.SIGKILL)
                line = {"error": f"the fork failed: {error}", "kind": "parent"}
                os.write(self.client, json.dumps(line).encode() + b"\n")
            os._exit(NO_EXEC)
        return self.engine(me, go_read, born_write)

    def shim(self, pid: int, go: int, born: int) -> NoReturn:
        """Exec it, with the engine as a child that it has not forked itself."""
        # not before the engine leads its session: the shim looks
        said = os.read(born, 4096)
        if said != b"+":
            raise OSError(said.decode("utf-8", "replace") or "the engine died at once")
        # of the engine's arguments and environment it needs to know nothing
        known = {key: value for key, value in self.spec.items() if key not in ("argv", "env")}
        source = os.memfd_create("spec")
        with open(source, "wb", closefd=False) as file:
            file.write(json.dumps({**known, "child": pid, "go_fd": go}).encode())
        os.lseek(source, 0, os.SEEK_SET)
        os.set_blocking(self.client, True)
        os.dup2(source, 0)
        os.dup2(self.client, 1)
        os.set_inheritable(go, True)
        close_all_but({0, 1, 2, go, self.client})  # the last closes itself with the exec
        os.chdir("/")
        for number in OURS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(self.command[0], self.command, self.env)

    def engine(self, shim: int, go: int, born: int) -> Asked:
        """Wait until it may run, and leave the parent behind: the state of a process just exec'ed."""
        cwd = self.spec.get("cwd")
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != shim:
                os._exit(NO_EXEC)
            os.setsid()
            close_all_but({0, 1, 2, go, born} | self.kept)
            if cwd:
                os.chdir(cwd)
            os.write(born, b"+")
            os.close(born)
            born = -1
            if not os.read(go, 1):
                os._exit(NO_EXEC)
            os.close(go)
            log = os.open(
                os.path.join(self.folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
            )
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            if not cwd:
                os.chdir(self.folder)
            os.environ.clear()
            os.environ.update(self.spec["env"])
            time.tzset()
            sys.argv = list(self.spec["argv"])
            prctl(PR_SET_NAME, os.fsencode(os.path.basename(sys.argv[0]))[:15])
            for number in OURS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            gc.enable()
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            return Asked(list(sys.argv))
        except BaseException as error:
            with contextlib.suppress(OSError):
                if born >= 0:
                    os.write(born, str(error).encode()[:4096])
                else:
                    traceback.print_exc()
                    sys.stderr.flush()
            os._exit(NO_EXEC)


def leave(code: int) -> NoReturn:
    """End at once. Threads that the imports began would be waited for, perhaps for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def imported(path: str) -> ModuleType:
    gc.disable()  # until the fork: a collection would leave holes that each engine has to copy
    try:
        module = load(path)
        module.prepare()
        settle()
    except BaseException:
        traceback.print_exc()
        leave(1)
    gc.freeze()
    return module


def main() -> int:
    parser = argparse.ArgumentParser(description="Fork workers of an engine imported once.")
    parser.add_argument("--dir", required=True)
    parser.add_argument("--idle", required=True, type=float)
    parser.add_argument("module")
    given = parser.parse_args()
    path = os.path.abspath(given.module)
    # the folder of this file is not for the engine's imports
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    os.umask(0o077)
    fresh_signals()
    began = time.monotonic()
    held = enter(given.dir)
    if held < 0:
        return HELD
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
    for fd, onto in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, onto)
    os.close(null)
    os.close(log)
    with open("/proc/self/oom_score_adj") as file:
        oom = file.read()
    set_oom(OOM_SCORE_ADJ)
    state = describe()
    write_whole("state.json", state)
    signal.alarm(START_S)
    module = imported(path)
    signal.alarm(0)
    parent = Parent(state, given.idle, opened() - {0, 1, 2, held}, oom)
    state["ready_s"] = round(time.monotonic() - began, 3)
    write_whole("state.json", state)
    print(f"ready after {state['ready_s']} s", flush=True)
    asked = parent.serve()
    if asked is None:
        leave(0)
    # the stack is unwound: from here to its end this is a process like any other
    del parent
    return int(module.run(asked.argv) or 0)


if __name__ == "__main__":
    sys.exit(main())
