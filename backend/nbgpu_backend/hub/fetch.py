"""The child process that talks to the hub: `python -m nbgpu_backend.hub.fetch`.

It takes one JSON object on stdin and prints JSON objects, one a line:

    {"repo", "revision", "cache_dir", "commit"?, "plan_only"?, "token"?}
    -> {"kind": "plan", "commit", "path", "bytesTotal", "bytesCached"}
    -> {"kind": "progress", "bytesDone", "bytesTotal"}         at most 5 a second
    -> {"kind": "done", "commit", "path"}
    -> {"kind": "error", "code", "what", "next"}                exit code 1

`commit` pins what `revision` meant when it was planned. `path` is the snapshot folder of the
commit in the Hugging Face cache layout. HF_ENDPOINT,
HF_TOKEN and the proxies come from the environment. End of file on stdin ends the process, so that
it dies with its parent; what has been fetched stays and is resumed.
"""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgpu_backend.childside import Say, printer
from nbgpu_backend.childside import request as ask_parent
from nbgpu_backend.domain.weight_files import needed
from nbgpu_backend.hub.partial import Blob, RemoteFile, fetch
from nbgpu_backend.hub.refusals import refusal

AT_A_TIME = 4  # connections; one is seldom enough to fill a line, many annoy the hub
EVERY_S = 0.2
MARGIN_BYTES = 100_000_000  # left free on the disk
HTTP_LIMIT = 50_000_000_000  # the hub hands larger files out through its own protocol only


@dataclass(frozen=True, slots=True)
class Request:
    repo: str
    revision: str
    cache_dir: Path
    commit: str | None = None
    plan_only: bool = False
    token: str | None = None

    @classmethod
    def of(cls, given: dict[str, Any]) -> Request:
        return cls(
            given["repo"],
            given["revision"],
            Path(given["cache_dir"]),
            given.get("commit"),
            bool(given.get("plan_only", False)),
            given.get("token") or None,
        )


class Refused(Exception):
    """An end that is no exception of the hub: code, what, next."""


