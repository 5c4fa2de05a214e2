"""The shim: parent of one instance. `python3 -I -S -E shim.py DIR < spec.json`

One file, one thread, the standard library of Python 3.8 or newer: it is copied to hosts that have
nothing of ours. It outlives whoever starts it, ends the instance when its lease does, and leaves
one record of the end.

DIR holds `lock` (flock, held while the shim lives), `state.json` (in place before the engine is
exec'ed), `exit.json` (in place once no process is left), `log` (the engine's output), `sock`, and
the spec's files. A fresh DIR appears by rename with its lock already held, so that whoever finds
a free lock knows that the shim is dead.

The spec (one JSON object): argv, env (complete), generation, ttl_s; and if wanted: grace_s (10),
cwd (DIR), files {name: text} written 0600, meta and origin (kept in state.json), log_limit
(bytes, 64 MiB), oom_score_adj (proc(5); inherited by all of the instance), until_us (UTC: the end,
whatever it does), busy_file (touched while it works: then an expired lease waits), memory_bytes and
process_limit (of all its processes together; above them it is killed), spare_leader (TERM goes to the
others of the group: the first process is a sandbox, and would take them with it). `child` is the pid of an engine that the caller has forked (a group and session
of its own, PDEATHSIG set) before it exec'ed this file; `go_fd` gets one byte once it may run.

One JSON line on stdout: state.json as written, or {"error", "kind", "errno"} and an exit code:
64 bad spec, 70 a fault of the shim, 71 the system (no memory, no rights), 74 the disk, 75 the lock
is held, 76 DIR was used before, 127 the engine could not be exec'ed.

The socket takes and gives one JSON object a line: {"op": "status"}, {"op": "renew", "ttl_s"} (and
"until_us", where that has changed; null: none),
{"op": "pause", "oom_score_adj"} and {"op": "resume", "oom_score_adj"} (SIGSTOP and SIGCONT to the
group), {"op": "stop", "grace_s"} and {"op": "wait"}; the last two are answered with exit.json at
the end: code, signal, reason (exit, asked, lease, until, memory, processes, shim-term, exec), error,
ended_us, escaped, tail.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would add its import to every start
    from typing import Any, Dict, List, NoReturn, Tuple

    Json = Dict[str, Any]
    Table = Dict[int, Dict[str, Any]]

BAD_SPEC, FAULT, SYSTEM, DISK, HELD, USED, NO_EXEC = 64, 70, 71, 74, 75, 76, 127
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO)
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LOG_LIMIT = 64 << 20
# so that who follows it finds the place again (host.py, read_on)
CUT = b"[earlier lines were cut: of %d bytes %d are kept]\n"
LOG_CHECK_S = 2.0  # how often the size of the log is looked at
LINE_LIMIT = 64 << 10  # a client that sends more without a newline is dropped
CLIENT_LIMIT = 128
WATCH_S, WATCH_NEAR_S = 1.0, 0.2  # between looks at its limits; above half of one
BUSY_S = 30.0  # a busy file that was not touched for so long says nothing
EXEC_S = 60.0  # from fork to exec; a dead network mount as cwd must not hang the launch for ever
TAIL_LINES, TAIL_CHARS = 40, 1000
# the last three are the relay's, where the engine is one
RESERVED = (
    *("lock", "state.json", "exit.json", "log", "sock", "shim.err"),
    *("relay.sock", "spool", "spool.tmp"),
)
FOREVER = float("inf")
LIBC = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The launch failed: `code` is the exit code, the rest goes to the launcher."""

    def __init__(self, code: int, kind: str, text: str) -> None:
        super().__init__(text)
        self.code, self.kind = code, kind


def prctl(option: int, value: int) -> None:
    if LIBC.prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, "prctl(%d): %s" % (option, os.strerror(number)))


def stat(pid: int) -> Json:
    """state, ppid, group, session, threads and start (clock ticks since boot) of a process."""
    with open("/proc/%d/stat" % pid, "rb") as file:
        raw = file.read()
    # the command's name may hold blanks and brackets
    f = raw[raw.rindex(b")") + 2 :].split()
    return {
        "state": f[0].decode(),
        "ppid": int(f[1]),
        "group": int(f[2]),
        "session": int(f[3]),
        "threads": int(f[17]),
        "start": int(f[19]),
    }


