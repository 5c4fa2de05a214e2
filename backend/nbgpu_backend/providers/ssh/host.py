"""The program on a host that is reached over SSH. `python3 -I -S -u ~/.nbgpu/code/HASH/host.py`

One file, the standard library of Python 3.8 or newer, no root. It is one exec session of one SSH
connection and carries many conversations at once; it ends with its stdin, or when nothing comes
from there for a while. What it started under shims lives on, nothing else does. `shim.py` lies
beside it.

After MARK on stdout there are only frames, both ways: the lengths of a header and of a body
(big-endian, 4 bytes each), the header (JSON: `id`, `t`) and the body. A conversation:
  -> open {request}        -> close: no more of it is wanted, and what it started ends
  <- line {JSON object}    one answer, or many where it streams
  <> data, <> eof          raw bytes and the end of them, each way on its own
  <> more {n}              so many bytes were consumed: a sender is at most WINDOW ahead
  <- end                   the last frame
`ping` is answered with `pong {now_us}`. `start {silence_s}` comes first.

A request has an `op`; see the functions below, which are called as the ops are. An answer with
`error` and `kind` is a failure: bad_request, not_found, denied, disk, io, refused (nobody listens),
late, busy, python. Paths are below ROOT (~/.nbgpu) and may be relative to it; where a function says
`anywhere`, an absolute one or `~/` may lie outside.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import concurrent.futures
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would add its import to every start
    from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Set, Tuple

    Json = Dict[str, Any]
    Frame = Tuple[Json, bytes]

MARK = b"=nbgpu-host-1=\n"
HEADER = struct.Struct(">II")
HEADER_LIMIT, BODY_LIMIT = 1 << 20, 96 << 20
WINDOW = 4 << 20  # at 50 ms there and back, 80 MB/s
CHUNK = 64 << 10
UNSENT = 1 << 20  # so much may wait for the link before senders wait
READ_LIMIT = 32 << 20  # of a file that is answered as one line
TAIL_LIMIT = 1 << 20  # of a log, in which its last lines are looked for
FOLLOW_LIMIT = 256 << 10  # of a log that is followed, at a time
LINE_LIMIT = 64 << 10  # of a command's output
SILENCE_S = 60.0
CUT = re.compile(rb"\[earlier lines were cut: of (\d+) bytes (\d+) are kept\]\n")
FOLLOW_S = 0.25  # between looks at a log that is followed
LOOK_S = 2.0  # between looks at the silence, whose limit is told after the first one
LAUNCH_S = 90.0  # above the shim's own patience with an exec
SETTLE_S = 2.0  # between a shim's last sign and its lock being free
STALE_S = 60.0  # the age at which a nameless folder is nobody's
SHIM_S = 5.0  # a shim answers in milliseconds, unless it is stopped
SWEEP_S = 10.0  # a process in an uninterruptible call dies when the call ends
TRY_S = 10.0  # for each tool that is tried
PORT_TRIES = 50
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GPU_FIELDS = (
    *("index", "uuid", "name", "memory.total", "memory.used", "utilization.gpu"),
    *("driver_version", "pci.bus_id", "mig.mode.current"),
)
ROOT = os.path.realpath(os.path.expanduser("~/.nbgpu"))
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


class Refusal(Exception):
    """An answer that is a failure."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind

    @classmethod
    def of(cls, error: BaseException) -> Refusal:
        if isinstance(error, Refusal):
            return error
        if isinstance(error, OSError):
            where = "%s: " % error.filename if error.filename else ""
            text = where + (error.strerror or str(error))
            if error.errno in DISK_ERRORS:
                return cls("disk", text)
            if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                return cls("not_found", text)
            if isinstance(error, PermissionError):
                return cls("denied", text)
            if isinstance(error, (FileExistsError, IsADirectoryError)):
                return cls("busy", text)
            return cls("io", text)
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError)):
            return cls("bad_request", "not understood: %r" % error)
        return cls("python", repr(error))


# frames: used on both ends of the link


def encode(header: Json, body: bytes = b"") -> bytes:
    head = json.dumps(header, separators=(",", ":")).encode()
    return HEADER.pack(len(head), len(body)) + head + body


