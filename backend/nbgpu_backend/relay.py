"""The relay: between a handler that speaks RunPod's worker protocol and a backend that comes and goes.

`python3 -I -S -E relay.py --endpoint EID --worker WID --cwd DIR [--lease S] -- HANDLER_ARGV...`

One file, one thread, the standard library of Python 3.8 or newer. It is an instance's first
process, started in the instance's folder with the handler's environment; the handler is its child
and dies with it. The handler finds an HTTP server on loopback in its environment; the backend
finds `relay.sock` in the folder. Neither sees the other come or go: polls are held, and what the
handler posts is on the disk before it is answered. The relay ends as the handler does: with its
exit code, by its signal. While the handler holds jobs, the relay renews the instance's lease (900 s)
with the shim.

A frame is one JSON object on a line, followed by `size` raw bytes if it has a `size`.

From the backend (one at a time: a newer hello replaces the former connection):
  {"op": "hello"}                               first; drain is off then
  {"op": "jobs", "poll", "ids", "sizes", "size"}  + the jobs' JSON texts, one after the other
  {"op": "stop", "ids"}                         to be told to the handler, each once
  {"op": "forget", "ids"}                       no longer held: a stopped job posts nothing
  {"op": "ack", "n"}                            the posts up to n are stored
  {"op": "drain", "on"}
To the backend:
  {"op": "hello", "held", "pid", "unacked"}     then so many unacknowledged posts, then the open polls
  {"op": "want", "poll", "n", "busy"}           {"op": "unwant", "poll"} when it ended without jobs
  {"op": "idle"}                                it asked while drained, and works on nothing
  {"op": "took", "poll"}                        {"op": "returned", "ids"}: the handler has not got them
  {"op": "post", "n", "kind", "job", "stream", "final", "size"}  + the body; kind: done or stream
  {"op": "ping", "ids", "version"}              {"op": "unhealthy", "check", "reason"}

The spool is a row of records: the length of a frame and its CRC-32 (big-endian, 4 bytes each), and
the frame: `taken` (on the disk before the handler gets a job), `returned`, and `post` as it goes to
the backend. It is cut once what is acknowledged is most of it; a torn tail ends it.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import errno
import hmac
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from urllib.parse import parse_qs, unquote

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would add its import to every start
    from typing import Any, Callable, Deque, Dict, Iterator, List, NoReturn, Optional, Tuple

    Json = Dict[str, Any]
    Done = Callable[[bool], None]

SOCKET, SPOOL = "relay.sock", "spool"
HOLD_S = 20.0  # below the 90 s at which a handler gives a poll up
LEASE_S = 900.0
DRAIN_HOLD_S = 1.0  # a handler told "nothing" asks again at once
BODY_LIMIT = 64 << 20
HEAD_LIMIT = 64 << 10
LINE_LIMIT = 1 << 20
FRAME_LIMIT = 1 << 30
COMPACT_FROM = 1 << 20  # bytes of acknowledged records that are worth a rewrite
COPY_LIMIT = 128 << 20  # more than this of unacknowledged records is not copied in one go
MARK_EVERY = 64 << 10
COMPLAIN_EVERY_S = 60.0
RETRY_S = 1.0  # between tries to write on a full disk
UNWRITTEN_LIMIT = 128 << 20
UNREAD_LIMIT = 4 << 20  # bytes of notices that wait for a backend that does not read
PR_SET_PDEATHSIG, M_MMAP_THRESHOLD = 1, -3
HEADER = struct.Struct(">II")
BAD_USE, FAULT, NO_EXEC = 64, 70, 127
REASONS = {
    200: b"OK",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    413: b"Payload Too Large",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


def log(text: str) -> None:
    try:
        os.write(2, ("relay: %s\n" % text).encode())
    except OSError:
        pass  # a full disk


def encode(frame: Json) -> bytes:
    return json.dumps(frame, separators=(",", ":")).encode() + b"\n"


# the spool


def read_record(fd: int, offset: int) -> Optional[Tuple[Json, bytes, int]]:
    """-> (the frame's head, the whole frame, the next record's offset); None at a torn tail."""
    header = os.pread(fd, HEADER.size, offset)
    if len(header) < HEADER.size:
        return None
    length, crc = HEADER.unpack(header)
    if length > BODY_LIMIT + LINE_LIMIT:
        return None
    frame = os.pread(fd, length, offset + HEADER.size)
    if len(frame) < length or zlib.crc32(frame) != crc:
        return None
    try:
        head = json.loads(frame[: frame.index(b"\n")].decode())
    except ValueError:
        return None
    return head, frame, offset + HEADER.size + length


def read_spool(path: str) -> Iterator[Tuple[Json, bytes]]:
    """(head, body) of each record; nothing when there is no file."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        offset = 0
        while True:
            found = read_record(fd, offset)
            if found is None:
                return
            head, frame, offset = found
            yield head, frame[len(frame) - int(head.get("size", 0)) :] if "size" in head else b""
    finally:
        os.close(fd)


