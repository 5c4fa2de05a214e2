"""All that the kernel said, numbered, on the disk: `run/spool/<first number>.ndjson`.

An item is a line: {"n", "run", "at_us", "type", "content", "metadata", "buffers"}, the fields in this
order. Segments are dropped from the oldest on where there is more than the limit, or no room on the
disk. Lines reach a file whole; a torn one (the machine died) is cut off when the spool is opened.

Nothing is kept in memory but what is about to be written. Readers read the files, each at its pace.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Tuple

    Held = Tuple[str, bytes, List[bytes]]

SEGMENTS = 16
SEGMENT_LEAST = 64 << 10
MERGE_S = 0.03  # how long a piece of text waits for more of it
MERGE_LIMIT = 128 << 10
WRITE_AT = 1 << 20  # bytes of lines that are not left for later
READ = 256 << 10
RETRY_S = 2.0  # between tries to write on a full disk
FULL = (errno.ENOSPC, errno.EDQUOT)


def log(text: str) -> None:
    try:
        os.write(2, ("agent: %s\n" % text).encode("utf-8", "replace"))
    except OSError:
        pass  # a full disk


def now_us() -> int:
    return time.time_ns() // 1000


def number(line: bytes) -> int:
    """Of an item's line. Raises ValueError."""
    if not line.startswith(b'{"n":'):
        raise ValueError(line[:20])
    return int(line[5 : line.index(b",", 5)])


def make_line(
    n: int, run: str, kind: str, content: bytes, metadata: bytes, buffers: bytes
) -> bytes:
    return (
        b'{"n":%d,"run":"%s","at_us":%d,"type":"%s","content":%s,"metadata":%s,"buffers":%s}\n'
        % (
            n,
            run.encode(),
            now_us(),
            kind.encode(),
            content,
            metadata,
            buffers,
        )
    )


def gap_line(n: int, first: int, last: int) -> bytes:
    """Tells that the items from `first` to `last` are not there any more."""
    return make_line(n, "", "gap", b'{"first":%d,"last":%d}' % (first, last), b"{}", b"[]")


def belongs(line: bytes, run: bytes) -> bool:
    """Whether an item is of a run."""
    return line.startswith(b',"run":"%s",' % run, line.find(b",", 5, 40))


def ends_run(line: bytes) -> bool:
    return line.find(b',"type":"run_ended",', 0, 200) > 0


class Segment:
    def __init__(self, folder: str, first: int, size: int = 0) -> None:
        self.path = os.path.join(folder, "%020d.ndjson" % first)
        self.first, self.size = first, size