class Decoder:
    """Bytes in, frames out. Raises ValueError for what is no frame."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def feed(self, data: bytes) -> List[Frame]:
        self.buffer += data
        found: List[Frame] = []
        at = 0
        while len(self.buffer) - at >= HEADER.size:
            head, body = HEADER.unpack_from(self.buffer, at)
            if head > HEADER_LIMIT or body > BODY_LIMIT:
                raise ValueError("no frame")
            end = at + HEADER.size + head + body
            if len(self.buffer) < end:
                break
            begin = at + HEADER.size
            header = json.loads(self.buffer[begin : begin + head].decode())
            found.append((header, bytes(self.buffer[begin + head : end])))
            at = end
        del self.buffer[:at]
        return found


class Mux:
    """The conversations of one link, on either end. `write` must not block; `drained` waits."""

    def __init__(self, write: Callable[[bytes], None], drained: Callable[[], Any]) -> None:
        self.write, self.drained = write, drained
        self.table: Dict[int, Conversation] = {}
        self.last = 0
        self.dead = False
        self.opened: Optional[Callable[[Conversation, Json], None]] = None

    def open(self, request: Json) -> Conversation:
        self.last += 1
        talk = Conversation(self, self.last)
        if self.dead:
            talk.cut()
            return talk
        self.table[talk.number] = talk
        self.write(encode({"id": talk.number, "t": "open"}, json.dumps(request).encode()))
        return talk

    def take(self, header: Json, body: bytes) -> None:
        kind, number = header["t"], header.get("id", 0)
        if kind == "open" and self.opened is not None:
            talk = self.table[number] = Conversation(self, number)
            self.opened(talk, json.loads(body.decode()))
            return
        known = self.table.get(number)
        if known is None:
            return  # it was ended here, and the other end does not know yet
        if kind == "more":
            known.credit += int(header["n"])
            known.wake()
            return
        if kind in ("end", "close"):
            self.table.pop(number, None)
            known.ended = True
        known.events.append((kind, body))
        known.wake()

    def cut(self) -> None:
        """The link is gone: each conversation gets `cut` as its last event, new ones too."""
        self.dead = True
        table, self.table = self.table, {}
        for talk in table.values():
            talk.cut()


class Conversation:
    """One end of a conversation. One task reads, one sends."""

    def __init__(self, mux: Mux, number: int) -> None:
        self.mux, self.number = mux, number
        self.events: Deque[Tuple[str, bytes]] = collections.deque()
        self.changed = asyncio.Event()
        self.credit, self.eaten = WINDOW, 0
        self.over = False  # the last event was read, or the last frame sent
        self.ended = False  # … or is among the events

    def wake(self) -> None:
        self.changed.set()

    def cut(self) -> None:
        self.ended = True
        self.events.append(("cut", b""))
        self.wake()

    async def next(self) -> Tuple[str, bytes]:
        """(kind, body) of the next frame. After `end`, `close` or `cut` there is none."""
        while not self.events:
            self.changed.clear()
            await self.changed.wait()
        kind, body = self.events.popleft()
        if kind in ("end", "close", "cut"):
            self.over = True
        elif body:
            self.eaten += len(body)
            if self.eaten > WINDOW // 4 and not self.closed():
                self.mux.write(encode({"id": self.number, "t": "more", "n": self.eaten}))
                self.eaten = 0
        return kind, body

    def closed(self) -> bool:
        """True once the other end wants no more, or is gone."""
        return self.over or self.ended

    async def send(self, kind: str, body: bytes) -> None:
        """Waits while the other end is behind. Raises ConnectionError once it is gone."""
        while self.credit <= 0 and not self.closed():
            self.changed.clear()
            await self.changed.wait()
        if not self.closed():
            await self.mux.drained()
        if self.closed():
            self.changed.set()  # for the task that reads
            raise ConnectionAbortedError("the conversation is over")
        self.credit -= len(body)
        self.mux.write(encode({"id": self.number, "t": kind}, body))

    async def line(self, value: Json) -> None:
        await self.send("line", json.dumps(value).encode())

    def finish(self, kind: str) -> None:
        """`eof`, or the last frame: `end` there, `close` here."""
        if kind != "eof":
            self.mux.table.pop(self.number, None)
        if not self.closed():
            self.over = kind != "eof"
            self.mux.write(encode({"id": self.number, "t": kind}))


async def pump(talk: Conversation, local: socket.socket, last: str) -> None:
    """Raw bytes both ways until both have ended or one breaks.

    `local` does not block; it is closed. `last` is what finish() gets. Used on both ends.
    """
    loop = asyncio.get_running_loop()

    async def out() -> None:
        while True:
            data = await loop.sock_recv(local, CHUNK)
            if not data:
                talk.finish("eof")
                return
            await talk.send("data", data)

    sending = asyncio.ensure_future(out())
    reading = asyncio.ensure_future(talk.next())
    ended = False
    try:
        while not (ended and sending.done()):
            open_ends = {reading, sending} if not sending.done() else {reading}
            await asyncio.wait(open_ends, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and sending.exception() is not None:
                break
            if not reading.done():
                continue
            kind, body = reading.result()
            if kind == "data":
                await loop.sock_sendall(local, body)
            elif kind == "eof":
                local.shutdown(socket.SHUT_WR)
                ended = True
            elif kind != "line":
                break
            reading = asyncio.ensure_future(talk.next())
    except OSError:
        pass
    finally:
        for task in (sending, reading):
            task.cancel()
        await asyncio.gather(sending, reading, return_exceptions=True)
        talk.finish(last)
        local.close()


def wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# paths


def inside(path: str) -> str:
    """An absolute path below ROOT; the links of its folders are followed first."""
    whole = os.path.join(ROOT, path)
    name = os.path.basename(os.path.normpath(whole))
    real = os.path.join(os.path.realpath(os.path.dirname(os.path.normpath(whole))), name)
    if not real.startswith(ROOT + os.sep) and os.path.normpath(whole) != ROOT:
        raise Refusal("denied", "%s is not below %s" % (path, ROOT))
    return ROOT if os.path.normpath(whole) == ROOT else real


def anywhere(path: str) -> str:
    return os.path.join(ROOT, os.path.expanduser(path))


def below(path: str) -> str:
    """As inside(), but not ROOT itself."""
    found = inside(path)
    if found == ROOT:
        raise Refusal("denied", "%s itself stays" % ROOT)
    return found


# processes


def stat(pid: int) -> Json:
    """state, ppid, group, session, threads and start (clock ticks since boot) of a process."""
    with open("/proc/%d/stat" % pid, "rb") as file:
        raw = file.read()
    # the command's name may hold blanks and brackets
    f = raw[raw.rindex(b")") + 2 :].split()
    return {
        "state": f[0].decode(),
        "group": int(f[2]),
        "session": int(f[3]),
        "threads": int(f[17]),
        "start": int(f[19]),
    }


def processes() -> Dict[int, Json]:
    found: Dict[int, Json] = {}
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


def members(table: Dict[int, Json], session: int, start: int) -> List[int]:
    """Living members of the session whose leader was `session`, started at `start`."""
    leader = table.get(session)
    if leader is not None and leader["session"] == session and leader["start"] != start:
        return []  # the number was given out again: nothing of the old session is left
    rows = table.items()
    return [p for p, r in rows if r["session"] == session and alive(r) and r["start"] >= start]


def appends_to(pid: int, log: os.stat_result) -> bool:
    for fd in ("1", "2"):
        try:
            found = os.stat("/proc/%d/fd/%s" % (pid, fd))
            if (found.st_dev, found.st_ino) != (log.st_dev, log.st_ino):
                continue
            with open("/proc/%d/fdinfo/%s" % (pid, fd)) as file:
                for line in file:
                    if line.startswith("flags:") and int(line.split()[1], 8) & os.O_APPEND:
                        return True
        except (OSError, ValueError):
            continue
    return False


def kill(pid: int, start: int) -> None:
    """Only the process that was looked at: its number may be another's by now."""
    try:
        if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
            if stat(pid)["start"] == start:
                os.kill(pid, signal.SIGKILL)
            return
        fd = os.pidfd_open(pid)
        try:
            if stat(pid)["start"] == start:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)
    except (OSError, ValueError):
        pass


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def pss(pid: int) -> int:
    try:
        with open("/proc/%d/smaps_rollup" % pid) as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def number(path: str) -> Optional[int]:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None  # missing, or `max`