def replay(held: Dict[str, None], head: Json) -> None:
    """Apply one record to the ids that the handler holds."""
    if head["op"] == "taken":
        held.update(dict.fromkeys(head["ids"]))
    elif head["op"] == "returned":
        for job in head["ids"]:
            held.pop(job, None)
    elif head.get("final"):
        held.pop(head["job"], None)


def is_final(kind: str, body: bytes) -> bool:
    """Whether a post ends its job. Only one that names the word is parsed: results may be large."""
    if kind != "done" or b'"IN_PROGRESS"' not in body:
        return kind == "done"
    try:
        value = json.loads(body.decode())
    except ValueError:
        return True
    return not (isinstance(value, dict) and value.get("status") == "IN_PROGRESS")


class Spool:
    """The file, and what is known of it: bounded in memory, whatever is in the file.

    Records are queued and written together, with one fdatasync. The posts are numbered from 1;
    `start` is at or before the first one that is not acknowledged, `cursor` is where the backend
    is; `marks` says where some of the posts are.
    """

    def __init__(self, path: str = SPOOL) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        sync_folder()
        self.held: Dict[str, None] = {}
        self.queue: List[Tuple[Json, bytes, Done]] = []
        self.last = self.acked = 0
        self.size = self.start = self.cursor = 0
        self.marks: Deque[Tuple[int, int]] = collections.deque()
        self.torn = False  # a failed write may have left bytes after `size`
        self.renamed = False  # and the folder is not synced yet
        self.compact_from = COMPACT_FROM
        self.complain_from = 0.0

    def add(self, head: Json, body: bytes, done: Done) -> bool:
        """Queue a record; `done` learns at the commit if it is on the disk. -> needs a commit"""
        self.queue.append((head, body, done))
        return len(self.queue) == 1

    def commit(self) -> None:
        while self.queue:
            batch, self.queue = self.queue, []
            if self.write(batch):
                for _, _, done in batch:
                    done(True)
                continue
            for one in batch:  # what is small may still fit, or room was made
                one[2](self.write([one]))

    def write(self, batch: List[Tuple[Json, bytes, Done]]) -> bool:
        size, last = self.size, self.last
        marks: List[Tuple[int, int]] = []
        mark = self.marks[-1][1] if self.marks else -MARK_EVERY
        parts: List[bytes] = []
        for head, body, _ in batch:
            if head["op"] == "post":
                last += 1
                head["n"] = last
                if size - mark >= MARK_EVERY:
                    marks.append((last, size))
                    mark = size
            line = encode(head)
            crc = zlib.crc32(body, zlib.crc32(line))
            parts += (HEADER.pack(len(line) + len(body), crc), line, body)
            size += HEADER.size + len(line) + len(body)
        try:
            if self.torn:
                os.ftruncate(self.fd, self.size)
            self.torn = True
            if self.renamed:
                sync_folder()
                self.renamed = False
            write_all(self.fd, parts)
            os.fdatasync(self.fd)
            self.torn = False
        except OSError as error:
            self.failed(error)
            return False
        self.size, self.last = size, last
        self.marks.extend(marks)
        for head, _, _ in batch:
            replay(self.held, head)
        return True

    def failed(self, error: OSError) -> None:
        try:
            os.ftruncate(self.fd, self.size)
            self.torn = False
        except OSError:
            pass  # before the next write, then
        now = time.monotonic()
        if now >= self.complain_from:  # after the truncation: the log may be on the same disk
            self.complain_from = now + COMPLAIN_EVERY_S
            log("the spool cannot be written (%s): the handler waits" % error.strerror)
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and self.start > 0:
            self.compact()

    def next(self) -> Optional[Tuple[int, bytes]]:
        """(n, frame) of the next post for the backend, or None when it has had all."""
        while self.cursor < self.size:
            found = read_record(self.fd, self.cursor)
            if found is None:  # the disk gives back something else than what it took
                log("the spool cannot be read at %d" % self.cursor)
                self.cursor = self.size
                return None
            head, frame, self.cursor = found
            if head["op"] == "post" and head["n"] > self.acked:
                return head["n"], frame
        return None

    def rewind(self) -> None:
        self.cursor = self.start

    def ack(self, n: int) -> None:
        """Raises ValueError for a post that never was."""
        if n > self.last:
            raise ValueError("ack of %d, but the last post is %d" % (n, self.last))
        self.acked = max(self.acked, n)
        if self.acked == self.last:
            self.start = self.size
            self.marks.clear()
        else:
            while len(self.marks) > 1 and self.marks[1][0] <= self.acked + 1:
                self.marks.popleft()
            if self.marks and self.marks[0][0] <= self.acked + 1:
                self.start = max(self.start, self.marks[0][1])
        self.cursor = max(self.cursor, self.start)
        if self.start >= self.compact_from and self.size - self.start <= min(
            self.start, COPY_LIMIT
        ):
            self.compact()

    def compact(self) -> None:
        """Rewrite the file: what is held, and the records from `start` on."""
        temporary = self.path + ".tmp"
        fd = -1
        try:
            fd = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o600)
            before = 0
            if self.held:
                line = encode({"op": "taken", "ids": list(self.held)})
                write_all(fd, [HEADER.pack(len(line), zlib.crc32(line)), line])
                before = HEADER.size + len(line)
            offset = self.start
            while offset < self.size:
                part = os.pread(self.fd, min(self.size - offset, 1 << 20), offset)
                if not part:
                    raise OSError(errno.EIO, "the spool is shorter than it was")
                write_all(fd, [part])
                offset += len(part)
            os.fsync(fd)
            os.rename(temporary, self.path)
        except OSError as error:
            log("the spool was not cut: %s" % error.strerror)
            self.compact_from = self.start + COMPACT_FROM  # not at every ack
            if fd >= 0:
                os.close(fd)
                remove(temporary)
            return
        os.close(self.fd)
        shift = before - self.start
        self.fd, self.torn, self.compact_from = fd, False, COMPACT_FROM
        self.size += shift
        self.cursor += shift
        self.marks = collections.deque((n, x + shift) for n, x in self.marks)
        self.start = before if self.acked < self.last else self.size
        self.renamed = True


