"""First contact with a host: what `user@host:port` means, and which key it shows. Nothing is logged in to
but jump hosts."""

from __future__ import annotations

import getpass
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbgpu_backend.errors import BadRequest
from nbgpu_backend.providers.ssh.settings import Hop, HostSettings, Times
from nbgpu_backend.providers.ssh.settings import fingerprint as printed

TARGET = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@\s]+)@)?(?:\[(?P<six>[^\]\s]+)\]|(?P<host>[^:@\s/]+))(?::(?P<port>\d+))?/?"
)
JUMPS = 8


def fingerprint(
    address: str, port: int = 22, *, jump: Sequence[Hop] = (), times: Times | None = None
) -> tuple[str, str, str]:
    """(type, "SHA256:…", line for known_hosts) of the key that it shows. Blocks.

    The jump hosts before it are logged in to, so their keys must be pinned: ask for theirs first.
    Raises HostUnreachable, and for jump hosts what connect() raises.
    """
    from nbgpu_backend.providers.ssh import transport

    times = times or Times()
    before = transport.connect(jump[-1], jump[:-1], times) if jump else None
    try:
        through = before.transport if before is not None else None
        shown = transport.negotiate(Hop(address, "", port), through, times)
        try:
            key = shown.get_remote_server_key()
        finally:
            shown.close()
    finally:
        if before is not None:
            before.close()
    name = address if port == 22 else f"[{address}]:{port}"
    return (
        key.get_name(),
        printed(key.asbytes()),
        f"{name} {key.get_name()} {key.get_base64()}",
    )


def resolve(
    target: str, *, name: str = "", ssh_config: Path | None = Path("~/.ssh/config")
) -> HostSettings:
    """`[user@]host[:port]`, where host may be a name of ~/.ssh/config: HostName, Port, User,
    IdentityFile and ProxyJump are taken from there. No key is pinned yet. Raises BadRequest."""
    lookup = _Lookup(ssh_config)
    hop, jumps = lookup.hop(target)
    return HostSettings(name or _part(target, "host"), hop, tuple(jumps))


def pin(hop: Hop, line: str) -> Hop:
    """The same, with the key of that known_hosts line."""
    return replace(hop, known_hosts=line)


class _Lookup:
    def __init__(self, path: Path | None) -> None:
        self._path = path.expanduser() if path is not None else None
        self._config = self._load()

    def _load(self) -> Any:
        import paramiko

        if self._path is None or not self._path.is_file():
            return paramiko.SSHConfig()
        try:
            return paramiko.SSHConfig.from_path(str(self._path))
        except (OSError, paramiko.SSHException, ValueError) as error:
            raise BadRequest(
                f"{self._path} cannot be read: {error}.", "Correct it, or give user@host:port."
            ) from None

    def hop(self, target: str, depth: int = 0) -> tuple[Hop, list[Hop]]:
        """The machine, and those before it, the nearest first."""
        asked = _part(target, "host")
        found = self._entry(asked)
        if found.get("proxycommand", "none").lower() != "none":
            raise BadRequest(
                f"{asked} has a ProxyCommand in {self._path}, which nbgpu does not run.",
                "Use ProxyJump there, or give the address itself.",
            )
        port = _part(target, "port") or found.get("port") or "22"
        hop = Hop(
            address=found.get("hostname") or asked,
            user=_part(target, "user") or found.get("user") or getpass.getuser(),
            port=int(port),
            key_file=_first_file(found.get("identityfile") or ()),
        )
        through = found.get("proxyjump", "none")
        if through.lower() == "none":
            return hop, []
        if depth == JUMPS:
            raise BadRequest(f"The jump hosts of {asked} lead in a circle.", f"See {self._path}.")
        before: list[Hop] = []
        for number, each in enumerate(through.split(",")):
            last, its_own = self.hop(each.strip(), depth + 1)
            # only the first of a list is reached as its own entry says
            before += [*its_own, last] if number == 0 else [last]
        return hop, before

    def _entry(self, asked: str) -> dict[str, Any]:
        import paramiko

        try:
            return dict(self._config.lookup(asked))
        except (paramiko.SSHException, ImportError, OSError) as error:
            raise BadRequest(
                f"{self._path} cannot be used for {asked}: {error}.",
                "Give user@host:port, and a key file.",
            ) from None


def _part(target: str, part: str) -> str:
    found = TARGET.fullmatch(target.strip())
    if found is None:
        raise BadRequest(f"{target!r} is no user@host:port.", "Give for example `ann@gpu-1:22`.")
    if part == "host":
        return found["six"] or found["host"]
    return found[part] or ""


def _first_file(paths: Sequence[str]) -> str | None:
    return next((path for path in paths if Path(path).expanduser().is_file()), None)