class Fetch:
    """One repository at one revision."""

    def __init__(self, request: Request, say: Say) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.file_download import repo_folder_name

        self._request = request
        self._say = say
        self._api = HfApi(token=request.token)
        folder = repo_folder_name(repo_id=request.repo, repo_type="model")
        self._folder: Path = request.cache_dir / folder
        self._there: dict[str, int] = {}  # file -> bytes

    def run(self) -> None:
        """Plan, then fetch unless only the plan is asked for. Raises Refused and the hub's own."""
        from huggingface_hub import constants, errors

        try:
            commit, files = self._look()
        except Exception as error:
            # gated, unknown and such are answers; no answer at all leaves what is in the cache
            answered = isinstance(error, errors.HfHubHTTPError)
            if not answered and (cached := self._cached_snapshot()):
                self._say_plan(cached.name, _size(cached), _size(cached))
                if not self._request.plan_only:
                    self._say({"kind": "done", "commit": cached.name, "path": str(cached)})
                return
            raise
        total = sum(file.size for file in files)
        self._there = {file.name: self._blob(file).cached(file.size) for file in files}
        self._check_space(total - self._done)
        self._say_plan(commit, total, self._done)
        if self._request.plan_only:
            return
        if self._done < total and constants.is_offline_mode():
            raise errors.OfflineModeIsEnabled()
        self._fetch_all(commit, files, total)
        self._say({"kind": "done", "commit": commit, "path": str(self._snapshot(commit))})

    def _look(self) -> tuple[str, list[RemoteFile]]:
        """The commit behind the revision and the files to fetch."""
        from huggingface_hub import RepoFile, get_hf_file_metadata, hf_hub_url

        request = self._request
        revision = request.commit or request.revision
        commit = self._api.model_info(request.repo, revision=revision, timeout=20).sha
        assert commit is not None
        tree = self._api.list_repo_tree(request.repo, recursive=True, revision=commit)
        found = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        names = needed(found)
        if not names:
            raise Refused(
                "no_weights",
                f"{request.repo} holds no weights that an engine here can load (no safetensors, "
                "no PyTorch files).",
                "Look for the original repository of the model: GGUF, ONNX and such are copies.",
            )
        files = [_remote(found[name]) for name in names]
        # the listing of a gated repository is public, its files are not: ask for one now
        largest = max(files, key=lambda file: file.size)
        url = hf_hub_url(request.repo, largest.name, revision=commit)
        get_hf_file_metadata(url, token=request.token, timeout=20)
        return commit, files

    def _fetch_all(self, commit: str, files: list[RemoteFile], total: int) -> None:
        pool = ThreadPoolExecutor(AT_A_TIME)
        # the small ones first: their failure is told at once
        order = sorted(files, key=lambda file: file.size)
        waiting = {
            pool.submit(self._fetch_one, commit, file) for file in order if file.size <= HTTP_LIMIT
        }
        self._tell(waiting, total)
        from huggingface_hub import snapshot_download

        # links the blobs into the snapshot of the commit, and fetches what is over the limit
        snapshot_download(
            self._request.repo,
            revision=commit,
            cache_dir=self._request.cache_dir,
            token=self._request.token,
            allow_patterns=[_literal(file.name) for file in files],
        )
        self._write_ref(commit)

    def _fetch_one(self, commit: str, file: RemoteFile) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        blob = self._blob(file)
        if blob.path.exists():
            return
        # the address on the hub, not the signed one behind it: a retry after an hour works, too
        url = hf_hub_url(self._request.repo, file.name, revision=commit)
        headers = build_hf_headers(token=self._request.token)
        fetch(url, file, blob, headers, lambda there: self._there.update({file.name: there}))

    def _tell(self, waiting: set[Future[None]], total: int) -> None:
        """Print progress until all have ended. The first failure ends the process' work."""
        told = -1
        while waiting:
            ended, waiting = wait(waiting, timeout=EVERY_S, return_when=FIRST_EXCEPTION)
            for future in ended:
                if error := future.exception():
                    raise error  # the others end with the process
            if (done := self._done) != told:
                told = done
                self._say({"kind": "progress", "bytesDone": told, "bytesTotal": total})

    @property
    def _done(self) -> int:
        return sum(self._there.values())

    def _check_space(self, missing: int) -> None:
        cache = self._request.cache_dir
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if missing and missing + MARGIN_BYTES > free:
            raise Refused(
                "disk",
                f"{self._request.repo} needs {missing / 1e9:.1f} GB more and {cache} has "
                f"{free / 1e9:.1f} GB free.",
                "Free some space, or set HF_HOME to a folder on another disk.",
            )

    def _say_plan(self, commit: str, total: int, cached: int) -> None:
        self._say(
            {
                "kind": "plan",
                "commit": commit,
                "path": str(self._snapshot(commit)),
                "bytesTotal": total,
                "bytesCached": cached,
            }
        )

    def _blob(self, file: RemoteFile) -> Blob:
        return Blob(self._folder / "blobs" / file.blob)

    def _snapshot(self, commit: str) -> Path:
        return self._folder / "snapshots" / commit

    def _write_ref(self, commit: str) -> None:
        """What the branch or tag meant: without the hub, the cache answers by it."""
        revision = self._request.revision
        if revision == commit:
            return
        ref = self._folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f".{ref.name}.{os.getpid()}")
        new.write_text(commit)
        new.replace(ref)

    def _cached_snapshot(self) -> Path | None:
        """The complete snapshot of the revision in the cache, without asking the hub."""
        from huggingface_hub import snapshot_download

        try:
            revision = self._request.commit or self._request.revision
            ref = self._folder / "refs" / revision
            commit = ref.read_text().strip() if ref.is_file() else revision
            cached = self._snapshot(commit)
            names = [_literal(str(file.relative_to(cached))) for file in _files(cached)]
            if not needed(names):
                return None
            # compares with the listing that was stored when it was fetched
            snapshot_download(
                self._request.repo,
                revision=commit,
                cache_dir=self._request.cache_dir,
                local_files_only=True,
                allow_patterns=names,
            )
            return cached
        except (OSError, ValueError):
            return None


def _remote(entry: Any) -> RemoteFile:
    sha256 = entry.lfs.sha256 if entry.lfs is not None else None
    return RemoteFile(entry.path, entry.size, sha256 or entry.blob_id, sha256)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def _literal(name: str) -> str:
    """A pattern that matches this name only."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def main() -> None:
    say = printer()
    request = Request.of(ask_parent())
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import constants

    # 10 MB by default: what a kill loses, and the step of the progress, of each connection
    constants.DOWNLOAD_CHUNK_SIZE = 256 * 1024
    code = 0
    try:
        Fetch(request, say).run()
    except Refused as ended:
        code, (name, what, then) = 1, ended.args
        say({"kind": "error", "code": name, "what": what, "next": then})
    except BaseException as error:
        code = 1
        name, what, then = refusal(error, request.repo, request.revision, constants.ENDPOINT)
        say({"kind": "error", "code": name, "what": what, "next": then})
    # threads that still wait for the network must not hold the exit
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