def write_all(fd: int, parts: List[bytes]) -> None:
    """Small parts go together; a large one is not copied."""
    together = b""
    if sum(map(len, parts)) <= 1 << 20:
        parts = [b"".join(parts)]
    for part in parts:
        if len(part) < 65536:
            together += part
            if len(together) < 65536:
                continue
            part, together = together, b""
        elif together:
            write_one(fd, together)
            together = b""
        write_one(fd, part)
    if together:
        write_one(fd, together)


def write_one(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder() -> None:
    fd = os.open(".", os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


# the handler's side


class Body:
    """The body of a request as it arrives. What is above the limit is read and dropped."""

    def __init__(self, length: int, chunked: bool) -> None:
        self.left, self.chunked, self.trailer = length, chunked, False
        self.data = bytearray()
        self.over = False

    def feed(self, buffer: bytearray) -> bool:
        """Take from the buffer; True at the end. Raises ValueError for bad chunks."""
        while True:
            if self.left:
                part = min(self.left, len(buffer))
                self.over = self.over or len(self.data) + self.left > BODY_LIMIT
                if self.over:
                    self.data.clear()
                else:
                    self.data += memoryview(buffer)[:part] if part < len(buffer) else buffer
                del buffer[:part]
                self.left -= part
            if not self.chunked:
                return not self.left
            if self.left:
                return False
            end = buffer.find(b"\r\n")
            if end < 0:
                if len(buffer) > HEAD_LIMIT:
                    raise ValueError("chunk")
                return False
            line = bytes(buffer[:end])
            if self.trailer:
                del buffer[: end + 2]
                if not line:
                    return True
            elif not line:  # the end of the former chunk
                del buffer[:2]
            else:
                size = line.split(b";")[0].strip()
                if not size.isalnum():
                    raise ValueError("chunk")
                self.left = int(size, 16)
                del buffer[: end + 2]
                self.trailer = not self.left


class Connection(asyncio.Protocol):
    """One connection of the handler: a request at a time, each answered by `reply`."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.transport: Any = None
        self.buffer = bytearray()
        self.body: Optional[Body] = None
        self.method, self.target = "", ""
        self.close = False
        self.waiting = False  # a request is being answered
        self.inside = False
        self.lost: Optional[Callable[[], None]] = None  # called when the handler hangs up

    @property
    def gone(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Optional[Exception]) -> None:
        self.transport = None
        self.buffer.clear()
        self.body = None
        lost, self.lost = self.lost, None
        if lost is not None:
            lost()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.waiting:
            self.advance()
        elif len(self.buffer) > HEAD_LIMIT:
            self.transport.abort()  # it talks on without listening

    def advance(self) -> None:
        self.inside = True
        try:
            while not self.waiting and not self.gone and self.step():
                pass
        except ValueError:
            self.close = True
            self.reply(400)
        finally:
            self.inside = False

    def step(self) -> bool:
        """Read on; True when a request was complete."""
        if self.body is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0 or end > HEAD_LIMIT:
                if len(self.buffer) > HEAD_LIMIT:
                    self.close = True
                    self.reply(431)
                return False
            head = bytes(self.buffer[:end])
            del self.buffer[: end + 4]
            if not self.read_head(head):
                return False
        if self.body is None or not self.body.feed(self.buffer):
            return False
        body, self.body = self.body, None
        self.waiting = True
        self.relay.request(self, self.method, self.target, body)
        return True

    def read_head(self, head: bytes) -> bool:
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, version = lines[0].split(" ")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self.close = version != "HTTP/1.1" or headers.get("connection", "").lower() == "close"
        key = headers.get("authorization", "")
        if key[:7].lower() == "bearer ":
            key = key[7:].strip()
        if not hmac.compare_digest(key.encode("utf-8", "replace"), self.relay.key):
            self.close = True
            self.reply(401)
            return False
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise ValueError("content-length")
        self.body = Body(int(length), "chunked" in headers.get("transfer-encoding", "").lower())
        if headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def reply(self, status: int, body: bytes = b"") -> None:
        self.waiting = False
        self.lost = None
        if self.gone:
            return
        head = b"HTTP/1.1 %d %s\r\n" % (status, REASONS[status])
        if status != 204:
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        if self.close:
            head += b"Connection: close\r\n"
        self.transport.write(head + b"\r\n" + body)
        if self.close:
            self.transport.close()
        elif self.buffer and not self.inside:
            self.advance()


class Poll:
    """A handler that waits for jobs."""

    def __init__(self, k: int, connection: Connection, slots: int, batch: bool, busy: bool) -> None:
        self.k, self.connection, self.slots, self.batch = k, connection, slots, batch
        self.busy = busy
        self.timer: Any = None

    def want(self) -> Json:
        return {"op": "want", "poll": self.k, "n": self.slots, "busy": self.busy}


# the backend's side


class Backend(asyncio.Protocol):
    """A connection to relay.sock; the one that said hello last is the relay's backend."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.transport: Any = None
        self.buffer = bytearray()
        self.line: Optional[Json] = None
        self.paused = False
        self.pumping = False
        self.greeted = False
        self.level = 0  # the number of the last post that was there at the hello
        self.wants = False  # these are behind us: the polls are told
        self.unread = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=256 << 10)

    def connection_lost(self, error: Optional[Exception]) -> None:
        self.transport = None
        self.buffer.clear()
        if self.relay.backend is self:
            self.relay.backend = None

    def end(self) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.connection_lost(None)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        try:
            while self.transport is not None and self.step():
                pass
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log("a backend was dropped: %r" % error)
            self.end()

    def step(self) -> bool:
        """Act on one frame if it is complete."""
        if self.line is None:
            end = self.buffer.find(b"\n", 0, LINE_LIMIT)
            if end < 0:
                if len(self.buffer) >= LINE_LIMIT:
                    raise ValueError("a line of more than %d bytes" % LINE_LIMIT)
                return False
            self.line = json.loads(self.buffer[:end].decode())
            del self.buffer[: end + 1]
        size = int(self.line.get("size", 0))
        if not 0 <= size <= FRAME_LIMIT:
            raise ValueError("a frame of %d bytes" % size)
        if len(self.buffer) < size:
            return False
        body = bytes(memoryview(self.buffer)[:size])
        del self.buffer[:size]
        line, self.line = self.line, None
        if line["op"] == "hello":
            self.greeted = True
            self.relay.replace(self)
        elif not self.greeted:
            raise ValueError("a frame before the hello")
        else:
            self.relay.frame(line, body)
        return True

    def send(self, frame: Json) -> None:
        if self.transport is None:
            return
        data = encode(frame)
        self.unread = self.unread + len(data) if self.paused else 0
        if self.unread > UNREAD_LIMIT:
            log("a backend that does not read was dropped")
            self.end()
        else:
            self.transport.write(data)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.unread = 0
        self.pump()

    def pump(self) -> None:
        """Send posts while it reads them, a few in a row: the handler must not wait for it."""
        if self.pumping:
            return
        sent = 0
        while self.transport is not None and not self.paused:
            if sent > 1 << 20:
                self.pumping = True
                asyncio.get_event_loop().call_soon(self.pump_on)
                return
            found = self.relay.spool.next()
            if not self.wants and (found is None or found[0] >= self.level):
                self.wants = True
                after = [poll.want() for poll in self.relay.polls.values()]
            else:
                after = []
            if found is not None:
                self.transport.write(found[1])
                sent += len(found[1])
            for want in after:
                self.send(want)
            if found is None:
                return

    def pump_on(self) -> None:
        self.pumping = False
        if self.relay.backend is self:
            self.pump()


class Relay:
    """What the two sides share."""

    def __init__(self, spool: Spool, key: str) -> None:
        self.spool, self.key = spool, key.encode()
        self.loop = asyncio.get_event_loop()
        self.backend: Optional[Backend] = None
        self.pid = 0
        self.k = 0
        self.polls: Dict[int, Poll] = {}
        self.stop_polls: Dict[Connection, Any] = {}
        self.stops: Dict[str, bool] = {}  # id: whether the handler has been told
        self.draining = self.ending = False
        self.unwritten = 0  # bytes of posts that wait for room on the disk

    def send(self, frame: Json) -> None:
        if self.backend is not None:
            self.backend.send(frame)

    def record(self, head: Json, body: bytes, done: Done) -> None:
        if self.spool.add(head, body, done):
            self.loop.call_soon(self.commit)

    def commit(self) -> None:
        self.spool.commit()
        if self.backend is not None:
            self.backend.pump()

    # requests of the handler

    def request(self, to: Connection, method: str, target: str, body: Body) -> None:
        path, _, query = target.partition("?")
        parts = path.split("/")
        # /v2/ENDPOINT/ROUTE/WORKER[/JOB]; the key tells who asks, and there is but one worker
        route = parts[3] if len(parts) > 4 and parts[1] == "v2" else ""
        if method == "POST" and route in ("job-done", "job-stream") and len(parts) == 6:
            self.post(to, route[4:], unquote(parts[5]), "isStream=true" in query, body)
        elif method != "GET" or len(parts) != 5:
            to.reply(404)
        elif route in ("job-take", "job-take-batch"):
            given = parse_qs(query)
            batch = route == "job-take-batch"
            slots = given.get("batch_size", ["1"])[0] if batch else "1"
            busy = given.get("job_in_progress", [""])[0] != "0"
            self.take(to, max(1, int(slots)), batch, busy)
        elif route == "job-stop":
            self.stop_poll(to)
        elif route == "ping":
            self.ping(parse_qs(query))
            to.reply(200, b"{}")
        else:
            to.reply(404)

    def take(self, to: Connection, slots: int, batch: bool, busy: bool) -> None:
        if self.draining or self.ending:
            if not busy:
                self.send({"op": "idle"})
            timer = self.loop.call_later(DRAIN_HOLD_S, to.reply, 204)
            to.lost = timer.cancel
            return
        self.k += 1
        self.polls[self.k] = poll = Poll(self.k, to, slots, batch, busy)
        poll.timer = self.loop.call_later(HOLD_S, self.end_poll, poll)
        to.lost = lambda: self.end_poll(poll)
        if self.backend is not None and self.backend.wants:
            self.send(poll.want())

    def end_poll(self, poll: Poll) -> None:
        """Answer that there is nothing, or find that nobody waits any more."""
        if self.polls.pop(poll.k, None) is not None:
            poll.timer.cancel()
            poll.connection.reply(204)
            if self.backend is not None and self.backend.wants:
                self.send({"op": "unwant", "poll": poll.k})

    def stop_poll(self, to: Connection) -> None:
        hold = DRAIN_HOLD_S if self.ending else HOLD_S
        self.stop_polls[to] = self.loop.call_later(hold, self.end_stop_poll, to)
        to.lost = lambda: self.end_stop_poll(to)
        self.tell_stops()

    def end_stop_poll(self, to: Connection) -> None:
        timer = self.stop_polls.pop(to, None)
        if timer is not None:
            timer.cancel()
            to.reply(204)

    def tell_stops(self) -> None:
        ids = [job for job, told in self.stops.items() if not told]
        for to in list(self.stop_polls):
            if ids and not to.gone:
                self.stop_polls.pop(to).cancel()
                self.stops.update(dict.fromkeys(ids, True))
                to.reply(200, json.dumps({"jobsToStop": ids}).encode())
                return

    def ping(self, given: Dict[str, List[str]]) -> None:
        if given.get("status", [""])[0] == "unhealthy":
            check, reason = given.get("check", [""])[0], given.get("reason", [""])[0]
            log("the handler says that it is unhealthy: %s: %s" % (check, reason))
            self.send({"op": "unhealthy", "check": check, "reason": reason})
        else:
            ids = [x for x in ",".join(given.get("job_id", [])).split(",") if x]
            version = given.get("runpod_version", [""])[0]
            self.send({"op": "ping", "ids": ids, "version": version})

    def post(self, to: Connection, kind: str, job: str, stream: bool, body: Body) -> None:
        data, status = bytes(body.data), 200
        if body.over:
            status = 413
            if job not in self.spool.held:  # a repeat: its job has failed already
                to.reply(413)
                return
            log("a post of job %s has more than %d MiB" % (job, BODY_LIMIT >> 20))
            what = "result" if kind == "done" else "streamed chunk"
            text = "The %s has more than %d MiB: write it to a file or bucket and return its name."
            kind, data = "done", json.dumps({"error": text % (what, BODY_LIMIT >> 20)}).encode()
        final = is_final(kind, data)
        head = {"op": "post", "n": 0, "kind": kind, "job": job, "stream": stream, "final": final}
        head["size"] = len(data)
        self.store(to, head, data, status)

    def store(self, to: Connection, head: Json, data: bytes, status: int) -> None:
        """Answer once it is on the disk.

        On a full disk the handler waits for its answer (the package does, for 10 min); for a 4xx it
        drops a result at once, and for a 5xx, which is for what we cannot keep, after three tries.
        """

        def done(stored: bool) -> None:
            if stored and head["final"]:
                self.stops.pop(head["job"], None)
            if stored or to.gone:
                to.reply(status, b"{}")
            elif self.unwritten + len(data) > UNWRITTEN_LIMIT:
                to.reply(503)
            else:
                self.unwritten += len(data)
                self.loop.call_later(RETRY_S, self.store_again, to, head, data, status)

        self.record(head, data, done)

    def store_again(self, to: Connection, head: Json, data: bytes, status: int) -> None:
        self.unwritten -= len(data)
        if not to.gone:
            self.store(to, head, data, status)

    # frames of the backend

    def replace(self, backend: Backend) -> None:
        self.spool.commit()  # what the former said is done, and `held` says so
        if self.backend is not None and self.backend is not backend:
            self.backend.end()
        self.backend = backend
        self.drain(False)
        self.spool.rewind()
        backend.level = self.spool.last
        backend.wants = False
        held = list(self.spool.held)
        unacked = self.spool.last - self.spool.acked
        backend.send({"op": "hello", "held": held, "pid": self.pid, "unacked": unacked})
        backend.pump()

    def frame(self, line: Json, body: bytes) -> None:
        """Raises ValueError, KeyError or TypeError for what is no frame of ours."""
        op = line["op"]
        if op == "jobs":
            self.jobs(int(line["poll"]), list(line["ids"]), list(line["sizes"]), body)
        elif op == "ack":
            self.spool.ack(int(line["n"]))
        elif op == "stop":
            self.spool.commit()  # it may mean jobs that are on their way
            for job in line["ids"]:
                if job in self.spool.held:
                    self.stops.setdefault(job, False)
            self.tell_stops()
        elif op == "forget":
            self.spool.commit()
            ids = [job for job in line["ids"] if job in self.spool.held]
            for job in ids:
                self.stops.pop(job, None)
            if ids:
                self.record({"op": "returned", "ids": ids}, b"", lambda _: None)
        elif op == "drain":
            self.drain(bool(line["on"]))
        else:
            log("a backend said %r, which means nothing here" % op)

    def drain(self, on: bool) -> None:
        self.draining = on
        if on:
            for poll in list(self.polls.values()):
                self.end_poll(poll)

    def jobs(self, k: int, ids: List[str], sizes: List[int], body: bytes) -> None:
        if len(ids) != len(sizes) or sum(sizes) != len(body) or min(sizes, default=0) < 0:
            raise ValueError("jobs whose sizes do not add up")
        poll = self.polls.pop(k, None)
        if poll is None:
            self.send({"op": "returned", "ids": ids})
            return
        poll.timer.cancel()
        poll.connection.lost = None
        texts, at = [], 0
        for size in sizes:
            texts.append(body[at : at + size])
            at += size
        if ids[poll.slots :]:
            self.send({"op": "returned", "ids": ids[poll.slots :]})
        ids, texts = ids[: poll.slots], texts[: poll.slots]
        if not ids:
            poll.connection.reply(204)
            self.send({"op": "took", "poll": k})
            return
        answer = b"[" + b",".join(texts) + b"]" if poll.batch else texts[0]

        def done(stored: bool) -> None:
            if not stored:
                poll.connection.reply(429)
                self.send({"op": "returned", "ids": ids})
            elif poll.connection.gone:
                self.give_back(ids)
            else:
                poll.connection.reply(200, answer)
                self.send({"op": "took", "poll": k})

        self.record({"op": "taken", "ids": ids}, b"", done)

    def give_back(self, ids: List[str]) -> None:
        def done(stored: bool) -> None:
            for job in ids:
                self.spool.held.pop(job, None)
                self.stops.pop(job, None)
            self.send({"op": "returned", "ids": ids})

        self.record({"op": "returned", "ids": ids}, b"", done)

    # the end

    def terminate(self) -> None:
        """SIGTERM: the handler got it too and ends once its polls are answered."""
        self.ending = True
        for poll in list(self.polls.values()):
            self.end_poll(poll)
        for to in list(self.stop_polls):
            self.end_stop_poll(to)


# the process


def handler_env(env: Dict[str, str], port: int, endpoint: str, worker: str, key: str) -> Json:
    """The handler's environment; what the caller has fixed stays."""
    base = "http://127.0.0.1:%d/v2/%s" % (port, endpoint)
    # the package glues its parameters on with &, so that the ? must be there
    made = {
        "RUNPOD_WEBHOOK_GET_JOB": base + "/job-take/$ID?gpu=",
        "RUNPOD_WEBHOOK_POST_OUTPUT": base + "/job-done/$RUNPOD_POD_ID/$ID?gpu=",
        "RUNPOD_WEBHOOK_POST_STREAM": base + "/job-stream/$RUNPOD_POD_ID/$ID?gpu=",
        "RUNPOD_WEBHOOK_PING": base + "/ping/$RUNPOD_POD_ID?gpu=",
        "RUNPOD_PING_INTERVAL": "5000",
        "RUNPOD_POD_ID": worker,
        "RUNPOD_ENDPOINT_ID": endpoint,
        **env,
        "RUNPOD_AI_API_KEY": key,
    }
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        if env.get(proxy):  # the pings would go there
            direct = env.get("no_proxy") or env.get("NO_PROXY") or ""
            made["no_proxy"] = made["NO_PROXY"] = (direct + ",127.0.0.1").lstrip(",")
    return made


def spawn(argv: List[str], cwd: str, env: Dict[str, str]) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def before_exec() -> None:
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or os.getppid() != parent:
            os._exit(NO_EXEC)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

    # a TERM to the group must reach the handler even if it comes at this moment
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    try:
        return subprocess.Popen(argv, cwd=cwd, env=env, preexec_fn=before_exec)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))


