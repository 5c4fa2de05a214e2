"""Files between here and a pod: whole or not at all, from where they broke off, with a line that moves."""

from __future__ import annotations

import hashlib
import os
import posixpath
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from nbgpu import errors, live
from nbgpu.formats import plural, size, span
from nbgpu.results.pods import Said
from nbgpu.verbs.call import Call, Context, part

if TYPE_CHECKING:
    from nbgpu_backend.schema.pods import FileInfo

    from nbgpu.client import Client

T = TypeVar("T")
PIECE = 1 << 20
TRIES = 5  # of one file whose connection breaks
PAUSE_S = 0.5
NOTICED_S = 1.0
AWAY = ("host_unreachable", "link_cut", "agent_silent")  # codes: the pod, or its host, is not heard
BROKEN_S = 90.0  # by then the other end has noticed, too, that a connection broke
AWAY_S = 1800.0  # so long that is waited for


class Progress:
    """One line for all files of a transfer."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._line = live.line()
        self._began = time.monotonic()
        self._shown = False

    def add(self, count: int) -> None:
        self.done += count
        took = time.monotonic() - self._began
        if took < NOTICED_S:
            return
        self._shown = True
        share = min(1.0, self.done / self.total) if self.total else None
        percent = f" ({share:.0%})" if share is not None else ""
        speed = f"{size(self.done / took)}/s"
        self._line.update(
            f"{self.what}: {size(self.done)} of {size(self.total)}{percent} · {speed} · {span(took)} so far",
            share,
        )

    def wait(self, why: str) -> None:
        self._line.update(f"{self.what}: {size(self.done)} of {size(self.total)} · waiting: {why}")

    def end(self) -> None:
        self._line.end("")


@dataclass(slots=True)
class Moved:
    files: int = 0
    bytes: int = 0  # that went over the wire
    same: int = 0  # files that were there already

    def told(self) -> str:
        same = f", {self.same:,} there already" if self.same else ""
        return f"{plural(self.files, 'file')}, {size(self.bytes)}{same}"


def _stat(client: Client, pod: str, path: str, *, digest: bool = False) -> FileInfo:
    params: dict[str, str | int | list[str]] = {"path": path}
    if digest:
        params["hash"] = "true"
    found: FileInfo = client.send(
        Call("GET", f"/nbgpu/v1/pods/{part(pod)}/stat", "FileInfo", params=params, about=pod)
    )
    return found


def _patiently(progress: Progress, work: Callable[[], T]) -> T:
    """What it returns, once the pod's host is heard. Raises what it raises, in the end also that."""
    end = time.monotonic() + AWAY_S
    while True:
        try:
            return work()
        except errors.ServiceError as error:
            if error.code not in AWAY or time.monotonic() > end:
                raise
            progress.wait(str(error).partition("\n")[0].rstrip("."))
            time.sleep(PAUSE_S)


