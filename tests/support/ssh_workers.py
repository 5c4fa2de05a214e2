"""A backend whose workers run on hosts that are reached over a real SSH server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbgpu_backend.home import Home

from tests.support.backend import BackendProcess
from tests.support.ssh_pods import add_host
from tests.support.sshd import Sshd


def engines_there(server: Sshd) -> None:
    """Engines of that user are those of this machine: building one takes two minutes."""
    folder = Home.default().engines
    (server.home / ".bashrc").write_text(f"export NBGPU_ENGINES='{folder}'\n")


class HostsBackend(BackendProcess):
    """`servers` by the names of the hosts; added before it starts."""

    def __init__(self, home: Path, servers: dict[str, Sshd]) -> None:
        super().__init__(home)
        self.servers = servers
        for name, server in servers.items():
            add_host(self, server, name)

    def deploy_on(self, name: str, on: str, **body: Any) -> dict[str, Any]:
        extras = {"place": {"on": on}, **body.pop("nbgpu", {})}
        return self.deploy(name, nbgpu=extras, **body)

    def workers(self, name: str) -> list[dict[str, Any]]:
        """As REST v2 shows them, with our part of each as `nbgpu`."""
        found: list[dict[str, Any]] = self.get(f"/v2/serverless/{name}/workers")["workers"]
        return found

    def worker_at(self, name: str, place: str) -> dict[str, Any] | None:
        return next((w for w in self.workers(name) if w["nbgpu"]["place"] == place), None)

    def states(self, name: str) -> dict[str, str]:
        """Place -> state of its worker."""
        return {w["nbgpu"]["place"]: w["nbgpu"]["state"] for w in self.workers(name)}

    def instances(self, host: str) -> list[str]:
        """What is left of workers there."""
        folder = self.servers[host].nbgpu / "instances"
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
