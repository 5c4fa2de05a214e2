"""LocalPods: the folders of pods and volumes on this machine, their environments, the way to their agents.

NBGPU_HOME/pods/ID/         one pod
    home/                   its home; its own environment at home/venv
    run/                    sockets and spool of its agent
    tmp/                    its /tmp
NBGPU_HOME/volumes/ID/      one volume
NBGPU_HOME/agents/HASH/     the agent's code, as it was when a pod started with it
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import nbgpu_backend
from nbgpu_backend import errors
from nbgpu_backend.children import lines
from nbgpu_backend.errors import DiskError, NbgpuError, UpstreamError
from nbgpu_backend.home import Home
from nbgpu_backend.providers import sandbox
from nbgpu_backend.providers.base import Gpu, PodCommand, PodPlan, Separation
from nbgpu_backend.providers.local import gpus, separation
from nbgpu_backend.providers.local.pod_container import ContainerPods, Folders, for_images
from nbgpu_backend.providers.local.pod_environment import PodEnvironment

INSIDE_HOME, INSIDE_RUN, INSIDE_CODE, INSIDE_WORK = (
    "/home/pod",
    "/run/nbgpu",
    "/run/agent",
    "/workspace",
)
INSIDE_PIP = "/run/pip.conf"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# how this machine reaches the network and package indexes; a pod reaches them so, too
PASSED = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_INDEX_URL",
    "PIP_CONSTRAINT", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
)  # fmt: skip


class LocalPods:
    """A PodHost. It remembers nothing but what separates pods, which it found out by trying."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._separation: Separation | None = None
        self._contained = ContainerPods()

    async def separation(self, image: str | None = None) -> Separation:
        if image is not None:
            return await self._contained.separation(image)
        if self._separation is None:
            self._separation = await separation.find_out()
        return self._separation

    async def gpus(self) -> Sequence[Gpu]:
        return await gpus.probe()

    async def no_images(self) -> str:
        return await self._contained.why_not()

    async def prepare(self, plan: PodPlan, told: Callable[[str], None]) -> None:
        folder = self._folder(plan.id)
        try:
            await asyncio.to_thread(self._make, folder, plan)
        except OSError as error:
            raise _disk(error) from None
        if plan.image is not None:
            env, folders = await self._for_container(plan)
            await self._contained.prepare(plan, folders, env, told)
            return
        inside = (await self._paths(plan))["home"] + "/venv"
        request = {
            "home": str(self._home.root),
            "requirements": list(plan.requirements),
            "venv": str(folder / "home" / "venv"),
            "inside": inside,
        }
        async with aclosing(lines("nbgpu_backend.providers.local.pod_builder", request)) as said:
            async for line in said:
                if line["kind"] == "error":
                    kind: type[NbgpuError] = getattr(errors, line["error"])
                    raise kind(line["what"], line["next"], code=line["code"])
                if line["kind"] == "done":
                    return
                told(line["text"])
        raise UpstreamError(
            f"Making the environment of {plan.name} ended without a result.", "Try again."
        )

    async def command(
        self, plan: PodPlan, config: Mapping[str, Any], env: Mapping[str, str]
    ) -> PodCommand:
        if plan.image is not None:
            passed, folders = await self._for_container(plan)
            engine = await self._contained.engine()
            return self._contained.command(engine, plan, folders, config, {**passed, **env})
        folder, paths = self._folder(plan.id), await self._paths(plan)
        code = await asyncio.to_thread(self._agent)
        venv = f"{paths['home']}/venv"
        whole = {
            **_passed(),
            "PATH": f"{venv}/bin:{PATH}",
            "HOME": paths["home"],
            "USER": "pod",
            "VIRTUAL_ENV": venv,
            "SHELL": shutil.which("bash") or "/bin/sh",
            "TMPDIR": "/tmp" if paths["sandboxed"] else str(folder / "tmp"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **env,
            "NBGPU_AGENT": json.dumps({**config, "run": paths["run"], "workspace": paths["work"]}),
        }
        if _pip_settings() is not None:
            whole["PIP_CONFIG_FILE"] = INSIDE_PIP if paths["sandboxed"] else str(_pip_settings())
        if plan.gpus:
            whole["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in plan.gpus)
        argv = [f"{venv}/bin/python", f"{INSIDE_CODE if paths['sandboxed'] else code}/agent.py"]
        if paths["sandboxed"]:
            argv = sandbox.wrap(separation.here(), self._room(plan, folder, code), argv)
        return PodCommand(
            argv=tuple(argv),
            env=whole,
            cwd=str(folder / "run"),
            spare_leader=bool(paths["sandboxed"]),
            busy_file=str(folder / "run" / "busy"),
        )

    async def clear(self, instance: str) -> None:
        await self._contained.clear(instance)

    async def clear_others(self, installation: str, alive: Callable[[], Collection[str]]) -> None:
        await self._contained.clear_others(installation, alive)

    async def connect(self, pod_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = os.open(self._folder(pod_id) / "run", os.O_PATH | os.O_DIRECTORY)
        try:
            # the path of a socket has 107 bytes at most, a folder's any number
            return await asyncio.open_unix_connection(
                f"/proc/self/fd/{folder}/agent", limit=64 << 20
            )
        finally:
            os.close(folder)

    async def kernel_sockets(self, pod_id: str) -> str:
        return str(self._folder(pod_id) / "run" / "k")

    def workspace(self, volume: str) -> str:
        return str(self._volume(volume))

    async def erase(self, pod_id: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._folder(pod_id), ignore_errors=True)

    async def erase_volume(self, volume: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._volume(volume), ignore_errors=True)

    async def volume_bytes(self, volume: str) -> int:
        return await asyncio.to_thread(_size, self._volume(volume))

    # --- below: what blocks, and what is only looked at

    def _folder(self, pod_id: str) -> Path:
        return self._home.root / "pods" / pod_id

    def _volume(self, volume: str) -> Path:
        return self._home.root / "volumes" / volume

    def _make(self, folder: Path, plan: PodPlan) -> None:
        for name in ("home", "run"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        (folder / "tmp").mkdir()
        folder.chmod(0o700)
        self._volume(plan.volume).mkdir(parents=True, exist_ok=True)
        self._volume(plan.volume).parent.chmod(0o700)

    async def _for_container(self, plan: PodPlan) -> tuple[dict[str, str], Folders]:
        """What its environment begins with, and its folders."""
        folder, code = self._folder(plan.id), await asyncio.to_thread(self._agent)
        passed = {**_passed(), "USER": "pod", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        if (settings := _pip_settings()) is not None:
            passed["PIP_CONFIG_FILE"] = str(settings)
        if plan.gpus:
            passed["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in plan.gpus)
        env, shown = for_images(passed)
        work = self._volume(plan.volume)
        return env, Folders(folder / "home", folder / "run", work, code, shown)

    async def _paths(self, plan: PodPlan) -> dict[str, Any]:
        """What the pod calls its folders."""
        if (await self.separation()).level == "bubblewrap":
            return {"home": INSIDE_HOME, "run": INSIDE_RUN, "work": INSIDE_WORK, "sandboxed": True}
        folder = self._folder(plan.id)
        return {
            "home": str(folder / "home"),
            "run": str(folder / "run"),
            "work": str(self._volume(plan.volume)),
            "sandboxed": False,
        }

    def _room(self, plan: PodPlan, folder: Path, code: Path) -> sandbox.Room:
        shared = PodEnvironment.of(self._home, plan.requirements)
        base = Path(os.path.realpath(shared.python)).parent.parent
        shown = [(str(shared.folder), str(shared.folder)), (str(code), INSIDE_CODE)]
        if (settings := _pip_settings()) is not None:
            shown.append((str(settings), INSIDE_PIP))
        if not base.is_relative_to("/usr"):
            shown.insert(0, (str(base), str(base)))
        owned = [
            (str(folder / "home"), INSIDE_HOME),
            (str(folder / "run"), INSIDE_RUN),
            (str(folder / "tmp"), "/tmp"),
            (str(self._volume(plan.volume)), INSIDE_WORK),
        ]
        return sandbox.Room(
            plan.name,
            shown,
            owned,
            plan.network == "host",
            [gpu.index for gpu in plan.gpus],
            cwd=INSIDE_RUN,
        )

    def _agent(self) -> Path:
        """The folder with the agent's code; a new one for each version, so that nothing changes under a
        pod that runs."""
        package = Path(nbgpu_backend.__file__).parent
        files = [*sorted((package / "pod").glob("*.py")), package / "schema" / "parcel.py"]
        texts = {path.name: path.read_bytes() for path in files if path.name != "__init__.py"}
        digest = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:16]
        place = self._home.root / "agents" / digest
        if not place.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=f".{digest}.", dir=place.parent))
            fresh.chmod(0o755)
            for name, text in texts.items():
                (fresh / name).write_bytes(text)
            try:
                fresh.rename(place)
            except OSError:  # another one was quicker
                shutil.rmtree(fresh, ignore_errors=True)
        return place


def _passed() -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED if name in os.environ}


def _pip_settings() -> Path | None:
    """Those of the user, whose home a pod does not see: they say where packages come from."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    candidates = (config / "pip" / "pip.conf", Path.home() / ".pip" / "pip.conf")
    return next((path for path in candidates if path.is_file()), None)


def _disk(error: OSError) -> DiskError:
    return DiskError(
        f"The pod's folder cannot be written: {error.strerror or error}.",
        "Free some space, or set NBGPU_HOME to a folder on a disk with more.",
    )


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).lstat().st_blocks * 512
            except OSError:
                continue
    return total