def cgroups() -> Iterator[str]:
    """Our cgroup's folder and those above it, in version 2 and in version 1's memory controller."""
    base = "/sys/fs/cgroup"
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = base if not controllers else base + "/memory"
        inner = os.path.normpath(root + "/" + path)
        while inner.startswith(root):
            yield inner
            inner = os.path.dirname(inner)


def available_memory() -> int:
    """Bytes that a new process could take: MemAvailable, or less where a cgroup limits us."""
    found = 0
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                found = int(line.split()[1]) * 1024
    for folder in cgroups():
        limit = number(folder + "/memory.max") or number(folder + "/memory.limit_in_bytes")
        used = number(folder + "/memory.current") or number(folder + "/memory.usage_in_bytes")
        if limit is None or used is None:
            continue
        given_up_first = 0
        try:
            with open(folder + "/memory.stat") as file:
                for line in file:
                    if line.startswith(("inactive_file ", "total_inactive_file ")):
                        given_up_first = int(line.split()[1])
        except (OSError, ValueError):
            pass
        found = min(found, max(0, limit - used + given_up_first))
    return found


def tied() -> None:
    """In a command's process, before its exec: a session of its own, and it dies with us."""
    os.setsid()
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# instances


def read_json(path: str) -> Optional[Json]:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read().decode())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_whole(path: str, data: bytes, mode: int = 0o600) -> None:
    """A reader sees all of it or none."""
    temporary = "%s.%d.%d.tmp" % (path, os.getpid(), time.time_ns())
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise
    settle(os.path.dirname(path))


