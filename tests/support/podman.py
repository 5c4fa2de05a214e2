"""A podman that works in the tests: storage of its own, and an image made of this machine's Python.

The settings are those of a user (CONTAINERS_CONF, CONTAINERS_STORAGE_CONF). Its runtime is runc behind a
script that takes the raising of limits out, for which many a machine that runs tests lacks the right.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

RUNTIME = """#!{python}
import json, os, sys
words = sys.argv[1:]
for flag in ("-b", "--bundle"):
    if "create" in words and flag in words:
        path = os.path.join(words[words.index(flag) + 1], "config.json")
        with open(path) as file:
            config = json.load(file)
        config["process"].pop("rlimits", None)
        with open(path, "w") as file:
            json.dump(config, file)
os.execv({runc!r}, [{runc!r}, *words])
"""
SETTINGS = """[engine]
runtime = "tests"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "{folder}/tmp"
[engine.runtimes]
tests = ["{folder}/runtime"]
"""
STORAGE = """[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""
REGISTRIES = """[[registry]]
location = "{address}"
insecure = true
"""
IMAGE = "localhost/nbgpu-test:1"
BARE = "localhost/nbgpu-bare:1"  # a shell, no Python
PROGRAMS = ("sh", "sleep", "setsid", "true")
SPARED = ("debugpy", "jedi")  # large, and a kernel works without
LEFT_OUT = ("__pycache__", "site-packages", "test", "idlelib", "tkinter", "turtledemo", "ensurepip",
            "lib2to3", "config-")  # fmt: skip


@dataclass
class Podman:
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["podman", *words], env={**os.environ, **self.environment}, capture_output=True,
            text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip() or done.stderr.strip()

    def import_image(self, name: str, *packages: str, python: bool = True) -> None:
        path = self.folder / "image.tar"
        with tarfile.open(path, "w") as tar:
            root = Root(tar)
            for program in PROGRAMS:
                root.program(program)
            if python:
                root.python(*packages)
            root.libraries()
        self("import", str(path), name)
        path.unlink()

    def containers(self) -> list[str]:
        return self("ps", "--all", "--format", "{{.Names}}").split()


@contextmanager
def podman() -> Iterator[Podman]:
    """With IMAGE and BARE. Skips where no container can be run."""
    # a short path: with a longer one podman waits 20 s for the end of each container
    with TemporaryDirectory(prefix="podman-") as folder, _podman(Path(folder)) as made:
        yield made


@contextmanager
def _podman(folder: Path) -> Iterator[Podman]:
    for program in ("podman", "runc"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: install it (tests/debian-packages.txt)")
    made = Podman(folder)
    runtime = folder / "runtime"
    runtime.write_text(RUNTIME.format(python=sys.executable, runc=shutil.which("runc")))
    runtime.chmod(0o755)
    for name, variable, text in (
        ("containers.conf", "CONTAINERS_CONF", SETTINGS),
        ("storage.conf", "CONTAINERS_STORAGE_CONF", STORAGE),
    ):
        (folder / name).write_text(text.format(folder=folder))
        made.environment[variable] = str(folder / name)
    registries = folder / "registries.conf"
    registries.touch()
    made.environment["CONTAINERS_REGISTRIES_CONF"] = str(registries)
    try:
        try:
            made.import_image(BARE, python=False)
            made("run", "--rm", "--network", "none", BARE, "true")
        except AssertionError as error:
            pytest.skip(f"podman runs no containers here: {str(error).splitlines()[-1]}")
        made.import_image(IMAGE, "ipykernel", "pip")
        yield made
    finally:
        made("rm", "--all", "--force", check=False)
        made("rmi", "--all", "--force", check=False)
        mounted = folder / "graph" / "overlay"
        subprocess.run(["umount", str(mounted)], capture_output=True, check=False)


@contextmanager
def registry(made: Podman, image: str) -> Iterator[str]:
    """The name of `image` in a registry that has nothing else."""
    folder = made.folder / "pushed"
    made("push", image, f"dir:{folder}")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            manifest = (folder / "manifest.json").read_bytes()
            body, kind = b"{}", "application/json"
            if self.path.startswith("/v2/there/manifests/"):
                body, kind = manifest, "application/vnd.oci.image.manifest.v1+json"
            elif self.path.startswith("/v2/there/blobs/sha256:"):
                body, kind = (folder / self.path[-64:]).read_bytes(), "application/octet-stream"
            elif self.path != "/v2/":
                body = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
            self.send_response(404 if b"errors" in body[:10] else 200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"127.0.0.1:{server.server_port}"
        (made.folder / "registries.conf").write_text(REGISTRIES.format(address=address))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"{address}/there:1"
        finally:
            server.shutdown()
            thread.join()


class Root:
    """A root file system in a tar: programs with the libraries that they need, and this Python."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._linked: list[str] = []  # what may need libraries
        self._there: set[str] = set()
        for name in ("tmp", "etc", "proc", "sys", "dev", "run"):
            self._special(name, tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
        for name in ("bin", "lib", "lib64"):
            self._special(name, tarfile.SYMTYPE, linkname=f"usr/{name}")
        text = b"an image of the tests\n"
        told = tarfile.TarInfo("etc/image")
        told.size = len(text)
        tar.addfile(told, io.BytesIO(text))

    def program(self, name: str) -> None:
        self._add(os.path.realpath(shutil.which(name) or name), f"/usr/bin/{name}")

    def python(self, *packages: str) -> None:
        base, program = sys.base_prefix, os.path.realpath(sys.executable)
        library = sysconfig.get_path("stdlib")
        self._add(program, program)
        self._special("usr/bin/python3", tarfile.SYMTYPE, linkname=program)
        for folder, folders, files in os.walk(library):
            folders[:] = [name for name in folders if not name.startswith(LEFT_OUT)]
            for name in files:
                self._add(f"{folder}/{name}", f"{folder}/{name}")
        site = sysconfig.get_path("purelib", vars={"base": base})
        for distribution in needed(*packages):
            for file in distribution.files or ():
                here = str(file.locate())
                if "__pycache__" not in here and ".." not in file.parts and os.path.isfile(here):
                    self._add(here, f"{site}/{file}")

    def libraries(self) -> None:
        said = subprocess.run(["ldd", *self._linked], capture_output=True, text=True, check=False)
        for path in sorted(set(re.findall(r"(?:=> |^\t)(/\S+)", said.stdout, re.MULTILINE))):
            if "site-packages" in path:
                continue  # a package brought it
            # /lib is /usr/lib there, whatever it is here
            there = path if path.startswith(("/usr", sys.base_prefix)) else f"/usr{path}"
            self._add(os.path.realpath(path), there)

    def _special(self, name: str, kind: bytes, *, linkname: str = "", mode: int = 0o755) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode = kind, linkname, mode
        self._tar.addfile(entry)

    def _add(self, here: str, there: str) -> None:
        if there in self._there:
            return
        self._there.add(there)
        self._tar.add(here, there.lstrip("/"), recursive=False)
        if os.access(here, os.X_OK) or ".so" in here:
            self._linked.append(here)


def needed(*names: str) -> list[importlib.metadata.Distribution]:
    """Those that are installed here, with all that they need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    left = list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name not in found and name not in SPARED:
            try:
                found[name] = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                continue  # of another system
            requires = [line for line in found[name].requires or () if "extra ==" not in line]
            left += [re.split(r"[^\w.-]", line)[0] for line in requires]
    return list(found.values())