def end_like(code: int) -> NoReturn:
    """End with an exit code, or by the signal that a negative one stands for."""
    remove(SOCKET)
    if code < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the handler's dump is enough
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        time.sleep(5)
        code = 128 - code
    os._exit(code)


async def serve(endpoint: str, worker: str, cwd: str, lease: float, argv: List[str]) -> NoReturn:
    loop = asyncio.get_event_loop()
    try:
        # else glibc keeps what a large result took, some tens of MB
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)
    except AttributeError:
        pass  # another C library
    umask = os.umask(0o077)
    # a key that the caller has fixed is what the handler will send
    key = os.environ.get("RUNPOD_AI_API_KEY", "").strip() or os.urandom(24).hex()
    relay = Relay(Spool(), key)
    remove(SOCKET)
    ours = socket.socket(socket.AF_UNIX)
    ours.bind(SOCKET)  # relative: the path of a socket has 107 bytes at most
    os.umask(umask)
    http = await loop.create_server(lambda: Connection(relay), "127.0.0.1", 0, backlog=512)
    port = http.sockets[0].getsockname()[1]
    loop.add_signal_handler(signal.SIGTERM, relay.terminate)
    env = handler_env(dict(os.environ), port, endpoint, worker, key)
    try:
        child = spawn(argv, cwd, env)
    except (OSError, subprocess.SubprocessError) as error:
        log("the handler could not be started: %s" % error)
        end_like(NO_EXEC)
    relay.pid = child.pid

    def look() -> None:
        if child.poll() is not None:
            relay.spool.commit()  # what it has posted, even if it did not wait for the answer
            if child.returncode == 0 and not relay.k:
                log("the handler ended with code 0 before it asked for a job")
            end_like(child.returncode)

    loop.add_signal_handler(signal.SIGCHLD, look)
    for number in (signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)
    look()
    # only now: who finds the socket finds the handler's pid
    await loop.create_unix_server(lambda: Backend(relay), sock=ours)
    while True:
        await asyncio.sleep(lease / 4)
        if relay.spool.held:
            await renew(lease)


async def renew(lease: float) -> None:
    """A handler at work lives on without a backend; an idle one ends with its lease."""
    try:
        reader, writer = await asyncio.open_unix_connection("sock")
        writer.write(encode({"op": "renew", "ttl_s": lease}))
        await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    except (OSError, asyncio.TimeoutError):
        pass  # no shim, or a stopped one: at the next turn, then


def main(arguments: List[str]) -> int:
    try:
        end = arguments.index("--")
        given = dict(zip(arguments[:end:2], arguments[1:end:2]))
        who = given["--endpoint"], given["--worker"], given["--cwd"]
        lease = float(given.get("--lease", LEASE_S))
        argv = arguments[end + 1 :]
        argv[0]
    except (ValueError, LookupError):
        log("usage: relay.py --endpoint EID --worker WID --cwd DIR [--lease S] -- HANDLER_ARGV...")
        return BAD_USE
    try:
        asyncio.run(serve(*who, lease, argv))
    except OSError as error:
        log("%s: %s" % (error.filename or "relay", error.strerror or error))
    return FAULT


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
