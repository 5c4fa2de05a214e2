"""SshSupplies: engines, weights and programs on a host, each brought once.

~/.nbgpu/ there: engines/ (NBGPU_ENGINES), huggingface/ (HF_HOME), models/KEY and apps/KEY with what was
copied, cache/. Installed and fetched is by supply.py, on the host; directories are copied from here.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from nbgpu_backend.domain.supplies import KEPT, Need, Premises, Supplying, Weights
from nbgpu_backend.errors import DiskError, NbgpuError, NotFound, UpstreamError
from nbgpu_backend.providers.ssh import cargo, programs
from nbgpu_backend.providers.ssh.cargo import Cargo
from nbgpu_backend.providers.ssh.link import Link

PROGRAM = "supply.py"
MARGIN_BYTES = 100_000_000  # left free on the disk there
# of this package, what supply.py uses there; patterns
LIB = (
    *("__init__.py", "childside.py", "errors.py", "home.py"),
    *("domain/__init__.py", "domain/supplies.py", "domain/weight_files.py"),
    *(f"environments/{name}.py" for name in ("__init__", "distributions", "pip", "pip_failures")),
    *("environments/pip_venv.py", "environments/venv.py"),
    *("engines/vllm/__init__.py", "engines/vllm/environment.py", "engines/vllm/installer.py"),
    *("engines/vllm/inside.py", "engines/vllm/options.py", "engines/vllm/sizing.py"),
    "engines/vllm/pins-*.txt",
    *("engines/handler/__init__.py", "engines/handler/environment.py"),
    *("engines/handler/installer.py", "engines/handler/pip_failures.py"),
    *("engines/handler/requirements.py", "engines/handler/sdk.py"),
    *(f"hub/{name}.py" for name in ("__init__", "fetch", "partial", "refusals")),
)
Told = Callable[[Supplying], None]


class SshSupplies:
    """A SupplyHost. What it knows is forgotten with the backend, and looked for again when asked."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._known: dict[Need, tuple[Cargo | None, Premises]] = {}
        self._bringing: dict[Need, asyncio.Lock] = {}

    def here(self, need: Need) -> Premises | None:
        """None, too, where files of a folder have changed since."""
        if need not in self._known:
            return None
        before, premises = self._known[need]
        try:
            return premises if cargo.of(need) == before else None
        except (NbgpuError, OSError):
            return None

    def forget(self, need: Need) -> None:
        self._known.pop(need, None)

    async def bring(self, need: Need, told: Told) -> Premises:
        lock = self._bringing.setdefault(need, asyncio.Lock())
        if lock.locked():
            told(Supplying("another endpoint brings it: waiting for that"))
        async with lock:
            if (known := self.here(need)) is not None:
                return known
            load = await asyncio.to_thread(_load, need)
            if need.source == "directory":
                # an engine that cannot be had is told before gigabytes are copied
                await self._there(need, None, told)
            copied = None if load is None else await self._copy(need, load, told)
            premises = await self._there(need, copied, told)
            self._known[need] = load, premises
            return premises

    # --- there

    async def _there(self, need: Need, copied: str | None, told: Told) -> Premises:
        request = {
            "do": "bring", "engine": need.engine, "version": need.version, "source": need.source,
            "repo": need.repo, "commit": need.commit, "name": need.name,
            "requirements": need.requirements, "constraints": need.constraints,
            "folder": str(need.folder), "copied": copied, "keep": KEPT,
            "token": os.environ.get("HF_TOKEN") if need.source == "hub" else None,
        }  # fmt: skip
        async with aclosing(programs.lines(self._link, PROGRAM, request)) as lines:
            async for line in lines:
                if line["kind"] == "done":
                    return _premises(line)
                told(Supplying(line["text"], line["done"], line["total"]))
        raise UpstreamError(f"The look at {self._link.name} ended without a result.", "Try again.")

    async def _copy(self, need: Need, load: Cargo, told: Told) -> str:
        """Where it lies then, below the root there."""
        kind = "models" if need.source == "directory" else "apps"
        place = f"{kind}/{load.key}"
        if await self._is(place, "folder"):
            return place
        async with self._held(kind, told):
            if await self._is(place, "folder"):
                return place
            await self._check_space(load, f"{place}.part")
            if kind == "models":
                await self._copy_files(load, place, told)
            else:
                await self._copy_archive(load, place, told)
        return place

    @asynccontextmanager
    async def _held(self, folder: str, told: Told) -> AsyncIterator[None]:
        """Nobody else copies into that folder there, of whatever backend."""
        request = {"do": "hold", "folder": folder}
        async with aclosing(programs.lines(self._link, PROGRAM, request)) as lines:
            async for line in lines:
                if line["kind"] == "held":
                    break
                told(Supplying(line["text"]))
            yield

    async def _copy_files(self, load: Cargo, place: str, told: Told) -> None:
        """One by one, each gone on with where a cut left it."""
        part, done = f"{place}.part", 0

        def moved(sent: int, of: int) -> None:
            told(Supplying("copying the weights", done + sent, load.bytes))

        for name, size, _ in load.files:
            there = f"{part}/{name}"
            moved(0, size)
            if (await self._call("stat", path=there)).get("size") != size:
                await self._call("mkdir", path=str(PurePosixPath(there).parent))
                await self._link.put(load.folder / name, there, progress=moved)
            done += size
        await self._call("rename", path=part, to=place)

    async def _copy_archive(self, load: Cargo, place: str, told: Told) -> None:
        """As one file: a program may have hundreds."""
        with tempfile.TemporaryDirectory(dir=self._link.folder, prefix=".cargo-") as folder:
            archive = Path(folder) / "archive.tar"
            await asyncio.to_thread(cargo.pack, load, archive)
            told(Supplying("copying the program", 0, load.bytes))

            def moved(sent: int, of: int) -> None:
                told(Supplying("copying the program", sent * load.bytes // of, load.bytes))

            await self._link.put(archive, f"{place}.tar", progress=moved)
        request = {"do": "unpack", "archive": f"{place}.tar", "folder": place}
        async with aclosing(programs.lines(self._link, PROGRAM, request)) as lines:
            async for _ in lines:
                pass

    async def _check_space(self, load: Cargo, part: str) -> None:
        """`part` is what a cut has left of it."""
        missing = load.bytes - int((await self._call("size", path=part))["bytes"])
        free = int((await self._call("hello", tools=False))["disk_free"])
        if missing + MARGIN_BYTES > free:
            raise DiskError(
                f"{load.folder} needs {missing / 1e9:.1f} GB more on {self._link.name}, which has "
                f"{free / 1e9:.1f} GB free.",
                "Free some space there, in the home of that user.",
            )

    async def _is(self, path: str, kind: str) -> bool:
        return bool((await self._call("stat", path=path))["type"] == kind)

    async def _call(self, op: str, **request: Any) -> dict[str, Any]:
        return await self._link.call({"op": op, **request}, patience_s=programs.LONG_S)


def _load(need: Need) -> Cargo | None:
    try:
        return cargo.of(need)
    except OSError as error:
        raise NotFound(f"{error.filename} cannot be read: {error.strerror}.") from None


def _premises(line: Mapping[str, Any]) -> Premises:
    given = {key: value for key, value in line.items() if key != "kind"}
    weights = given["weights"]
    given["weights"] = None if weights is None else Weights(weights["bytes"], weights["dtype"])
    given["flags"] = frozenset(given["flags"])
    return Premises(**given)