def digest_of(path: Path) -> str:
    """Hex of SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# put


def put(context: Context, pod: str, source: str, target: str | None) -> Said:
    client, here = context.client, Path(source).expanduser()
    if not here.exists():
        raise errors.UsageProblem(f"There is no {source} here.", "Give its path from this folder.")
    name = here.resolve().name
    there = target or name
    if target is not None and (
        target.endswith("/") or (here.is_file() and _stat(client, pod, target).folder)
    ):
        there = posixpath.join(target, name)
    files = list(_walk(here)) if here.is_dir() else [(here, "")]
    progress = Progress(f"{name} to {pod}", sum(path.stat().st_size for path, _ in files))
    moved = Moved()
    try:
        for path, below in files:
            _put_file(
                client, pod, path, posixpath.join(there, below) if below else there, progress, moved
            )
    except KeyboardInterrupt:
        raise errors.Interrupted(
            f"interrupted; {moved.told()} are in {pod}. The same command goes on from there."
        ) from None
    finally:
        progress.end()
    return Said(f"{source} is {there} in {pod}: {moved.told()}.", path=there, files=moved.files,
                bytes=moved.bytes, same=moved.same)  # fmt: skip


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below it with its path from there, in a fixed order. Links to folders are not followed."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root) / name
            if path.is_file():
                yield path, path.relative_to(folder).as_posix()


def _put_file(
    client: Client, pod: str, path: Path, there: str, progress: Progress, moved: Moved
) -> None:
    """Raises TransferFailed, UsageProblem where a folder is in its way."""
    import httpx

    status = path.stat()
    total, sha = status.st_size, digest_of(path)
    found = _patiently(progress, lambda: _stat(client, pod, there, digest=True))
    if found.folder:
        raise errors.UsageProblem(
            f"{there} is a folder in {pod}.", f"Write {there}/ to put the file into it."
        )
    moved.files += 1
    if found.exists and found.size == total and found.sha256 == sha:
        moved.same += 1
        progress.add(total)
        return
    offset = found.part if found.part <= total else 0
    trouble: Exception | None = None
    tries, given_up_at = 0, time.monotonic() + BROKEN_S
    while tries < TRIES:
        tries += 1
        params: dict[str, str | int | list[str]] = {
            "path": there, "offset": offset, "size": total, "mode": status.st_mode & 0o777,
            "sha256": sha,
        }  # fmt: skip
        call = Call("PUT", f"/nbgpu/v1/pods/{part(pod)}/file", params=params, about=pod)
        before = progress.done
        progress.add(offset)
        try:
            client.octets(call, lambda o=offset: _pieces(path, o, progress), total - offset)  # type: ignore[misc]
            moved.bytes += total - offset
            return
        except httpx.TransportError as error:
            client.reconnect()
            trouble = error
        except errors.ServiceError as error:
            # a part of something else: of another size than we know, or with other contents
            again = error.status_code in (400, 409) and trouble is None and (offset or found.part)
            ours = (
                error.status_code == 409 and trouble is not None
            )  # "another transfer" is this one
            if ours and time.monotonic() < given_up_at:
                tries -= 1
            elif error.code in AWAY:
                given_up_at = time.monotonic() + BROKEN_S
            elif not again:
                raise
            trouble = error
        progress.done = before
        time.sleep(PAUSE_S)
        asked = time.monotonic()
        found = _patiently(progress, lambda: _stat(client, pod, there))
        given_up_at += time.monotonic() - asked
        offset = found.part if found.part <= total else 0
    raise errors.TransferFailed(
        f"{path} did not arrive in {pod} after {TRIES} attempts: {trouble}",
        "The same command goes on where it broke off.",
    )


def _pieces(path: Path, offset: int, progress: Progress) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(PIECE):
            yield piece
            progress.add(len(piece))


# get


def get(context: Context, pod: str, source: str, target: str | None) -> Said:
    client = context.client
    found = _stat(client, pod, source)
    if not found.exists:
        raise errors.NotFound(
            f"There is no {source} in {pod}.", f"See what there is with: %%gpu run {pod} and !ls",
            code="no_file", status_code=404,
        )  # fmt: skip
    name = PurePosixPath(source.rstrip("/")).name or pod
    here = Path(target).expanduser() if target is not None else Path(name)
    if target is not None and (target.endswith("/") or (not found.folder and here.is_dir())):
        here = here / name
    files = _listing(client, pod, source) if found.folder else [("", found)]
    progress = Progress(f"{name} from {pod}", sum(info.size for _, info in files))
    moved = Moved()
    if found.folder:
        here.mkdir(parents=True, exist_ok=True)
    try:
        for below, info in files:
            there = posixpath.join(source, below) if below else source
            _get_file(client, pod, there, here / below if below else here, info, progress, moved)
    except KeyboardInterrupt:
        raise errors.Interrupted(
            f"interrupted; {moved.told()} are here. The same command goes on from there."
        ) from None
    finally:
        progress.end()
    return Said(f"{source} of {pod} is {here}: {moved.told()}.", path=str(here), files=moved.files,
                bytes=moved.bytes, same=moved.same)  # fmt: skip


def _listing(client: Client, pod: str, folder: str) -> list[tuple[str, FileInfo]]:
    """The files below a folder of the pod, by their paths from it."""
    params: dict[str, str | int | list[str]] = {"path": folder, "recursive": "true"}
    found = client.send(
        Call("GET", f"/nbgpu/v1/pods/{part(pod)}/files", "FileList", params=params, about=pod)
    )
    if found.truncated:
        raise errors.TransferFailed(
            f"{folder} has more than {len(found.files):,} files.",
            f"Pack it there first: %%gpu run {pod} and !tar czf out.tgz {folder}",
        )
    files = []
    base = posixpath.normpath(folder)
    for info in found.files:
        if info.folder:
            continue
        below = posixpath.relpath(posixpath.normpath(info.path), base)
        files.append((safe(below), info))
    return files


def safe(below: str) -> str:
    """A path that stays below its folder. Raises TransferFailed: what a pod says is not to be trusted."""
    path = PurePosixPath(below)
    if path.is_absolute() or ".." in path.parts or below in ("", "."):
        raise errors.TransferFailed(
            f"The pod named a file outside of the folder: {below!r}.", "Nothing was written there."
        )
    return below


def _get_file(
    client: Client, pod: str, there: str, here: Path, info: FileInfo, progress: Progress, moved: Moved
) -> None:  # fmt: skip
    """Into `.NAME.part` beside it, renamed when it is whole. Raises TransferFailed."""
    import httpx

    if here.is_dir():
        raise errors.UsageProblem(f"{here} is a folder here.", "Give another place behind.")
    here.parent.mkdir(parents=True, exist_ok=True)
    sha = _patiently(progress, lambda: _stat(client, pod, there, digest=True)).sha256
    moved.files += 1
    if here.exists() and here.stat().st_size == info.size and digest_of(here) == sha:
        moved.same += 1
        progress.add(info.size)
        return
    half = here.with_name(f".{here.name}.part")
    trouble: Exception | None = None
    for _ in range(TRIES):
        offset = half.stat().st_size if half.exists() else 0
        if offset > info.size:
            half.unlink()
            offset = 0
        before = progress.done
        progress.add(offset)
        try:
            moved.bytes += _read(client, pod, there, half, offset, progress.add)
        except httpx.TransportError as error:
            client.reconnect()
            trouble = error
        except errors.ServiceError as error:
            if error.code not in AWAY:
                raise
            trouble = error
        else:
            if sha is None or digest_of(half) == sha:
                half.chmod((info.mode & 0o777) or 0o644)
                half.replace(here)
                return
            half.unlink()  # of another file, or it was written to meanwhile
            trouble = errors.TransferFailed("what came is not what is there.")
            sha = _stat(client, pod, there, digest=True).sha256
        progress.done = before
        time.sleep(PAUSE_S)
        _patiently(progress, lambda: _stat(client, pod, there))
    raise errors.TransferFailed(
        f"{there} did not come from {pod} after {TRIES} attempts: {trouble}",
        "The same command goes on where it broke off.",
    )


def _read(
    client: Client, pod: str, there: str, half: Path, offset: int, told: Callable[[int], Any]
) -> int:
    params: dict[str, str | int | list[str]] = {"path": there, "offset": offset}
    call = Call("GET", f"/nbgpu/v1/pods/{part(pod)}/file", params=params, streamed=True, about=pod)
    count = 0
    with client.streamed(call) as response, half.open("ab") as file:
        for piece in response.iter_bytes(PIECE):
            file.write(piece)
            count += len(piece)
            told(len(piece))
    return count
