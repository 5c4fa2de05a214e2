"""Tiny packages, and a pip that finds nothing else."""

from __future__ import annotations

import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def wheel(
    folder: Path, name: str, version: str, files: dict[str, str], requires: Sequence[str] = ()
) -> None:
    safe = name.replace("-", "_")
    info = f"{safe}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
    content = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*content, f"{info}/RECORD"))
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{safe}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**content, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


def pip_looks_only_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


@contextmanager
def index(folder: Path) -> Iterator[str]:
    """The address of a package index: each folder in `folder` holds the wheels of the package of its name."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def source(folder: Path, name: str, version: str, build: str) -> None:
    """A package that comes as source: `build` is the body of its own build_wheel."""
    top = f"{name}-{version}"
    tree = folder.parent / f"source-{top}"
    tree.mkdir()
    (tree / "backend.py").write_text(f"def build_wheel(*_, **__):\n    {build}\n")
    (tree / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (tree / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    )
    with tarfile.open(folder / f"{top}.tar.gz", "w:gz") as archive:
        archive.add(tree, top)


def endless(folder: Path, name: str) -> Path:
    """A package whose build never ends; returns the file that is there once it has begun."""
    begun = folder.parent / f"{name}-begun"
    source(folder, name, "1.0", f"import signal; open({str(begun)!r}, 'w').close(); signal.pause()")
    return begun
