"""A loopback stand-in of the model hub, as far as huggingface_hub asks.

    with Hub() as hub:
        hub.add("lab/tiny", {"config.json": b"{}", "model.safetensors": b"…"})
        os.environ["HF_ENDPOINT"] = hub.endpoint

Large files are "LFS": their etag is a SHA-256 and their content comes from another address by a
redirect, as on the real hub. `served` counts the bytes of content that went out, by file name.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LFS_FROM = 64 * 1024  # bytes
PIECE = 64 * 1024


@dataclass
class Repo:
    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    claims: dict[str, int] = field(default_factory=dict)  # file -> a size that is not true

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class Hub:
    """`rate` is bytes a second per connection for content (None: as fast as it goes)."""

    token = "hf_right"

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self.repos: dict[str, Repo] = {}
        self.served: Counter[str] = Counter()
        self.requests: list[str] = []
        self.status: int | None = None  # answer everything with this
        self._cut: int | None = None
        self._guard = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, repo: str, files: Mapping[str, bytes], ref: str = "main", **more: Any) -> str:
        """A new commit of `repo` under `ref`; returns its id."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(files.items()):
            digest.update(f"{name}\n".encode() + content)
        commit = digest.hexdigest()
        known = self.repos.setdefault(repo, Repo(**more))
        known.commits[commit] = dict(files)
        known.refs[ref] = commit
        return commit

    def cut_once_after(self, count: int) -> None:
        """Close the next connection that has served `count` bytes of content."""
        self._cut = count

    def served_all(self) -> int:
        with self._guard:
            return sum(self.served.values())

    def take(self, name: str, count: int, so_far: int) -> bool:
        """Count bytes that go out; False: cut the connection now."""
        with self._guard:
            self.served[name] += count
            if self._cut is not None and so_far >= self._cut:
                self._cut = None
                return False
            return True


def _lfs(content: bytes) -> bool:
    return len(content) >= LFS_FROM


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_id(content: bytes) -> str:
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            if hub.status is not None:
                self._json({"error": "asked for"}, hub.status)
            elif parts[:2] == ["api", "models"]:
                self._api("/".join(parts[2:4]), parts[4:])
            elif len(parts) >= 5 and parts[2] == "resolve":
                self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            elif parts[0] == "cdn":
                self._content("/".join(parts[1:3]), parts[3], "/".join(parts[4:]))
            else:
                self._missing("RepoNotFound", "Repository not found")

        do_HEAD = do_GET

        def _api(self, name: str, rest: list[str]) -> None:
            repo = self._allowed(name)
            if repo is None:
                return
            revision = "/".join(rest[1:]) if rest else "main"
            commit = repo.resolve(revision)
            if commit is None:
                self._missing("RevisionNotFound", f"Invalid rev id: {revision}")
            elif rest and rest[0] == "tree":
                listing = [self._entry(*file) for file in sorted(repo.commits[commit].items())]
                for entry in listing:
                    entry["size"] = repo.claims.get(entry["path"], entry["size"])
                self._json(listing)
            else:
                files = [{"rfilename": file} for file in sorted(repo.commits[commit])]
                self._json({"id": name, "modelId": name, "sha": commit, "siblings": files,
                            "private": repo.private, "gated": repo.gated and "manual",
                            "disabled": False, "tags": [], "downloads": 0, "likes": 0})  # fmt: skip

        def _entry(self, path: str, content: bytes) -> dict[str, Any]:
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content),
                                     "oid": _git_id(content)}  # fmt: skip
            if _lfs(content):
                entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
            return entry

        def _resolve(self, name: str, revision: str, file: str) -> None:
            repo = self._allowed(name)
            if repo is None:
                return
            if repo.gated and not self._authorized():
                self._json({"error": "Access is restricted"}, 403, {"X-Error-Code": "GatedRepo"})
                return
            commit = repo.resolve(revision)
            if commit is None:
                self._missing("RevisionNotFound", f"Invalid rev id: {revision}")
                return
            content = repo.commits[commit].get(file)
            if content is None:
                self._missing("EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            elif _lfs(content):
                quoted = urllib.parse.quote(f"/cdn/{name}/{commit}/{file}")
                self.send_response(302)
                self.send_header("Location", hub.endpoint + quoted)
                self.send_header("X-Linked-Etag", f'"{_sha256(content)}"')
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._content(name, commit, file)

        def _content(self, name: str, commit: str, file: str) -> None:
            content = hub.repos[name].commits[commit][file]
            first, last = 0, len(content) - 1
            wanted = self.headers.get("Range")
            if wanted and self.command == "GET":
                begin, _, end = wanted.removeprefix("bytes=").partition("-")
                first, last = int(begin), int(end) if end else last
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("ETag", f'"{_sha256(content) if _lfs(content) else _git_id(content)}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if self.command == "GET":
                self._send(file, content[first : last + 1])

        def _send(self, file: str, content: bytes) -> None:
            for start in range(0, len(content), PIECE):
                piece = content[start : start + PIECE]
                try:
                    self.wfile.write(piece)
                except OSError:  # the client is gone
                    self.close_connection = True
                    return
                if not hub.take(file, len(piece), start + len(piece)):
                    self.close_connection = True
                    return
                if hub.rate and _lfs(content):
                    time.sleep(len(piece) / hub.rate)

        def _allowed(self, name: str) -> Repo | None:
            repo = hub.repos.get(name)
            if repo is None or (repo.private and not self._authorized()):
                # the real hub says 401 for both, so as not to tell which exist
                self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
                return None
            return repo

        def _authorized(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {hub.token}"

        def _missing(self, code: str, what: str, more: Mapping[str, str] | None = None) -> None:
            self._json({"error": what}, 404, {"X-Error-Code": code, **(more or {})})

        def _json(
            self, value: object, status: int = 200, headers: Mapping[str, str] | None = None
        ) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for header in (headers or {}).items():
                self.send_header(*header)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