def settle(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass  # not every file system can
    finally:
        os.close(fd)


def tail_of(path: str, lines: int) -> List[str]:
    """The last lines of a file, decoded with replacement; [] when it is missing."""
    step, data = 64 * 1024, b""
    try:
        with open(path, "rb") as file:
            start = file.seek(0, os.SEEK_END)
            while start > 0 and data.count(b"\n") <= lines and len(data) < READ_LIMIT:
                size = min(step, start)
                start = file.seek(start - size)
                data = file.read(size) + data
                step *= 2
    except OSError:
        return []
    return data.decode("utf-8", "replace").splitlines()[-lines:] if lines > 0 else []


class Follower:
    """Reads on in an instance's log until it has ended, also when its folder is gone by then."""

    def __init__(self, folder: str, tail: int, at: Optional[int] = None) -> None:
        """`at`: None is where the last `tail` lines begin. Raises OSError."""
        self.folder = folder
        self.file = open(os.path.join(folder, "log"), "rb")
        self.at = self.tail_start(tail) if at is None else at

    def tail_start(self, lines: int) -> int:
        end = self.file.seek(0, os.SEEK_END)
        self.file.seek(max(0, end - TAIL_LIMIT))
        found = self.file.read(TAIL_LIMIT).splitlines(True)
        return end - sum(map(len, found[-lines:] if lines > 0 else []))

    def read(self) -> Tuple[List[str], bool]:
        """Lines that are new, and whether more may come. The last one may lack its end."""
        over = os.path.exists(os.path.join(self.folder, "exit.json")) or not os.path.isdir(
            self.folder
        )
        size = self.file.seek(0, os.SEEK_END)
        if size < self.at:
            self.at = self.moved(size)
        self.file.seek(self.at)
        data = self.file.read(FOLLOW_LIMIT)
        end = data.rfind(b"\n") + 1
        if over or (not end and len(data) == FOLLOW_LIMIT):
            end = len(data)
        self.at += end
        return data[:end].decode("utf-8", "replace").splitlines(), not over or len(data) > 0

    def moved(self, size: int) -> int:
        """Where our place is in a log that was cut to its tail (shim.cut_log)."""
        self.file.seek(0)
        cut = CUT.match(self.file.readline())
        if cut is None:
            return size
        had, kept = int(cut.group(1)), int(cut.group(2))
        return cut.end() + max(0, kept - (had - self.at))

    def close(self) -> None:
        self.file.close()


def probe(folder: str) -> Optional[int]:
    """A descriptor that holds the folder's free lock; None while its shim lives."""
    fd = os.open(os.path.join(folder, "lock"), os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise
        return None
    return fd


def sweep(folder: str, state: Json) -> bool:
    """KILL what a dead shim left; False if some would not die in time.

    Proof that a process is ours: it is of the engine's session, or appends to the log. Pids mean
    nothing after a reboot or in another PID namespace: then there is nothing to do.
    """
    if state["boot_id"] != boot_id() or state["pid_ns"] != pid_namespace():
        return True
    end = time.monotonic() + SWEEP_S
    empty = 0
    while empty < 2:  # one look may miss a fork that happens behind it
        table = processes()
        left = set(members(table, state["pid"], state["start"]))
        try:
            log = os.stat(os.path.join(folder, "log"))
        except OSError:
            log = None
        for pid, row in table.items():
            if log is not None and alive(row) and row["start"] >= state["start"]:
                if appends_to(pid, log):
                    left.add(pid)
        left.discard(os.getpid())
        empty = 0 if left else empty + 1
        for pid in left:
            kill(pid, table[pid]["start"])
        if left:
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
    return True


def lost(folder: str) -> Json:
    """The record of an instance whose shim was killed: it lived at least until it last wrote."""
    seen = 0.0
    for name in ("state.json", "log"):
        try:
            seen = max(seen, os.stat(os.path.join(folder, name)).st_mtime)
        except OSError:
            pass
    now = time.time_ns() // 1000
    return {
        "code": None,
        "signal": None,
        "reason": "lost",
        "ended_us": min(now, int(seen * 1e6)) if seen else now,
        "tail": [line[:1000] for line in tail_of(os.path.join(folder, "log"), 40)],
        "estimated": True,
    }


def look_once(folder: str) -> Optional[Json]:
    """None while the lock is held and there is no exit.json."""
    state_path, exit_path = os.path.join(folder, "state.json"), os.path.join(folder, "exit.json")
    if not os.path.isdir(folder):
        return {"state": "gone"}
    ended = read_json(exit_path)
    if ended is not None:
        return {"state": "ended", "record": read_json(state_path), "exit": ended}
    try:
        held = probe(folder)
    except (FileNotFoundError, NotADirectoryError):
        return {"state": "gone"}
    if held is None:
        return None
    try:
        state = read_json(state_path)
        ended = read_json(exit_path)  # it may have been written before we had the lock
        if ended is None:
            if state is not None and not sweep(folder, state):
                return {"state": "running", "record": state, "status": None}
            if not os.path.isdir(folder):
                return {"state": "gone"}
            ended = lost(folder)
            try:
                write_whole(exit_path, json.dumps(ended).encode())
            except OSError:
                pass  # a full disk: the next look says the same
        return {"state": "ended", "record": state, "exit": ended}
    finally:
        os.close(held)


def connect_unix(path: str, patience_s: float = 10.0) -> socket.socket:
    """Through a descriptor of the folder: the path of a socket has 107 bytes at most.

    A queue of connections that is full is waited for: connect() itself would fail at once.
    """
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    found = socket.socket(socket.AF_UNIX)
    end = time.monotonic() + patience_s
    try:
        found.setblocking(False)
        while True:
            try:
                found.connect("/proc/self/fd/%d/%s" % (folder, os.path.basename(path)))
                return found
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)
    except BaseException:
        found.close()
        raise
    finally:
        os.close(folder)


def shim_status(folder: str) -> Optional[Json]:
    """What the shim says; None when it does not answer."""
    try:
        with connect_unix(os.path.join(folder, "sock"), SHIM_S) as link:
            link.settimeout(SHIM_S)
            link.sendall(b'{"op": "status"}\n')
            with link.makefile("rb") as reader:
                value = json.loads(reader.readline().decode())
            return value if isinstance(value, dict) else None
    except (OSError, ValueError):
        return None


# ops that block: each is called in a thread with the request, and returns the answer


def launch(request: Json) -> Json:
    """{folder, document} -> {"line": the shim's line, "code": its exit code}"""
    folder = below(request["folder"])
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    shim = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-E", shim, folder],
        input=json.dumps(request["document"]).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"NBGPU_HOME": ROOT, "PATH": PATH},
        cwd="/",
        start_new_session=True,
        timeout=LAUNCH_S,
        check=False,
    )
    try:
        line = json.loads(done.stdout.decode())
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip()[-500:]
        line = {"error": said or "no answer", "kind": "fault"}
    return {"line": line, "code": done.returncode}


def look(request: Json) -> Json:
    """{folder} -> {"state": "gone"}, {"state": "ended", "record", "exit"}, or {"state": "running",
    "record", "status"}: `record` is state.json, `exit` exit.json, `status` the shim's (each may be
    null). A dead shim's leftovers are ended, and exit.json says `lost`."""
    folder = below(request["folder"])
    end = time.monotonic() + SETTLE_S
    pause = 0.005
    while True:
        seen = look_once(folder)
        if seen is not None:
            return seen
        status = shim_status(folder)
        # its lock is held: it starts, it has just ended, or it is stopped
        if status is not None or time.monotonic() > end:
            record = read_json(os.path.join(folder, "state.json"))
            return {"state": "running", "record": record, "status": status}
        time.sleep(pause)
        pause = min(0.2, pause * 2)


