"""Own servers: met, added, looked at, checked, removed. What is known of one stands in its host.json."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

import nbgpu_backend
from nbgpu_backend.billing.rates import UNSET
from nbgpu_backend.control.endpoints import Endpoints
from nbgpu_backend.control.host_views import findings, host_view, no_tunnel, offset_ms
from nbgpu_backend.control.pods import Pods
from nbgpu_backend.control.services import Services
from nbgpu_backend.domain.placement import LOCAL
from nbgpu_backend.domain.pricing import plain
from nbgpu_backend.errors import BadRequest, Conflict, DiskError, NbgpuError, NotFound
from nbgpu_backend.providers.ssh import supplies
from nbgpu_backend.providers.ssh.contact import fingerprint, pin, resolve
from nbgpu_backend.providers.ssh.errors import HostKeyChanged
from nbgpu_backend.providers.ssh.link import Link
from nbgpu_backend.providers.ssh.settings import Hop, HostSettings
from nbgpu_backend.schema import hosts as schema
from nbgpu_backend.store.state import Draft
from nbgpu_backend.store.tables import settings as stored

USED = "place"  # the key of that setting
CONNECT_S = 60.0  # for the first time: the code is copied
TRIES, AGAIN_S = 20, 0.1
LOOK_S = 2.0  # between looks at what the tunnels, which are on this machine, say


class Hosts:
    def __init__(self, services: Services, pods: Pods, endpoints: Endpoints) -> None:
        self._services = services
        self._pods = pods
        self._endpoints = endpoints
        self._folder = services.home.hosts
        self._adding: set[str] = set()
        self._seen: dict[str, schema.Host] = {}  # as each was last seen

    def load(self) -> None:
        """Before pods are: each host is a place. A newer nbgpu has other code to copy."""
        for name in self.names():
            path = self._folder / name / "host.json"
            try:
                settings = json.loads(path.read_text())
                _write(path, {**settings, "code": code()})
            except (OSError, ValueError):
                pass  # its tunnel says what is wrong with the file
            self._services.sites.add(name)
            self._see(self._view(name, {"state": "connecting"}))

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self._folder.glob("*/host.json"))

    async def contact(self, asked: schema.AskContact) -> schema.Contact:
        """Nothing is logged in to but jump hosts whose keys are among the accepted ones.

        Raises BadRequest, HostUnreachable, and for jump hosts what a login raises.
        """
        settings, keys = await asyncio.to_thread(_meet, asked)
        target = settings.target
        return schema.Contact(
            user=target.user,
            address=target.address,
            port=target.port,
            keys=[schema.ShownKey(where=w, kind=k, fingerprint=f) for w, k, f, _ in keys],
            more=len(keys) <= len(settings.jump),
        )

    async def add(self, wanted: schema.AddHost) -> schema.Host:
        """Kept once it was logged in to; what fails leaves nothing. Raises Conflict, and what the link says."""
        name = wanted.name
        if name == LOCAL or name in self._adding or name in self.names():
            raise Conflict(
                f"There is a place '{name}' already.", "Choose another name.", code="name_taken"
            )
        self._adding.add(name)
        try:
            await self._add(name, wanted)
        finally:
            self._adding.discard(name)
        return await self.show(name)

    async def _add(self, name: str, wanted: schema.AddHost) -> None:
        services = self._services
        settings, keys = await asyncio.to_thread(_meet, wanted)
        shown = [print_ for _, _, print_, _ in keys]
        if shown != wanted.fingerprints or len(keys) <= len(settings.jump):
            where = keys[-1][0]
            raise HostKeyChanged(
                f"{where} shows the key {shown[-1]} now, not the one that was accepted.",
                "Look at its key there: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
            )
        lines = [line for _, _, _, line in keys]
        jump = tuple(pin(hop, line) for hop, line in zip(settings.jump, lines, strict=False))
        whole = replace(
            settings, name=name, target=pin(settings.target, lines[-1]), jump=jump, code=code()
        )
        folder = self._folder / name
        link = Link(folder)
        text = f"The host {name} is added: {whole.target.user}@{whole.target.where}"
        try:
            await asyncio.to_thread(_keep, folder, whole)
            await link.hello(patience_s=CONNECT_S)
            await services.state.commit(None, Draft(services.clock.now(), "host.added", text))
        except BaseException:
            await self._forget(link, folder)
            raise
        services.sites.add(name)

    async def listing(self) -> schema.HostList:
        return schema.HostList(hosts=list(await asyncio.gather(*map(self.show, self.names()))))

    def rows(self) -> list[schema.Host]:
        """All, as they were last seen; what is there and its price, as of now."""
        return [
            host.model_copy(update=self._there(name)) for name, host in sorted(self._seen.items())
        ]

    async def watch(self) -> None:
        """For ever. Who watches is told when a tunnel says something else of its host."""
        while True:
            await asyncio.gather(*map(self._look, set(self.names()) - self._adding))
            await asyncio.sleep(LOOK_S)

    async def show(self, name: str) -> schema.Host:
        """As its tunnel knows it; a host that is not heard is not waited for. Raises NotFound."""
        link = self._link(name)
        return self._see(self._view(name, await link.status()))

    async def check(self, name: str) -> schema.Host:
        """Ask it anew, and say what it lacks. Raises what keeps it from being reached."""
        link = self._link(name)
        facts = await link.hello(patience_s=CONNECT_S)
        status = {**await link.status(), "facts": facts}
        found = findings(facts, offset_ms(status))
        return self._view(name, status).model_copy(update={"findings": found})

    async def reconnect(self, name: str) -> schema.Host:
        """Try now, also after a refusal."""
        await self._link(name).reconnect(wait_s=10.0)
        return await self.show(name)

    async def remove(self, name: str) -> None:
        """Raises Conflict while it has pods, or endpoints that run nowhere else."""
        link = self._link(name)
        if there := [*self._on(name), *self._served(name)]:
            raise Conflict(
                f"{name} is where {', '.join(there)} {'runs' if len(there) == 1 else 'run'}.",
                f"Delete that first: nbgpu delete {there[0]}",
                code="host_in_use",
            )
        if await self.place() == name:
            await self.use(LOCAL)
        self._services.sites.remove(name)
        await self._forget(link, self._folder / name)
        self._seen.pop(name, None)
        draft = Draft(self._services.clock.now(), "host.removed", f"The host {name} is removed")
        await self._services.state.commit(None, draft)

    async def hang_up(self) -> None:
        """End the tunnels. What runs on the hosts runs on."""
        for name in self.names():
            with contextlib.suppress(NbgpuError):
                await self._link(name).end()

    async def place(self) -> str:
        """Where pods go that name no place."""
        rows = await self._services.state.rows(select(stored).where(stored.c.key == USED))
        used = str(rows[0]["value"]) if rows else LOCAL
        return used if self._services.sites.find(used) is not None else LOCAL

    async def use(self, name: str) -> None:
        """From now on. Raises NotFound."""
        services, now = self._services, self._services.clock.now()
        services.sites.get(name)
        values = {"value": name, "source": "set by hand", "at_us": now}
        query = insert(stored).values(key=USED, **values)
        query = query.on_conflict_do_update(index_elements=["key"], set_=values)

        def change(connection: Connection) -> None:
            connection.execute(query)

        text = f"Pods and endpoints that name no place go to {name} now"
        await services.state.commit(change, Draft(now, "settings.changed", text))

    # --- below

    def _link(self, name: str) -> Link:
        if name not in self.names():
            known = ", ".join(self.names()) or "none yet"
            raise NotFound(
                f"There is no host '{name}'. There are: {known}.",
                f"Add it with: nbgpu host add {name} user@address",
                code="host_not_found",
            )
        return Link(self._folder / name)

    def _on(self, name: str) -> list[str]:
        return [control.name for control in self._pods.all() if control.site.name == name]

    def _served(self, name: str) -> list[str]:
        """Names of endpoints that have workers there, or can have them there only."""
        return [
            control.name
            for control in self._endpoints.all()
            if control.stock.places() == [name]
            or any(worker.site.name == name for worker in control.live_workers())
        ]

    async def _forget(self, link: Link, folder: Path) -> None:
        for _ in range(TRIES):  # somebody who asked in between has started its tunnel again
            with contextlib.suppress(NbgpuError, OSError):
                await link.end()
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            if _gone(folder):
                return
            await asyncio.sleep(AGAIN_S)

    async def _look(self, name: str) -> None:
        try:
            if (site := self._services.sites.find(name)) is not None:
                await site.look()
            await self.show(name)
        except NbgpuError as error:
            self._see(self._view(name, no_tunnel(error)))
        except OSError:
            pass  # it was removed meanwhile

    def _see(self, host: schema.Host) -> schema.Host:
        if host != self._seen.get(host.name) and host.name in self.names():
            self._seen[host.name] = host
            self._services.pulse.touch(host.name)
        return host

    def _view(self, name: str, status: dict[str, Any]) -> schema.Host:
        try:
            settings = HostSettings.load(self._folder / name)
        except BadRequest as error:
            settings, status = HostSettings(name, Hop("", "")), no_tunnel(error)
        host = host_view(name, settings, status, self._there(name))
        if host.facts is None and (seen := self._seen.get(name)) is not None:
            host.facts = seen.facts
        return host

    def _there(self, name: str) -> dict[str, Any]:
        rate = self._services.rate(name)
        return {
            "pods": self._on(name),
            "endpoints": self._served(name),
            "rate_per_hour": plain(rate.per_hour),
            "priced": rate.source != UNSET,
        }


def _gone(folder: Path) -> bool:
    return not folder.exists()


def code() -> dict[str, str]:
    """What is copied to a host, by its name there."""
    package = Path(nbgpu_backend.__file__).parent
    files = [path for path in sorted((package / "pod").glob("*.py")) if path.stem != "__init__"]
    files += [package / "schema" / "parcel.py", package / "providers" / "ssh" / "room.py"]
    files += [package / f"{name}.py" for name in ("relay", "supply", "parent", "nursery")]
    files.append(package / "engines" / "vllm" / "preimport.py")
    here = {path.name: str(path) for path in files}
    lib = [path for pattern in supplies.LIB for path in sorted(package.glob(pattern))]
    return here | {f"lib/{path.relative_to(package.parent)}": str(path) for path in lib}


def _meet(
    asked: schema.AskContact | schema.AddHost,
) -> tuple[HostSettings, list[tuple[str, str, str, str]]]:
    """The settings, and (where, kind, fingerprint, line for known_hosts) of each hop, up to the first
    whose key is not the accepted one: what lies behind it is not asked for through it. Blocks."""
    settings, accepted = resolve(asked.target), asked.fingerprints
    if asked.key_file is not None:
        path = Path(asked.key_file).expanduser()
        if not path.is_file():
            raise BadRequest(f"There is no key file {path}.", "Correct --key.")
        settings = replace(settings, target=replace(settings.target, key_file=str(path)))
    if asked.jump is not None:
        through = resolve(asked.jump)
        settings = replace(settings, jump=(*through.jump, through.target))
    before: list[Hop] = []
    keys = []
    for number, hop in enumerate((*settings.jump, settings.target)):
        kind, print_, line = fingerprint(hop.address, hop.port, jump=tuple(before))
        keys.append((hop.where, kind, print_, line))
        if number >= len(accepted) or accepted[number] != print_:
            break
        before.append(pin(hop, line))
    return settings, keys


def _keep(folder: Path, settings: HostSettings) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)  # one without host.json is what a crash left
        folder.parent.chmod(0o700)
        _write(folder / "host.json", settings.to_json())
    except OSError as error:
        raise DiskError(
            f"{folder} cannot be written: {error.strerror}.", "Free some space there."
        ) from None


def _write(path: Path, settings: dict[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(settings, indent=1))
    fresh.chmod(0o600)
    fresh.rename(path)
