"""One file there or back: a part file beside the target, the same SHA-256 on both ends, then its name.

Up to LARGE it goes over the tunnel's own transport by SFTP; what is larger goes by OpenSSH's sftp
where that is installed, which encrypts several times faster, with the same pinned keys. A link that
breaks is waited for, and the transfer goes on where the part ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from nbgpu_backend.errors import BadRequest, DiskError, NbgpuError, NotFound
from nbgpu_backend.providers.ssh import host, openssh
from nbgpu_backend.providers.ssh.errors import LinkCut, TransferFailed, from_line
from nbgpu_backend.providers.ssh.uplink import Up, Uplink, first_line

LARGE = 64 << 20
TOLD_S = 0.25
STEADY_S = 0.3  # what an old session has received may still be written
BLOCK = 1 << 18
REQUESTS = 128  # of 32 KiB, on their way at a time
PAUSE_S = 0.3
TRIES = 5  # without one byte of progress

Json = dict[str, Any]
Say = Callable[[Json], Awaitable[None]]


class Transfer:
    """`request`: op, local, remote, resume. Relative remote paths are below the root there."""

    def __init__(self, uplink: Uplink, folder: Path, request: Json, patience_s: float) -> None:
        self._uplink = uplink
        self._folder = folder
        self._up = request["op"] == "put"
        self._local = Path(request["local"])
        self._remote = str(request["remote"])
        self._resume = bool(request.get("resume", True))
        self._patience_s = patience_s
        self._done = self._size = 0
        self._cancelled = False
        self._settle: Json | None = None  # what is left to be done once all has arrived
        self._program = openssh.PROGRAM if shutil.which(openssh.PROGRAM) else None
        self._child: subprocess.Popen[bytes] | None = None

    def cancel(self) -> None:
        self._cancelled = True
        if self._child is not None:
            with suppress(OSError):
                self._child.kill()

    async def run(self, say: Say) -> Json:
        """-> {"sha256", "size"}; progress is told meanwhile."""
        telling = asyncio.create_task(self._tell(say))
        tries, again = 0, True
        try:
            while True:
                before = self._done
                try:
                    return await (self._put() if self._up else self._get())
                except LinkCut:
                    tries = tries + 1 if self._done == before else 0
                    if tries == TRIES:
                        raise
                    self._resume = True
                    await asyncio.sleep(PAUSE_S)  # the link may not know yet that it is gone
                except TransferFailed:
                    self._settle = None
                    # the part was of another file, or two wrote to it: from the start, once
                    if not again:
                        raise
                    again = self._resume = False
        finally:
            telling.cancel()

    async def _tell(self, say: Say) -> None:
        while True:
            await asyncio.sleep(TOLD_S)
            if not self._size:
                continue  # its link is waited for
            with suppress(OSError):
                await say({"done": self._done, "size": self._size})

    # there

    async def _put(self) -> Json:
        if self._settle is not None:
            with suppress(NotFound):
                return await self._ask(**self._settle)
            self._settle = None
        try:
            seen = self._local.stat()
        except OSError as error:
            raise NotFound(f"{self._local} cannot be read: {error.strerror}.") from None
        if not self._local.is_file():
            raise BadRequest(f"{self._local} is no file.", "Send files one by one, or an archive.")
        target = await self._ask(op="stat", path=self._remote)
        path = PurePosixPath(target["path"])
        if target["type"] == "folder":
            path /= self._local.name
        part = str(path.with_name(f".{path.name}.part"))
        self._size = seen.st_size
        offset = await self._part_there(part) if self._resume else 0
        self._done = offset = offset if offset <= self._size else 0
        hashing = asyncio.create_task(asyncio.to_thread(_digest, self._local))
        try:
            await self._copy(part, self._local, offset)
            sha256 = await hashing
        finally:
            hashing.cancel()
        self._settle = {"op": "settle", "part": part, "path": str(path), "sha256": sha256}
        self._settle["mode"] = seen.st_mode & 0o777
        return await self._ask(**self._settle)

    async def _part_there(self, part: str) -> int:
        size = int((await self._ask(op="stat", path=part)).get("size", 0))
        while size:
            await asyncio.sleep(STEADY_S)
            seen = int((await self._ask(op="stat", path=part)).get("size", 0))
            if seen == size:
                break
            size = seen
        return size

    # back

    async def _get(self) -> Json:
        source = await self._ask(op="stat", path=self._remote)
        if source["type"] != "file":
            raise NotFound(f"{self._remote} is no file on the host.")
        path = self._local
        if path.is_dir():
            path /= PurePosixPath(self._remote).name
        part = path.with_name(f".{path.name}.part")
        self._size = int(source["size"])
        offset = _size(part) if self._resume else 0
        self._done = offset = offset if offset <= self._size else 0
        hashing = asyncio.create_task(self._ask(op="hash", path=self._remote))
        try:
            try:
                await self._copy(source["path"], part, offset)
                there, here = await hashing, await asyncio.to_thread(_digest, part)
            finally:
                hashing.cancel()
            if there["sha256"] != here:
                part.unlink()
                raise TransferFailed(
                    f"{self._remote} arrived with other bytes than it has on the host.",
                    "See that nothing writes to it, and try again.",
                )
            await asyncio.to_thread(_settle, part, path, int(source["mode"]) & 0o777)
        except OSError as error:
            raise DiskError(
                f"{path} cannot be written: {error.strerror}.", "Free some space there."
            ) from None
        return {"sha256": here, "size": self._size}

    # the bytes

    async def _copy(self, remote: str, local: Path, offset: int) -> None:
        """Everything from `offset` on. Raises LinkCut, DiskError, TransferFailed."""
        if self._program is not None and self._size - offset > LARGE:
            lines = [remote, str(local)]
            if not any("\n" in line for line in lines) and await self._by_program(
                remote, local, offset
            ):
                return
            self._program = None
            raise LinkCut("OpenSSH's sftp did not do it.", "It goes by our own connection now.")
        up = await self._uplink.wait(self._patience_s)
        work = self._send_blocks if self._up else self._take_blocks
        await asyncio.to_thread(work, up, remote, local, offset)

    async def _by_program(self, remote: str, local: Path, offset: int) -> bool:
        """False where it moved nothing: it may have no key that is let in."""
        argv, batch = openssh.batch(
            self._uplink.settings, self._folder, self._up, str(local), remote, offset > 0
        )
        # from the main thread: it dies with us
        self._child = child = _begin(argv)
        try:
            running = asyncio.ensure_future(asyncio.to_thread(child.communicate, batch))
            while not (await asyncio.wait({running}, timeout=TOLD_S))[0]:
                with suppress(NbgpuError, OSError):
                    self._done = max(self._done, await self._moved(remote, local))
        finally:
            self._child = None
            if child.poll() is None:
                child.kill()
        if child.returncode == 0:
            self._done = self._size
            return True
        moved = await self._moved(remote, local)
        if moved <= offset or self._cancelled:
            return False
        self._done = moved
        raise LinkCut("OpenSSH's sftp was cut off.", "It goes on where it ended.")

    async def _moved(self, remote: str, local: Path) -> int:
        if not self._up:
            return _size(local)
        return int((await self._ask(op="stat", path=remote)).get("size", 0))

    def _send_blocks(self, up: Up, remote: str, local: Path, offset: int) -> None:
        with (
            _told(up, remote),
            up.sessions.sftp() as client,
            local.open("rb") as source,
            client.open(remote, "r+b" if offset else "wb") as part,
        ):
            if not offset:
                part.chmod(0o600)
            part.set_pipelined(True)
            part.seek(offset)
            source.seek(offset)
            while (data := source.read(BLOCK)) and not self._cancelled:
                part.write(data)
                self._done += len(data)

    def _take_blocks(self, up: Up, remote: str, local: Path, offset: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | (0 if offset else os.O_TRUNC)
        with (
            _told(up, remote),
            up.sessions.sftp() as client,
            os.fdopen(os.open(local, flags, 0o600), "wb") as part,
            client.open(remote, "rb") as source,
        ):
            part.seek(offset)
            source.seek(offset)
            source.prefetch(self._size, max_concurrent_requests=REQUESTS)
            while not self._cancelled and (data := source.read(32768)):
                part.write(data)
                self._done += len(data)

    async def _ask(self, **request: Any) -> Json:
        up = await self._uplink.wait(self._patience_s)
        answer = await first_line(up.channel.mux, request)
        if "error" in answer:
            raise from_line(answer, self._uplink.settings.name)
        return answer


class _told:
    """What paramiko raises, in our words."""

    def __init__(self, up: Up, remote: str) -> None:
        self._up, self._remote = up, remote

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import paramiko

        if error is None or isinstance(error, NbgpuError):
            return
        if not self._up.connection.transport.is_active() or isinstance(error, EOFError):
            raise LinkCut("The connection broke while a file was sent.", "It goes on.") from None
        if isinstance(error, FileNotFoundError):
            raise NotFound(
                f"There is no folder for {self._remote} on the host.", "Make it first."
            ) from None
        if isinstance(error, (OSError, paramiko.SSHException)):
            raise DiskError(
                f"The file could not be copied ({self._remote}: {str(error).rstrip('.')}).",
                "See that both ends have space, and that the folder there can be written.",
            ) from None


def _begin(argv: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=host.tied,
    )


def _size(path: Path) -> int:
    """0 where it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settle(part: Path, path: Path, mode: int) -> None:
    part.chmod(mode)
    for place, flags in ((part, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        fd = os.open(place, flags)
        try:
            with suppress(OSError):
                os.fsync(fd)
        finally:
            os.close(fd)
        if place == part:
            part.replace(path)