def listing(request: Json) -> Json:
    """{prefix, folder ("instances"), look (false)} -> {"names": […], "found": {name: look}}

    Folders that a killed launch left nameless are removed.
    """
    folder, prefix = inside(request.get("folder", "instances")), request["prefix"]
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        entries = []
    for entry in entries:
        if entry.name.startswith("." + prefix):
            try:
                if time.time() - entry.stat().st_mtime > STALE_S:
                    held = probe(entry.path)
                    if held is not None:
                        shutil.rmtree(entry.path, ignore_errors=True)
                        os.close(held)
            except OSError:
                pass
    names = [x.name for x in entries if x.name.startswith(prefix) and x.is_dir()]
    found = {}
    if request.get("look"):
        found = {name: look({"folder": os.path.join(folder, name)}) for name in names}
    return {"names": names, "found": found}


def logs(request: Json) -> Json:
    """{folder, tail (100)} -> {"lines": […]}"""
    folder = below(request["folder"])
    if not os.path.isdir(folder):
        raise Refusal("not_found", "%s is not there" % folder)
    return {"lines": tail_of(os.path.join(folder, "log"), int(request.get("tail", 100)))}


def read(request: Json) -> Json:
    """{path, limit} -> {"data": text} or {"data64": base64} where it is no UTF-8"""
    limit = min(int(request.get("limit", READ_LIMIT)), READ_LIMIT)
    with open(below(request["path"]), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Refusal("bad_request", "%s has more than %d bytes" % (request["path"], limit))
    try:
        return {"data": data.decode()}
    except ValueError:
        return {"data64": base64.b64encode(data).decode()}


def given(request: Json, name: str) -> bytes:
    """Bytes of a request: `name` is text, or `name`64 base64."""
    if name + "64" in request:
        return base64.b64decode(request[name + "64"])
    text = request.get(name) or ""
    return str(text).encode()


def write(request: Json) -> Json:
    """{path, data or data64, mode (0600)} -> {}; whole or not at all, its folders are made."""
    path = below(request["path"])
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    write_whole(path, given(request, "data"), int(request.get("mode", 0o600)))
    return {}


def mkdir(request: Json) -> Json:
    """{path, mode (0700)} -> {"made"}: also when it is there; with those above it."""
    path = inside(request["path"])
    made = not os.path.isdir(path)
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.chmod(path, int(request.get("mode", 0o700)))
    return {"made": made}


def rename(request: Json) -> Json:
    """{path, to} -> {}"""
    os.rename(below(request["path"]), below(request["to"]))
    return {}


def remove(request: Json) -> Json:
    """{path, locked (false)} -> {"removed"}: a file or a tree; links are not followed.

    locked: an instance's folder, whose lock must be free (kind `busy`).
    """
    path = below(request["path"])
    if not os.path.lexists(path):
        return {"removed": False}
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return {"removed": True}
    held = None
    if request.get("locked"):
        end = time.monotonic() + SETTLE_S
        while True:
            held = probe(path)
            if held is not None:
                break
            if time.monotonic() > end:
                raise Refusal("busy", "the lock of %s is held" % path)
            time.sleep(0.01)
    try:
        parent, name = os.path.split(path)
        away = os.path.join(parent, ".%s.%d.%d" % (name, os.getpid(), time.time_ns()))
        os.rename(path, away)  # at once, so that nobody sees half of it
        left: List[str] = []

        def failed(function: Any, where: str, info: Any) -> None:
            try:  # a folder without rights to it, as pip makes some
                os.chmod(os.path.dirname(where), 0o700)
                function(where)
            except OSError:
                left.append(where)

        shutil.rmtree(away, onerror=failed)
        if os.path.lexists(away):
            shutil.rmtree(away, ignore_errors=True)
        if os.path.lexists(away):
            raise Refusal("io", "%s could not be removed" % (left or [away])[0])
    finally:
        if held is not None:
            os.close(held)
    return {"removed": True}


def size(request: Json) -> Json:
    """{path} -> {"bytes"}: what it takes on the disk, 0 when it is not there."""
    path, total = inside(request["path"]), 0
    for root, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except OSError:
                continue
    return {"bytes": total}


def memory(request: Json) -> Json:
    """{folders} -> {"memory": {folder: bytes (PSS)}, "available": bytes}; ended ones are left out."""
    table, found = processes(), {}
    for folder in request.get("folders") or ():
        state = read_json(os.path.join(below(folder), "state.json"))
        if state is not None:
            own = members(table, state["pid"], state["start"])
            found[folder] = sum(pss(pid) for pid in own)
    return {"memory": found, "available": available_memory()}


def free_port(request: Json) -> Json:
    """{more (0)} -> {"port"}: of 127.0.0.1, free a moment ago, and so were the next `more`."""
    for _ in range(PORT_TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            if all(is_free(port + step) for step in range(1, int(request.get("more", 0)) + 1)):
                break
    return {"port": port}


def info(request: Json) -> Json:
    """{path: anywhere} -> {"type": file|folder|link|other|none, "size", "mode", "mtime_us"}"""
    path = anywhere(request["path"])
    try:
        found = os.stat(path) if os.path.exists(path) else os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"type": "none", "path": path}
    kind = "file" if os.path.isfile(path) else "folder" if os.path.isdir(path) else "other"
    kind = "link" if kind == "other" and os.path.islink(path) else kind
    mtime = found.st_mtime_ns // 1000
    mode = found.st_mode & 0o7777
    return {"type": kind, "path": path, "size": found.st_size, "mode": mode, "mtime_us": mtime}


def digest(path: str) -> Json:
    found, count = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while True:
            block = file.read(1 << 20)
            if not block:
                return {"sha256": found.hexdigest(), "size": count}
            found.update(block)
            count += len(block)


def hashed(request: Json) -> Json:
    """{path: anywhere} -> {"sha256", "size"}"""
    return digest(anywhere(request["path"]))


def settled(request: Json) -> Json:
    """{part, path: anywhere, sha256, mode} -> {"sha256", "size"}: a part file that is complete gets its name.

    One with another hash is removed: kind `corrupt`. Asked again, it says the same again.
    """
    part, path = anywhere(request["part"]), anywhere(request["path"])
    if not os.path.exists(part):
        found = digest(path)
        if found["sha256"] != request["sha256"]:
            raise Refusal("not_found", "%s is not there" % part)
        return found
    found = digest(part)
    if found["sha256"] != request["sha256"]:
        os.unlink(part)
        raise Refusal("corrupt", "%s arrived with other bytes than were sent" % path)
    fd = os.open(part, os.O_RDONLY)
    try:
        if request.get("mode") is not None:
            os.fchmod(fd, int(request["mode"]))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(part, path)
    settle(os.path.dirname(path))
    return found


def said_by(*argv: str) -> Optional[str]:
    """None where it ended well; else the last line of what it said, without a full stop."""
    if not shutil.which(argv[0]):
        return "%s is not installed" % argv[0]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TRY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "it did not answer within %d s" % TRY_S
    except OSError as error:
        return str(error.strerror or error)
    if done.returncode == 0:
        return None
    lines = [x for x in done.stderr.decode("utf-8", "replace").splitlines() if x.strip()]
    return (lines[-1].strip() if lines else "exit code %d" % done.returncode).rstrip(".")


def gpus() -> Json:
    """{"gpus": [{index, uuid, name, memory_total_mib, …}], "gpus_why": "" or why there are none}"""
    if not shutil.which("nvidia-smi"):
        return {"gpus": [], "gpus_why": "nvidia-smi is not installed"}
    query = "--query-gpu=" + ",".join(GPU_FIELDS)
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TRY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"gpus": [], "gpus_why": "nvidia-smi did not answer within %d s" % TRY_S}
    except OSError as error:
        return {"gpus": [], "gpus_why": "nvidia-smi: %s" % (error.strerror or error)}
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode:
        last = (text.strip().splitlines() or ["exit code %d" % done.returncode])[-1]
        return {"gpus": [], "gpus_why": "nvidia-smi: %s" % last.strip().rstrip(".")}
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(GPU_FIELDS) and fields[0].isdigit():
            found.append(
                {
                    "index": int(fields[0]),
                    "uuid": fields[1],
                    "name": fields[2],
                    "memory_total_mib": int(fields[3]) if fields[3].isdigit() else None,
                    "memory_used_mib": int(fields[4]) if fields[4].isdigit() else None,
                    "utilization": int(fields[5]) if fields[5].isdigit() else None,
                    "driver": fields[6],
                    "bus_id": fields[7],
                    "mig": fields[8] == "Enabled",
                }
            )
    return {"gpus": found, "gpus_why": "" if found else "nvidia-smi names none"}


