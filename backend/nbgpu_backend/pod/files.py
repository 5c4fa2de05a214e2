"""The pod's files: looked at, listed, taken in and given out.

A file comes in under the name `.NAME.part` beside its place, and takes its place by a rename once all
of it is on the disk. A transfer that broke off is resumed at the size of that part.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat as modes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Callable, Dict, List, Optional, Set

    from nbgpu_backend.pod.wire import Refusal, Wire, io_refusal

    Json = Dict[str, Any]
else:
    from wire import Refusal, io_refusal

CHUNK = 1 << 20
LISTED = 10_000


def text(request: Json, name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str) or not value or "\0" in value:
        raise Refusal("bad_request", "%s is missing" % name)
    return value


def whole(request: Json, name: str, default: Optional[int] = None) -> int:
    value = request.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Refusal("bad_request", "%s is a number of at least 0" % name)
    return value


def part_of(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, ".%s.part" % name)


def digest(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            data = file.read(CHUNK)
            if not data:
                return found.hexdigest()
            found.update(data)


def describe(path: str, shown: str) -> Json:
    """FileInfo of a path, following links; of the link where it leads nowhere. Raises OSError."""
    value: Json = {"path": shown, "exists": False, "folder": False, "size": 0, "mode": 0}
    value.update(mtime_us=0, sha256=None, part=0)
    found: Optional[os.stat_result] = None
    try:
        found = os.stat(path)
    except FileNotFoundError:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            pass
    except NotADirectoryError:
        pass
    if found is not None:
        folder = modes.S_ISDIR(found.st_mode)
        value.update(exists=True, folder=folder, size=0 if folder else found.st_size)
        value.update(mode=modes.S_IMODE(found.st_mode), mtime_us=found.st_mtime_ns // 1000)
    try:
        value["part"] = os.stat(part_of(path)).st_size
    except OSError:
        pass
    return value


class Files:
    """`used` is called while bytes move."""

    def __init__(self, workspace: str, used: Callable[[], None]) -> None:
        self.workspace, self.used = workspace, used
        self.loop = asyncio.get_running_loop()
        self.coming: Set[str] = set()  # parts being written

    def place(self, path: str) -> str:
        return os.path.normpath(os.path.join(self.workspace, path))

    async def stat(self, request: Json) -> Json:
        shown = text(request, "path")
        path = self.place(shown)
        try:
            value = describe(path, shown)
            if request.get("hash") and value["exists"] and not value["folder"]:
                value["sha256"] = await self.loop.run_in_executor(None, digest, path)
        except OSError as error:
            raise io_refusal(error, shown) from error
        return value

    async def list(self, request: Json) -> Json:
        shown = text(request, "path")
        walk = self.walk if request.get("recursive") else self.entries
        try:
            return await self.loop.run_in_executor(None, walk, self.place(shown), shown)
        except OSError as error:
            raise io_refusal(error, shown) from error

    def entries(self, path: str, shown: str) -> Json:
        if not os.path.isdir(path):
            os.stat(path)
            return {"files": [describe(path, shown)], "truncated": False}
        names = sorted(os.listdir(path))
        prefix = "" if shown in (".", "./") else shown
        files = [
            describe(os.path.join(path, name), os.path.join(prefix, name))
            for name in names[:LISTED]
        ]
        return {"files": files, "truncated": len(names) > LISTED}

    def walk(self, path: str, shown: str) -> Json:
        """Depth first; links to folders are not followed."""
        if not os.path.isdir(path):
            return self.entries(path, shown)
        files: List[Json] = []
        prefix = "" if shown in (".", "./") else shown
        os.listdir(path)  # the asked-for folder itself must be readable
        for folder, below, names in os.walk(path):
            below.sort()
            inner = os.path.relpath(folder, path)
            for name in sorted(below + names):
                if len(files) == LISTED:
                    return {"files": files, "truncated": True}
                known = os.path.normpath(os.path.join(prefix, inner, name))
                try:
                    files.append(describe(os.path.join(folder, name), known))
                except OSError:
                    pass  # it went, or is not ours to see
        return {"files": files, "truncated": False}

    async def mkdir(self, request: Json) -> Json:
        shown = text(request, "path")
        path = self.place(shown)
        try:
            os.makedirs(path, exist_ok=True)
            return describe(path, shown)
        except OSError as error:
            raise io_refusal(error, shown) from error

    async def put(self, wire: Wire, request: Json) -> Json:
        shown = text(request, "path")
        size, offset = whole(request, "size"), whole(request, "offset", 0)
        path = self.place(shown)
        part = part_of(path)
        if os.path.isdir(path):
            raise Refusal("conflict", "%s is a folder" % shown)
        if part in self.coming:
            raise Refusal("conflict", "%s is being written by another transfer" % shown, part=0)
        self.coming.add(part)
        try:
            await self.take(wire, request, part, shown, size, offset)
            wanted = request.get("sha256")
            if wanted and await self.loop.run_in_executor(None, digest, part) != wanted:
                os.unlink(part)
                raise Refusal("bad_request", "%s arrived damaged: send it again" % shown)
            mode = request.get("mode")
            if isinstance(mode, int):
                os.chmod(part, mode & 0o7777)
            os.replace(part, path)
            return describe(path, shown)
        except OSError as error:
            raise io_refusal(error, shown) from error
        finally:
            self.coming.discard(part)

    async def take(
        self, wire: Wire, request: Json, part: str, shown: str, size: int, offset: int
    ) -> None:
        """Write the rest of a part and sync it."""
        os.makedirs(os.path.dirname(part) or "/", exist_ok=True)
        if offset == 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        else:
            flags = os.O_WRONLY
            there = os.stat(part).st_size if os.path.exists(part) else 0
            if there != offset or offset > size:
                raise Refusal(
                    "conflict",
                    "%d bytes of %s are there, not %d" % (there, shown, offset),
                    part=there,
                )
        fd = os.open(part, flags, 0o644)
        with os.fdopen(fd, "wb") as file:
            file.seek(offset)
            await self.copy_in(wire, file, size - offset, shown)
            await self.loop.run_in_executor(None, os.fsync, file.fileno())

    async def copy_in(self, wire: Wire, file: BinaryIO, left: int, shown: str) -> None:
        while left:
            data = await wire.read(min(CHUNK, left))
            if not data:
                file.flush()
                raise Refusal("io", "%s broke off, %d bytes are missing" % (shown, left))
            file.write(data)
            left -= len(data)
            self.used()
        file.flush()

    async def get(self, wire: Wire, request: Json) -> None:
        shown = text(request, "path")
        offset = whole(request, "offset", 0)
        path = self.place(shown)
        try:
            file = open(path, "rb")
        except OSError as error:
            raise io_refusal(error, shown) from error
        with file:
            found = os.fstat(file.fileno())
            if modes.S_ISDIR(found.st_mode):
                raise Refusal("bad_request", "%s is a folder" % shown)
            if offset > found.st_size:
                raise Refusal("conflict", "%s has %d bytes only" % (shown, found.st_size))
            head = {"size": found.st_size, "mode": modes.S_IMODE(found.st_mode)}
            await wire.answer(dict(head, mtime_us=found.st_mtime_ns // 1000))
            file.seek(offset)
            left = found.st_size - offset
            while left:
                data = file.read(min(CHUNK, left))
                if not data:
                    raise ConnectionError("%s became shorter" % shown)
                await wire.send(data)
                left -= len(data)
                self.used()