def processes() -> Table:
    """{pid: stat} of every process. /proc/PID/task/PID/children is not in every kernel."""
    found: Table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = stat(int(name))
            except (OSError, ValueError):
                pass  # it went while we looked
    return found


def alive(row: Json) -> bool:
    # a main thread that has left its process shows as Z while the others run
    return row["state"] not in "ZX" or row["threads"] > 1


def write_whole(name: str, value: Json) -> None:
    """Write a JSON file of the current folder so that a reader sees all of it or none."""
    temporary = name + ".tmp"
    try:
        with open(temporary, "w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name)
    except OSError:
        remove(temporary)
        raise
    folder = os.open(".", os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def lock(path: str, patience_s: float = 0.0) -> int:
    """Take the lock; the descriptor holds it. Raises BlockingIOError when another has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            if time.monotonic() >= end:
                os.close(fd)
                raise
            time.sleep(0.02)


def enter(folder: str) -> int:
    """Make `folder` with its lock held and go there. -> the lock's descriptor"""
    folder = os.path.abspath(folder)
    parent, name = os.path.split(folder)
    fresh = os.path.join(parent, ".%s.%d.%d" % (name, os.getpid(), time.time_ns()))
    os.makedirs(parent, exist_ok=True)
    os.mkdir(fresh)
    try:
        fd = lock(os.path.join(fresh, "lock"))
        os.rename(fresh, folder)
    except OSError as error:
        remove(os.path.join(fresh, "lock"))
        os.rmdir(fresh)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        try:
            # patience: somebody who found the lock free may be looking at what is left
            fd = lock(os.path.join(folder, "lock"), 0.2)
        except BlockingIOError:
            raise Refused(HELD, "held", "%s is in use: its lock is held" % name)
        if any(os.path.exists(os.path.join(folder, x)) for x in ("state.json", "exit.json")):
            raise Refused(USED, "used", "%s was used before" % name)
    os.chdir(folder)
    return fd


def write_files(files: Json) -> None:
    for name, text in files.items():
        if os.path.basename(name) != name or name in RESERVED or name.startswith("."):
            raise Refused(BAD_SPEC, "spec", "%r is no name for a file beside the log" % name)
        remove(name)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text)


def exec_engine(spec: Json, parent: int, held: int, go: int, report: int) -> NoReturn:
    """In the forked child: become the engine once a byte arrives, else vanish."""
    try:
        os.close(held)  # flock belongs to the open file, and a fork shares that
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(NO_EXEC)
        os.setsid()
        if not os.read(go, 1):
            os._exit(NO_EXEC)
        signal.set_wakeup_fd(-1)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    pass
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if spec.get("cwd"):
            os.chdir(spec["cwd"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except BaseException as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        where = getattr(error, "filename", None) or spec["argv"][0]
        os.write(report, ("%s: %s" % (where, what)).encode())
    os._exit(NO_EXEC)


def spawn(spec: Json, held: int) -> Tuple[int, int, int]:
    """Fork the engine. -> (its pid, where to say go, where it reports a failed exec)"""
    parent = os.getpid()
    go_read, go_write = os.pipe()
    report_read, report_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_write)
        exec_engine(spec, parent, held, go_read, report_write)
    os.close(go_read)
    os.close(report_write)
    return pid, go_write, report_read


def exec_error(report: int) -> str:
    """Wait for the exec. -> why it failed, or "" """
    poll = select.poll()
    poll.register(report, select.POLLIN)
    try:
        if not poll.poll(EXEC_S * 1000):
            return "the engine was not exec'ed within %d s" % EXEC_S
        return os.read(report, 4096).decode("utf-8", "replace")
    finally:
        os.close(report)


def describe(spec: Json, pid: int) -> Json:
    """What state.json says. Nothing of argv, env or files: they may hold secrets."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return {
        "name": os.path.basename(os.getcwd()),
        "generation": spec["generation"],
        "pid": pid,
        "start": stat(pid)["start"],
        "shim": os.getpid(),
        "shim_start": stat(os.getpid())["start"],
        "boot_id": boot,
        "pid_ns": os.readlink("/proc/self/ns/pid"),
        "started_us": time.time_ns() // 1000,
        "origin": spec.get("origin"),
        "meta": spec.get("meta") or {},
    }


def set_oom(pids: List[int], value: int) -> None:
    """As far as we may: it can be raised by anybody, lowered to 0 by its owner."""
    for pid in pids:
        try:
            with open("/proc/%d/oom_score_adj" % pid, "w") as file:
                file.write("%d" % value)
        except OSError:
            pass


def descendants(table: Table, root: int) -> List[int]:
    """Living processes below `root`, whatever session they are in."""
    children: Dict[int, List[int]] = {}
    for pid, row in table.items():
        children.setdefault(row["ppid"], []).append(pid)
    found, left = [], [root]
    while left:
        below = [x for x in children.get(left.pop(), ()) if alive(table[x])]
        found += below
        left += below
    return found


def resident(pid: int) -> int:
    """Bytes, shared ones counted in full."""
    try:
        with open("/proc/%d/statm" % pid) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def proportional(pid: int) -> int:
    """Bytes, shared ones counted in part (PSS): exact, and slow where much is mapped."""
    try:
        with open("/proc/%d/smaps_rollup" % pid) as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return resident(pid)


def tail() -> List[str]:
    """The last lines of the log, each cut short."""
    try:
        with open("log", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 256 * 1024))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [line[:TAIL_CHARS] for line in lines[-TAIL_LINES:]]


def record(reason: str, status: int, escaped: int = 0, error: str = "") -> Json:
    """What exit.json says. `status` is what waitpid gave for the first process."""
    return {
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "reason": reason,
        "error": error or None,
        "ended_us": time.time_ns() // 1000,
        "escaped": escaped,
        "tail": tail(),
    }


def cut_log(limit: int) -> None:
    """Cut the log to its tail once it is above `limit` bytes.

    The engine appends meanwhile: what it writes between our last read and the truncation, some
    microseconds, is lost.
    """
    try:
        fd = os.open("log", os.O_RDWR | os.O_APPEND)
    except OSError:
        return
    try:
        size = os.fstat(fd).st_size
        if size <= limit:
            return
        start = size - limit // 16
        kept = os.pread(fd, limit // 16, start)
        while True:
            more = os.pread(fd, limit, start + len(kept))
            if not more:
                break
            kept += more
        size = start + len(kept)
        os.ftruncate(fd, 0)
        kept = kept[kept.find(b"\n") + 1 :]
        os.write(fd, CUT % (size, len(kept)) + kept)
    except OSError:
        pass  # a full disk: looked at again at the next tick
    finally:
        os.close(fd)


class Watch:
    """The loop from exec to exit.json: lease, signals, clients, log.

    The end, once it has begun: TERM and CONT to the group; KILL when the grace is over; when the
    first process and its group are gone, KILL to whatever else became our child (a subreaper
    inherits what escaped), until no child is left. The first process is reaped last, so that its
    number, which is also the group's, cannot be given to anybody else.
    """

    def __init__(self, spec: Json, state: Json, listener: socket.socket, wakeup: int) -> None:
        self.spec, self.state, self.listener, self.wakeup = spec, state, listener, wakeup
        self.pid: int = state["pid"]
        self.grace: float = float(spec.get("grace_s", 10.0))
        self.expires = time.monotonic() + float(spec["ttl_s"])
        self.until_us = spec.get("until_us")
        self.watch_at = 0.0 if spec.get("memory_bytes") or spec.get("process_limit") else FOREVER
        self.error = ""
        self.paused = False
        self.reason: str = ""  # set: the end has begun
        self.kill_at = float("inf")
        self.leader_dead = False
        self.status: int | None = None  # set: the first process has been reaped
        self.pause = 0.0
        self.escaped: set[int] = set()
        self.clients: dict[int, tuple[socket.socket, bytes]] = {}
        self.waiting: list[int] = []
        self.poll = select.poll()
        self.poll.register(listener, select.POLLIN)
        self.poll.register(wakeup, select.POLLIN)

    def run(self) -> Json:
        """Return the exit record once no process of the instance is left."""
        look_at_log = 0.0
        limit = int(self.spec.get("log_limit") or LOG_LIMIT)
        self.reap()
        while True:
            now = time.monotonic()
            if not self.reason:
                self.look(now)
            if self.reason and self.finish(now) and self.status is not None:
                return record(self.reason, self.status, len(self.escaped), self.error)
            if now >= look_at_log:
                cut_log(limit)
                look_at_log = now + LOG_CHECK_S
            until = min(look_at_log, self.due(now) if not self.reason else now + self.pause)
            for fd, _ in self.poll.poll(max(0.0, until - now) * 1000 + 1):
                if fd == self.wakeup:
                    self.signalled()
                elif fd == self.listener.fileno():
                    self.accept()
                elif fd in self.clients:
                    self.receive(fd)

    # what may end it

    def due(self, now: float) -> float:
        """When to look again."""
        found = min(self.expires, self.watch_at)
        if self.until_us is not None:
            found = min(found, now + max(0.0, self.until_us / 1e6 - time.time()))
        return found

    def look(self, now: float) -> None:
        if now >= self.expires:
            if self.busy():
                self.expires = now + BUSY_S / 2
            else:
                self.begin("lease", self.grace)
        elif self.until_us is not None and time.time() * 1e6 >= self.until_us:
            self.begin("until", self.grace)
        elif now >= self.watch_at:
            share = self.measure()
            self.watch_at = now + (WATCH_NEAR_S if share > 0.5 else WATCH_S)

    def busy(self) -> bool:
        try:
            return abs(time.time() - os.stat(self.spec["busy_file"]).st_mtime) < BUSY_S
        except (KeyError, TypeError, OSError):
            return False

    def measure(self) -> float:
        """How much of its limits it uses, as a share; above 1 it is killed at once."""
        mine = descendants(processes(), os.getpid())
        most, memory = self.spec.get("process_limit"), self.spec.get("memory_bytes")
        share = 0.0
        if most:
            share = len(mine) / most
            if share > 1:
                self.error = "it had %d processes, and %d are allowed" % (len(mine), most)
                self.begin("processes", 0)
        if memory and not self.reason:
            held = sum(resident(pid) for pid in mine)
            if held > memory:
                held = sum(proportional(pid) for pid in mine)
            share = max(share, held / memory)
            if held > memory:
                sizes = (held / 1e9, memory / 1e9)
                self.error = "it held %.1f GB of memory, and %.1f GB are allowed" % sizes
                self.begin("memory", 0)
        return share

    # the end

    def begin(self, reason: str, grace_s: float) -> None:
        """Start to stop, or bring the KILL of a stop nearer."""
        self.kill_at = min(self.kill_at, time.monotonic() + max(0.0, grace_s))
        self.pause = 0.0
        if not self.reason:
            self.reason = reason
            if not (self.spec.get("spare_leader") and self.signal_others(signal.SIGTERM)):
                self.signal_group(signal.SIGTERM)
            self.signal_group(signal.SIGCONT)  # a stopped group could not act on TERM
            self.paused = False

    def signal_group(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except OSError:
            pass

    def signal_others(self, number: int) -> bool:
        """To all of the group but its leader; False where it is alone."""
        table = processes()
        others = [x for x in table if table[x]["group"] == self.pid and x != self.pid]
        for pid in others:
            try:
                os.kill(pid, number)
            except OSError:
                pass
        return bool(others)

    def pause_group(self, stop: bool, oom: int | None) -> Json:
        if self.reason:
            return {"error": "it is ending (%s)" % self.reason, "kind": "stopping"}
        if oom is not None:
            table = processes()
            set_oom([x for x in table if table[x]["session"] == self.pid], int(oom))
        self.signal_group(signal.SIGSTOP if stop else signal.SIGCONT)
        self.paused = stop
        return {"paused": stop}

    def finish(self, now: float) -> bool:
        """One step towards the end; True once there is no child any more."""
        if not self.leader_dead and now < self.kill_at:
            self.pause = self.kill_at - now  # SIGCHLD wakes us before
            return False
        table = processes()
        if self.status is None:
            group = [x for x in table if table[x]["group"] == self.pid and alive(table[x])]
            if group or not self.leader_dead:
                if now >= self.kill_at:
                    self.signal_group(signal.SIGKILL)
                    self.kill_at = now + 0.5  # again, should a fork have slipped through
                self.pause = min(0.2, self.pause * 1.5 + 0.005, self.kill_at - now)
                return False
        mine = [x for x in table if table[x]["ppid"] == os.getpid() and x != self.pid]
        for pid in mine:
            if alive(table[pid]):
                self.escaped.add(pid)
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            self.collect(pid)
        if self.status is None and not mine:
            self.status = os.waitpid(self.pid, 0)[1]
        if self.status is not None and not self.collect(-1):
            return True  # the kernel's own word, where a scan may miss a fork
        # SIGCHLD wakes us for deaths, but not for what is reparented to us alive
        self.pause = min(0.2, self.pause * 1.5 + 0.005)
        return False

    def collect(self, pid: int) -> bool:
        """Reap a child if it is dead; False when there is no such child."""
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        return True

    def signalled(self) -> None:
        try:
            numbers = os.read(self.wakeup, 4096)
        except BlockingIOError:
            return
        if signal.SIGTERM in numbers:
            self.begin("shim-term", self.grace)
        self.pause = 0.0
        self.reap()

    def reap(self) -> None:
        """Reap what was reparented to us; peek at the first process and leave it."""
        while not self.leader_dead:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            if found.si_pid == self.pid:
                self.leader_dead = True
                self.pause = 0.0
                if not self.reason:
                    self.begin("exit", self.grace)
            else:
                os.waitpid(found.si_pid, 0)

    # clients

    def accept(self) -> None:
        try:
            client, _ = self.listener.accept()
        except OSError:
            return
        if len(self.clients) >= CLIENT_LIMIT:
            client.close()
            return
        client.setblocking(False)
        self.clients[client.fileno()] = (client, b"")
        self.poll.register(client, select.POLLIN)

    def drop(self, fd: int) -> None:
        if fd in self.clients:
            self.poll.unregister(fd)
            self.clients.pop(fd)[0].close()
            self.waiting = [x for x in self.waiting if x != fd]

    def receive(self, fd: int) -> None:
        client, buffer = self.clients[fd]
        try:
            got = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        *lines, rest = (buffer + got).split(b"\n")
        for line in lines:
            try:
                answer = self.answer(fd, json.loads(line.decode()))
            except Exception as error:  # whatever a client sends is its own trouble
                answer = {"error": "not understood: %r" % error}
            if answer is not None:
                self.reply(fd, answer)
        if fd in self.clients:
            self.clients[fd] = (client, rest)
            if not got or len(rest) > LINE_LIMIT:
                self.drop(fd)

    def reply(self, fd: int, answer: Json) -> None:
        data = json.dumps(answer).encode() + b"\n"
        try:
            if fd in self.clients and self.clients[fd][0].send(data) < len(data):
                self.drop(fd)
        except OSError:  # gone, or it never reads
            self.drop(fd)

    def answer(self, fd: int, request: Json) -> Json | None:
        """The answer to one request, or None when it comes at the end."""
        op = request["op"]
        if op == "status":
            left = round(self.expires - time.monotonic(), 3)
            return dict(self.state, lease_s=left, stopping=self.reason or None, paused=self.paused)
        if op == "renew":
            ttl = float(request["ttl_s"])
            if not ttl < float("inf"):
                raise ValueError("ttl_s")
            if self.reason:
                return {"error": "it is ending (%s)" % self.reason, "kind": "stopping"}
            self.expires = time.monotonic() + ttl
            if "until_us" in request:
                self.until_us = None if request["until_us"] is None else int(request["until_us"])
            return {"lease_s": ttl}
        if op in ("pause", "resume"):
            return self.pause_group(op == "pause", request.get("oom_score_adj"))
        if op == "stop":
            grace = float(request.get("grace_s", self.grace))
            self.begin("asked", grace)
        elif op != "wait":
            raise ValueError(op)
        if fd not in self.waiting:
            self.waiting.append(fd)
        return None


def launch(spec: Json, held: int) -> Tuple[Watch, Json]:
    """Start the engine in the current folder. -> (its watch, what state.json says)"""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    remove("sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("sock")  # relative: the path of a socket has 107 bytes at most
    listener.listen(CLIENT_LIMIT)
    listener.setblocking(False)
    pid, go, report = spec.get("child") or 0, spec.get("go_fd"), None
    if not pid:
        pid, go, report = spawn(spec, held)
    try:
        row = stat(pid)
        if spec.get("child") and not (row["group"] == row["session"] == pid):
            raise Refused(BAD_SPEC, "spec", "%d does not lead a session of its own" % pid)
        write_files(spec.get("files") or {})
        if spec.get("oom_score_adj") is not None:
            set_oom([pid], int(spec["oom_score_adj"]))
        state = describe(spec, pid)
        write_whole("state.json", state)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    if go is not None:
        try:
            os.write(go, b"x")
        except OSError:
            pass  # it died meanwhile, and is reaped as any other
        os.close(go)
    error = exec_error(report) if report is not None else ""
    if error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        write_whole("exit.json", record("exec", NO_EXEC << 8, error=error))
        raise Refused(NO_EXEC, "exec", error)
    return Watch(spec, state, listener, wake_read), state


def say(out: int, line: Json) -> None:
    try:
        os.write(out, json.dumps(line).encode() + b"\n")
        os.close(out)
    except OSError:
        pass  # the launcher died; the instance lives on its lease


def clear() -> None:
    """Leave no trace of a launch that started nothing: it would look like a lost instance."""
    folder = os.getcwd()
    for name in os.listdir("."):
        remove(name)
    try:
        os.rmdir(folder)
    except OSError:
        pass


def serve(spec: Json, folder: str, out: int) -> int:
    """From the lock to exit.json. `out` gets the launcher's line. -> exit code"""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    inside = False
    try:
        held = enter(folder)
        inside = True
        watch, state = launch(spec, held)
    except (Refused, OSError) as error:
        if inside and not os.path.exists("exit.json"):
            clear()
        if isinstance(error, Refused):
            say(out, {"error": str(error), "kind": error.kind})
            return error.code
        text = "%s: %s" % (error.filename or folder, error.strerror or error)
        disk = error.errno in DISK_ERRORS
        say(out, {"error": text, "kind": "disk" if disk else "system", "errno": error.errno})
        return DISK if disk else SYSTEM
    say(out, state)
    end = watch.run()
    try:
        write_whole("exit.json", end)
    finally:
        for fd in list(watch.waiting):
            watch.reply(fd, end)
        remove("sock")
    return 0


def guarded(spec: Json, folder: str, out: int) -> int:
    """serve(); a fault of ours is written down. The engine's first process dies with us."""
    try:
        return serve(spec, folder, out)
    except BaseException:
        import traceback

        try:
            with open(os.path.join(folder, "shim.err"), "a") as file:
                traceback.print_exc(file=file)
        except OSError:
            pass
        say(out, {"error": traceback.format_exc(limit=1), "kind": "fault"})
        return FAULT


def check(spec: Json) -> None:
    """Raise what tells that the spec cannot be run."""
    float(spec["ttl_s"]), float(spec.get("grace_s", 0)), int(spec["generation"])
    if not spec.get("child"):
        if not spec["argv"] or not all(isinstance(x, str) for x in spec["argv"]):
            raise ValueError("argv must be a list of strings")
        if not all(isinstance(x, str) for x in spec["env"].values()):
            raise ValueError("env must hold strings")


def relay(source: int, pid: int) -> int:
    """The launcher's child: hand on the shim's line and go. -> exit code"""
    line = b""
    while True:
        got = os.read(source, 65536)
        if not got:
            break
        line += got
    os.write(1, line or b'{"error": "the shim died at once", "kind": "fault"}\n')
    if line and "error" not in json.loads(line.decode()):
        return 0
    status = os.waitpid(pid, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else FAULT


def main() -> int:
    os.umask(0o077)
    try:
        folder = os.path.abspath(sys.argv[1])
        spec = json.loads(sys.stdin.buffer.read().decode())
        check(spec)
    except Exception as error:
        say(1, {"error": "bad spec: %r" % error, "kind": "spec"})
        return BAD_SPEC
    if spec.get("child"):
        return guarded(spec, folder, os.dup(1))
    source, out = os.pipe()
    pid = os.fork()
    if pid:
        os.close(out)
        return relay(source, pid)
    os.close(source)
    os.setsid()
    return guarded(spec, folder, out)


if __name__ == "__main__":
    os._exit(main())