def tools() -> Json:
    """{tool: None where it works, else why not}: found out by running each."""
    box = ["--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-ipc"]
    box += ["--unshare-uts", "--hostname", "probe", "--ro-bind", "/", "/", "--proc", "/proc"]
    tried = {
        "bwrap": ("bwrap", *box, "--dev", "/dev", "--", "/bin/sh", "-c", "true"),
        "docker": ("docker", "info"),
        "podman": ("podman", "info"),
        "venv": (sys.executable, "-I", "-c", "import venv, ensurepip"),
    }
    with concurrent.futures.ThreadPoolExecutor(len(tried)) as pool:
        asked = {name: pool.submit(said_by, *argv) for name, argv in tried.items()}
        return {name: answer.result() for name, answer in asked.items()}


def hello(request: Json) -> Json:
    """{tools (true)} -> who and what is here; without tools at once. Bytes, microseconds (UTC)."""
    memory_total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    os.makedirs(ROOT, mode=0o700, exist_ok=True)
    found = {
        "python": "%d.%d.%d" % sys.version_info[:3],
        "executable": sys.executable,
        "code": os.path.dirname(os.path.abspath(__file__)),
        "boot_id": boot_id(),
        "hostname": socket.gethostname(),
        "machine": os.uname().machine,
        "kernel": os.uname().release,
        "uid": os.getuid(),
        "home": os.path.expanduser("~"),
        "root": ROOT,
        "pid": os.getpid(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": memory_total,
        "memory_available": available_memory(),
        "disk": shutil.disk_usage(ROOT).total,
        "disk_free": shutil.disk_usage(ROOT).free,
    }
    if request.get("tools", True):
        found.update(gpus(), tools=tools())
    return dict(found, now_us=time.time_ns() // 1000)


BLOCKING: Dict[str, Callable[[Json], Json]] = {
    "hello": hello,
    "launch": launch,
    "look": look,
    "list": listing,
    "logs": logs,
    "read": read,
    "write": write,
    "mkdir": mkdir,
    "rename": rename,
    "remove": remove,
    "size": size,
    "memory": memory,
    "free_port": free_port,
    "stat": info,
    "hash": hashed,
    "settle": settled,
}


class Host:
    """The link, and what runs on its behalf."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pool = concurrent.futures.ThreadPoolExecutor(32)
        self.mux = Mux(self.put, self.drained)
        self.mux.opened = self.opened
        self.decoder = Decoder()
        self.unsent: Deque[bytes] = collections.deque()
        self.unsent_bytes = 0
        self.room = asyncio.Event()
        self.room.set()
        self.groups: Set[int] = set()
        self.tasks: Set[asyncio.Future[None]] = set()
        self.over = asyncio.Event()
        self.heard = time.monotonic()
        self.silence_s = SILENCE_S

    async def serve(self) -> None:
        """Return when the link is gone. stdin and stdout may be one socket: no asyncio pipes."""
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        self.put(MARK)
        self.loop.add_reader(0, self.receive)
        while True:
            left = self.heard + self.silence_s - time.monotonic()
            if left <= 0:
                break
            try:
                await asyncio.wait_for(self.over.wait(), min(left, LOOK_S))
                break
            except asyncio.TimeoutError:
                continue
        for group in self.groups:
            try:
                os.killpg(group, signal.SIGKILL)
            except OSError:
                pass

    def receive(self) -> None:
        try:
            data = os.read(0, 1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.loop.remove_reader(0)
            self.over.set()
            return
        self.heard = time.monotonic()
        try:
            for header, body in self.decoder.feed(data):
                if header["t"] == "ping":
                    self.put(encode({"t": "pong", "now_us": time.time_ns() // 1000}))
                elif header["t"] == "start":
                    self.silence_s = float(header["silence_s"])
                else:
                    self.mux.take(header, body)
        except (ValueError, KeyError, TypeError) as error:
            sys.stderr.write("host.py: not understood: %r\n" % error)
            self.over.set()

    def put(self, data: bytes) -> None:
        self.unsent.append(data)
        self.unsent_bytes += len(data)
        if len(self.unsent) == 1:
            self.flush()
        if self.unsent_bytes > UNSENT:
            self.room.clear()

    async def drained(self) -> None:
        await self.room.wait()

    def flush(self) -> None:
        """Write what can be written, and come back when there is room for more."""
        try:
            while self.unsent:
                data = self.unsent[0]
                done = os.write(1, data)
                self.unsent_bytes -= done
                if done < len(data):
                    self.unsent[0] = data[done:]
                else:
                    self.unsent.popleft()
        except BlockingIOError:
            self.loop.add_writer(1, self.flush)
        except OSError:
            self.unsent.clear()
            self.unsent_bytes = 0
            self.over.set()
        else:
            self.loop.remove_writer(1)
        if self.unsent_bytes < UNSENT // 2:
            self.room.set()

    # conversations

    def opened(self, talk: Conversation, request: Json) -> None:
        task = asyncio.ensure_future(self.answer(talk, request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer(self, talk: Conversation, request: Json) -> None:
        """From open to end. What goes wrong is the answer."""
        try:
            op = request.get("op", "")
            if op in BLOCKING:
                call = self.loop.run_in_executor(self.pool, BLOCKING[op], request)
                await talk.line(await call)
            elif op == "connect":
                await self.connect(talk, request)
                return
            elif op == "ask":
                await self.attended(talk, self.ask(request))
            elif op == "follow":
                await self.attended(talk, self.follow(talk, request))
            elif op == "run":
                await self.attended(talk, self.run(talk, request))
            else:
                raise Refusal("bad_request", "there is no op %r" % op)
        except (ConnectionError, asyncio.CancelledError):
            pass
        except subprocess.TimeoutExpired:
            await self.failed(talk, Refusal("late", "no answer within %d s" % LAUNCH_S))
        except Exception as error:  # whatever it is, it is the caller's to know
            await self.failed(talk, error)
        talk.finish("end")

    async def failed(self, talk: Conversation, error: BaseException) -> None:
        refusal = Refusal.of(error)
        try:
            await talk.line({"error": str(refusal), "kind": refusal.kind})
        except ConnectionError:
            pass

    async def attended(self, talk: Conversation, work: Any) -> None:
        """The work, and its end when nobody wants it any more; what it returns is the answer."""
        task = asyncio.ensure_future(work)
        while not task.done():
            heard = asyncio.ensure_future(talk.next())
            await asyncio.wait({task, heard}, return_when=asyncio.FIRST_COMPLETED)
            if not heard.done():
                heard.cancel()
            elif heard.result()[0] in ("close", "cut"):
                task.cancel()
                await asyncio.wait({task})
        await talk.line(task.result())

    async def connect(self, talk: Conversation, request: Json) -> None:
        """{unix: a path, anywhere} or {port: of 127.0.0.1} -> {}, then raw bytes both ways."""
        try:
            if "port" in request:
                where = "port %d" % request["port"]
                link = socket.socket()
                link.setblocking(False)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await asyncio.wait_for(
                    self.loop.sock_connect(link, ("127.0.0.1", int(request["port"]))), 10
                )
            else:
                where = anywhere(request["unix"])
                link = await self.loop.run_in_executor(self.pool, connect_unix, where)
            await talk.line({})
        except ConnectionRefusedError:
            await self.failed(talk, Refusal("refused", "nothing listens on %s" % where))
        except FileNotFoundError:
            await self.failed(talk, Refusal("refused", "there is no socket %s" % where))
        except asyncio.TimeoutError:
            await self.failed(talk, Refusal("late", "%s does not answer" % where))
        except Exception as error:
            await self.failed(talk, error)
        else:
            await pump(talk, link, "end")
            return
        talk.finish("end")

    async def ask(self, request: Json) -> Json:
        """{folder, request, timeout_s (null: for ever)} -> {"answer": the shim's line}

        Kind `no_answer`: the shim is dead or about to be; `late`: it may yet do what it was asked.
        """
        path = os.path.join(below(request["folder"]), "sock")
        limit = request.get("timeout_s")

        async def exchange() -> Json:
            link = await self.loop.run_in_executor(self.pool, connect_unix, path)
            reader, writer = await asyncio.open_unix_connection(sock=link, limit=1 << 22)
            try:
                writer.write(json.dumps(request["request"]).encode() + b"\n")
                await writer.drain()
                return {"answer": json.loads((await reader.readline()).decode())}
            finally:
                writer.close()

        try:
            return await asyncio.wait_for(exchange(), None if limit is None else float(limit))
        except asyncio.TimeoutError:
            raise Refusal("late", "no answer within %s s" % limit)
        except (OSError, ValueError) as error:
            raise Refusal("no_answer", str(error))

    async def follow(self, talk: Conversation, request: Json) -> Json:
        """{folder, tail, at (null: where the last `tail` lines begin)} -> {"lines", "at": where the next
        one begins}…, {} once the instance has ended."""
        folder, tail = below(request["folder"]), int(request["tail"])
        log = await self.loop.run_in_executor(self.pool, Follower, folder, tail, request.get("at"))
        try:
            more = True
            while more:
                lines, more = await self.loop.run_in_executor(self.pool, log.read)
                if lines:
                    await talk.line({"lines": lines, "at": log.at})
                elif more:
                    await asyncio.sleep(FOLLOW_S)
        finally:
            log.close()
        return {}

    async def run(self, talk: Conversation, request: Json) -> Json:
        """{argv, env (null: as it is), cwd (home), stdin or stdin64, grace_s (0)} -> lines {"line",
        "stream": 1|2}, at last {"code", "signal"}. When it is closed: TERM to its group, and KILL
        after the grace."""
        env = request.get("env")
        where = request.get("cwd")
        # from the main thread: PDEATHSIG is of the thread that forks
        child = subprocess.Popen(
            request["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ) if env is None else env,
            cwd=os.path.expanduser("~") if where is None else anywhere(where),
            preexec_fn=tied,
        )
        self.groups.add(child.pid)
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        pipes = [child.stdin, child.stdout, child.stderr]

        def feed() -> None:
            assert child.stdin is not None
            try:
                child.stdin.write(given(request, "stdin"))
                child.stdin.close()
            except OSError:
                pass

        feeding = self.loop.run_in_executor(self.pool, feed)
        told = [
            asyncio.ensure_future(self.tell(talk, pipes[stream].fileno(), stream))
            for stream in (1, 2)
        ]
        try:
            peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
            pause = 0.005
            # looked at, not reaped: its group's number stays its own until that is killed
            while os.waitid(os.P_PID, child.pid, peek) is None:
                await asyncio.wait(told, timeout=pause)
                if all(task.done() for task in told):
                    await asyncio.sleep(0.005)
                pause = min(0.25, pause * 1.5)
            await asyncio.wait(told, timeout=1.0)  # what is left in the pipes
        except asyncio.CancelledError:
            await self.end_group(child, float(request.get("grace_s", 0)))
            raise
        finally:
            self.kill_group(child)
            for task in told:
                task.cancel()
            await asyncio.wait(told)
            self.groups.discard(child.pid)
            child.wait()
            await asyncio.wait({feeding})
            for pipe in pipes[1:]:
                pipe.close()
        code = child.returncode
        return {"code": code if code >= 0 else None, "signal": -code if code < 0 else None}

    async def end_group(self, child: subprocess.Popen[bytes], grace_s: float) -> None:
        end = time.monotonic() + grace_s
        if grace_s > 0:
            try:
                os.killpg(child.pid, signal.SIGTERM)
            except OSError:
                return
        while time.monotonic() < end:
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            await asyncio.sleep(0.02)

    def kill_group(self, child: subprocess.Popen[bytes]) -> None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except OSError:
            pass

    async def tell(self, talk: Conversation, fd: int, stream: int) -> None:
        """The lines of one pipe until its end; a line without an end is told in pieces."""
        os.set_blocking(fd, False)
        rest = b""
        while True:
            try:
                data = os.read(fd, 1 << 16)
            except BlockingIOError:
                ready = self.loop.create_future()
                self.loop.add_reader(fd, wake, ready)
                try:
                    await ready
                finally:
                    self.loop.remove_reader(fd)
                continue
            *lines, rest = (rest + data).split(b"\n")
            if rest and (not data or len(rest) > LINE_LIMIT):
                lines.append(rest)
                rest = b""
            for line in lines:
                await talk.line({"line": line.decode("utf-8", "replace"), "stream": stream})
            if not data:
                return


async def main() -> None:
    host = Host()
    await host.serve()


if __name__ == "__main__":
    os.umask(0o077)
    for signalled in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signalled, lambda *_: None)  # an ignored one would be inherited
    try:
        asyncio.new_event_loop().run_until_complete(main())
    finally:
        os._exit(0)  # threads that look at a hung disk would hold it up