class Spool:
    """`seq` is the last number given. Raises OSError when its folder cannot be made."""

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.segment_limit = max(SEGMENT_LEAST, limit // SEGMENTS)
        self.loop = asyncio.get_running_loop()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.segments: List[Segment] = []
        self.fd = -1
        self.seq = 0
        self.held: Optional[Held] = None  # text that waits for more
        self.held_size = 0
        self.lines: List[Tuple[int, bytes]] = []
        self.lines_size = 0
        self.soon: Optional[asyncio.Handle] = None
        self.timer: Optional[asyncio.TimerHandle] = None
        self.lost: Optional[Tuple[int, int]] = None  # what a full disk did not take
        self.retry_at = 0.0
        self.complained = False
        self.changed = asyncio.Event()
        self.closed = False
        self.recover()

    # opening

    def recover(self) -> None:
        for name in sorted(os.listdir(self.folder)):
            stem, _, end = name.partition(".")
            if end == "ndjson" and stem.isdigit():
                size = os.path.getsize(os.path.join(self.folder, name))
                self.segments.append(Segment(self.folder, int(stem), size))
        while self.segments:
            last = self.segments[-1]
            fd = os.open(last.path, os.O_RDWR | os.O_APPEND)
            self.seq, size = last_item(fd, last.size)
            if size < last.size:
                log("%d torn bytes of the spool were cut off" % (last.size - size))
                os.ftruncate(fd, size)
                last.size = size
            if size:
                self.fd = fd
                return
            os.close(fd)
            os.unlink(last.path)
            self.segments.pop()
            self.seq = last.first - 1  # a number is never given twice

    @property
    def first(self) -> int:
        """The oldest number that is there, or the next one."""
        return self.segments[0].first if self.segments else self.seq + 1

    # adding

    def stream(self, run: str, name: bytes, text: bytes) -> None:
        """A piece of text, as the inside of a JSON string. It joins the former piece of its kind."""
        held = self.held
        if held is not None and held[0] == run and held[1] == name:
            held[2].append(text)
            self.held_size += len(text)
            if self.held_size >= MERGE_LIMIT:
                self.settle()
            return
        self.settle()
        self.held, self.held_size = (run, name, [text]), len(text)
        if self.timer is None:
            self.timer = self.loop.call_later(MERGE_S, self.merged)

    def settle(self) -> None:
        """Make an item of the text that waits."""
        if self.held is None:
            return
        run, name, texts = self.held
        self.held, self.held_size = None, 0
        self.put(run, "stream", b'{"name":"%s","text":"%s"}' % (name, b"".join(texts)))

    def add(
        self, run: str, kind: str, content: bytes, metadata: bytes = b"{}", buffers: bytes = b"[]"
    ) -> int:
        """An item of JSON texts without line breaks. -> its number"""
        self.settle()
        self.put(run, kind, content, metadata, buffers)
        return self.seq

    def put(
        self, run: str, kind: str, content: bytes, metadata: bytes = b"{}", buffers: bytes = b"[]"
    ) -> None:
        self.seq += 1
        line = make_line(self.seq, run, kind, content, metadata, buffers)
        self.lines.append((self.seq, line))
        self.lines_size += len(line)
        if self.lines_size >= WRITE_AT:
            self.write()
        elif self.soon is None:
            self.soon = self.loop.call_soon(self.write)

    def merged(self) -> None:
        self.timer = None
        self.settle()

    def flush(self) -> None:
        """Write all that waits."""
        self.settle()
        self.write()

    # writing

    def write(self) -> None:
        if self.soon is not None:
            self.soon.cancel()
            self.soon = None
        lines, self.lines, self.lines_size = self.lines, [], 0
        if not lines or self.closed:
            return
        if self.lost is not None and self.loop.time() < self.retry_at:
            self.lose(lines)
            return
        while lines:
            room = self.segment_limit - (self.segments[-1].size if self.segments else 0)
            count = size = 0
            for _, line in lines:
                if count and size + len(line) > room:
                    break
                count += 1
                size += len(line)
            if not self.segments or (self.segments[-1].size and size > room):
                if not self.begin_segment(lines[0][0]):
                    self.lose(lines)
                    return
                continue
            if not self.append(lines[:count]):
                self.lose(lines)
                return
            lines = lines[count:]
        self.tell()

    def begin_segment(self, first: int) -> bool:
        if self.lost is not None:
            first = self.lost[0]
        segment = Segment(self.folder, first)
        try:
            fd = os.open(segment.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            self.failed(error)
            return False
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = fd
        self.segments.append(segment)
        while len(self.segments) > 1 and sum(x.size for x in self.segments) > self.limit:
            self.drop()
        return True

    def drop(self) -> None:
        try:
            os.unlink(self.segments[0].path)
        except OSError:
            pass
        del self.segments[0]

    def append(self, lines: List[Tuple[int, bytes]]) -> bool:
        segment = self.segments[-1]
        data = b"".join([line for _, line in lines])
        if self.lost is not None:
            data = gap_line(self.lost[1], *self.lost) + data
        while True:
            done = 0
            try:
                while done < len(data):
                    done += os.write(self.fd, data[done:] if done else data)
                break
            except OSError as error:
                try:
                    os.ftruncate(self.fd, segment.size)
                except OSError:
                    pass
                if error.errno in FULL and len(self.segments) > 1:
                    self.drop()  # what is new is worth more than what is old
                    continue
                self.failed(error)
                return False
        segment.size += len(data)
        if self.lost is not None:
            log("the spool is written again; items %d to %d are lost" % self.lost)
            self.lost, self.complained = None, False
        return True

    def failed(self, error: OSError) -> None:
        self.retry_at = self.loop.time() + RETRY_S
        if not self.complained:
            self.complained = True
            log("the spool cannot be written (%s): output is not kept" % error.strerror)

    def lose(self, lines: List[Tuple[int, bytes]]) -> None:
        first = lines[0][0] if self.lost is None else self.lost[0]
        self.lost = (first, lines[-1][0])
        self.tell()

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def waits(self) -> bool:
        """Whether something is not written yet."""
        return bool(self.lines) or self.held is not None

    async def wait(self, seconds: float) -> bool:
        """Until something was added, at most so long. -> whether it was"""
        try:
            await asyncio.wait_for(self.changed.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.flush()
        self.closed = True
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def last_item(fd: int, size: int) -> Tuple[int, int]:
    """(number, end) of the last whole item of a file; (0, 0) if there is none."""
    end = size
    while end > 0:
        start, data = end, b""
        # back to the break before the last one
        while start > 0 and data.find(b"\n", 0, len(data) - 1) < 0:
            step = min(READ, start)
            start -= step
            data = os.pread(fd, step, start) + data
        at = data.rfind(b"\n", 0, len(data) - 1) + 1
        line = data[at:]
        if line.endswith(b"\n"):
            try:
                value = json.loads(line.decode("utf-8"))
                return int(value["n"]), end
            except (ValueError, KeyError, TypeError):
                pass
        end = start + at
    return 0, 0


class Reader:
    """Items in order, each once, from after `since`."""

    def __init__(self, spool: Spool, since: int) -> None:
        self.spool, self.last = spool, since
        self.fd, self.offset = -1, 0
        self.segment: Optional[Segment] = None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self) -> bytes:
        """Some whole lines, b"" when all that is there was read."""
        while True:
            if self.segment is None:
                gap = self.locate()
                if gap or self.segment is None:
                    return gap
            data = self.lines()
            if data:
                return data
            following = [x for x in self.spool.segments if x.first > self.segment.first]
            if not following:
                return self.gap(self.spool.lost[1]) if self.spool.lost else b""
            self.close()
            self.segment = None

    def gap(self, until: int) -> bytes:
        if until <= self.last:
            return b""
        first, self.last = self.last + 1, until
        return gap_line(until, first, until)

    def locate(self) -> bytes:
        """Open the segment of the next item. -> a gap's line if that was dropped"""
        segments = self.spool.segments
        if not segments:
            return self.gap(self.spool.lost[1]) if self.spool.lost else b""
        gap = b""
        if self.last + 1 < segments[0].first:
            gap = self.gap(segments[0].first - 1)
        found = segments[0]
        for segment in segments:
            if segment.first <= self.last + 1:
                found = segment
        try:
            self.fd = os.open(found.path, os.O_RDONLY)
        except OSError as error:
            log("%s: %s" % (found.path, error.strerror))
            return gap
        self.segment = found
        self.offset = self.search(found.size)
        return gap

    def search(self, size: int) -> int:
        """Where the first item after `last` begins."""
        low, high = 0, size  # line starts: before `low` all are read, at `high` none is
        while low < high:
            middle = (low + high) // 2
            start = self.line_start(middle, low)
            line = os.pread(self.fd, 64, start)
            try:
                n = number(line)
            except ValueError:
                return low
            if n > self.last:
                high = start
            else:
                low = self.line_end(start, size)
        return low

    def line_start(self, offset: int, least: int) -> int:
        while offset > least:
            step = min(4096, offset - least)
            at = os.pread(self.fd, step, offset - step).rfind(b"\n")
            if at >= 0:
                return offset - step + at + 1
            offset -= step
        return least

    def line_end(self, offset: int, size: int) -> int:
        while offset < size:
            data = os.pread(self.fd, READ, offset)
            at = data.find(b"\n")
            if at >= 0:
                return offset + at + 1
            if not data:
                break
            offset += len(data)
        return size

    def lines(self) -> bytes:
        assert self.segment is not None
        left = self.segment.size - self.offset
        size = READ
        while left > 0:
            data = os.pread(self.fd, min(size, left), self.offset)
            end = data.rfind(b"\n") + 1
            if not end:
                if len(data) >= left or not data:
                    return b""
                size *= 4
                continue
            data = data[:end]
            self.offset += end
            last = number(data[data.rfind(b"\n", 0, end - 1) + 1 :][:64])
            if last <= self.last:  # a gap's line that was told already
                left = self.segment.size - self.offset
                continue
            self.last = last
            return data
        return b""
