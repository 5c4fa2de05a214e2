"""One SSH connection, from the socket to being logged in. All of it blocks: call it in a thread.

paramiko is imported on use.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nbgpu_backend.providers.ssh.errors import (
    AuthFailed,
    HostKeyChanged,
    HostKeyUnknown,
    HostUnreachable,
    PassphraseNeeded,
)
from nbgpu_backend.providers.ssh.settings import Hop, Times, fingerprint

DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
RSA = ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")
KEEPALIVE_S = 2
OFFERS = 5  # keys that are tried; a server hangs up after MaxAuthTries, which is 6


class Connection:
    """The transports of a host and of the jump hosts before it; the last one is the host's."""

    def __init__(self, transports: Sequence[Any]) -> None:
        self._transports = list(transports)

    @property
    def transport(self) -> Any:
        return self._transports[-1]

    def close(self) -> None:
        for transport in reversed(self._transports):
            with suppress(Exception):
                transport.close()


def connect(target: Hop, jump: Sequence[Hop], times: Times) -> Connection:
    """Log in, hop by hop. Raises HostUnreachable, HostKeyUnknown, HostKeyChanged, AuthFailed."""
    transports: list[Any] = []
    try:
        for hop in (*jump, target):
            transport = negotiate(hop, transports[-1] if transports else None, times)
            transports.append(transport)
            check_key(hop, transport)
            log_in(hop, transport, times)
        return Connection(transports)
    except BaseException:
        Connection(transports).close()
        raise


def negotiate(hop: Hop, through: Any, times: Times) -> Any:
    """A transport that knows the host's key, not logged in. `through` is the transport of a jump host."""
    import paramiko

    sock = _dial(hop, times) if through is None else _forward(hop, through, times)
    transport = None
    try:
        transport = paramiko.Transport(sock)
        transport.banner_timeout = times.banner_s
        transport.handshake_timeout = times.banner_s
        transport.auth_timeout = times.auth_s
        transport.channel_timeout = times.channel_s
        options = transport.get_security_options()
        # without an HMAC of its own, a small packet costs a sixth less, and files are a third faster
        options.ciphers = sorted(options.ciphers, key=lambda name: "-gcm@" not in name)
        if hop.pinned is not None:
            # the pinned type first, so that a host with several keys shows that one
            first = RSA if hop.pinned[0] == "ssh-rsa" else (hop.pinned[0],)
            known = list(options.key_types)
            wanted = [kind for kind in first if kind in known]
            options.key_types = [*wanted, *(kind for kind in known if kind not in wanted)]
        transport.start_client(timeout=times.banner_s)
        transport.set_keepalive(KEEPALIVE_S)
        return transport
    except (OSError, EOFError, paramiko.SSHException) as error:
        with suppress(Exception):
            (transport or sock).close()
        said = str(error).rstrip(".") or "the connection was closed"
        raise HostUnreachable(
            f"{hop.where} does not speak SSH with us: {said}.",
            f"Look at what answers there with `ssh -v -p {hop.port} {hop.user}@{hop.address}`.",
        ) from None


def check_key(hop: Hop, transport: Any) -> None:
    """Raises HostKeyUnknown where no key is pinned, HostKeyChanged for another one."""
    shown = transport.get_remote_server_key()
    if hop.pinned is None:
        raise HostKeyUnknown(
            f"No host key of {hop.where} is known; it shows {fingerprint(shown.asbytes())}.",
            "Compare it with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host, "
            "and add the host with it.",
        )
    if shown.asbytes() != hop.pinned[1]:
        raise HostKeyChanged(
            f"{hop.where} shows the host key {fingerprint(shown.asbytes())}, and "
            f"{fingerprint(hop.pinned[1])} was expected: it was set up anew, or somebody else answers.",
            "Ask its administrator; if the new key is right, remove the host and add it again.",
        )


def log_in(hop: Hop, transport: Any, times: Times) -> None:
    """With the key file, the agent's keys, then the usual files. Raises AuthFailed, PassphraseNeeded."""
    import paramiko

    encrypted: list[str] = []
    tried = 0
    for _, key in _keys(hop, encrypted):
        if tried == OFFERS:
            break
        tried += 1
        try:
            left = transport.auth_publickey(hop.user, key)
        except paramiko.BadAuthenticationType:
            raise AuthFailed(
                f"{hop.where} does not accept keys for {hop.user}.",
                "Allow it there: `PubkeyAuthentication yes` in sshd_config.",
            ) from None
        except paramiko.AuthenticationException:
            if transport.is_active():
                continue
            if tried > 1:
                break  # it takes no more keys
            raise HostUnreachable(
                f"{hop.where} hung up while {hop.user} was logging in.",
                f"It is tried again; if it stays so, see `ssh -v -p {hop.port} {hop.user}@{hop.address}`.",
            ) from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise HostUnreachable(
                f"The connection to {hop.where} broke while logging in ({error or 'closed'}).",
                "It is tried again.",
            ) from None
        if left:
            raise AuthFailed(
                f"{hop.where} wants more than a key for {hop.user} ({', '.join(left)}).",
                "Use an account there for which a key is enough.",
            )
        return
    if encrypted:
        raise PassphraseNeeded(
            f"The key {encrypted[0]} needs a passphrase, and no agent holds it.",
            f"Type `ssh-add {encrypted[0]}`, then try again.",
        )
    with_what = "none of the keys here" if tried else "no key, for there is none here,"
    raise AuthFailed(
        f"{hop.where} lets {hop.user} in with {with_what}"
        + ("" if tried else " nor in an agent")
        + ".",
        f"Type `ssh-copy-id -p {hop.port} {hop.user}@{hop.address}`, or name another key file.",
    )


def _keys(hop: Hop, encrypted: list[str]) -> list[tuple[str, Any]]:
    """(where it is from, key): the named one first. Encrypted files that no agent holds go to the list."""
    import paramiko

    found: list[tuple[str, Any]] = []
    agent: list[Any] = []
    with suppress(paramiko.SSHException, OSError):
        agent = list(paramiko.Agent().get_keys())
    held = {key.asbytes() for key in agent}
    home = Path("~/.ssh").expanduser()
    paths = [Path(hop.key_file).expanduser()] if hop.key_file else []
    rest = [home / name for name in DEFAULT_KEYS]
    for path in [*paths, *(path for path in rest if path not in paths)]:
        named = path in paths
        if named and not path.is_file():
            raise AuthFailed(
                f"The key file {path} is not there.", "Name one that is, or leave it to the agent."
            )
        key, locked = read_key(path)
        if key is not None:
            found.append((str(path), key))
        elif locked:
            public = _public(path)
            if named and public in held:
                agent.sort(key=lambda key: key.asbytes() != public)
            elif public not in held:
                encrypted.append(str(path))
    first = [entry for entry in found if paths and entry[0] == str(paths[0])]
    others = [entry for entry in found if entry not in first]
    return [*first, *(("agent", key) for key in agent), *others]


def read_key(path: Path) -> tuple[Any, bool]:
    """(key or None, whether it wants a passphrase)."""
    import paramiko

    if not path.is_file():
        return None, False
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key_file(str(path)), False
        except paramiko.PasswordRequiredException:
            return None, True
        except (paramiko.SSHException, OSError, ValueError):
            continue
    return None, False


def _public(path: Path) -> bytes:
    """The key beside a private one, from its .pub file."""
    try:
        text = path.with_name(path.name + ".pub").read_text()
        return (Hop("", "", known_hosts=text).pinned or ("", b""))[1]
    except OSError:
        return b""


def _dial(hop: Hop, times: Times) -> socket.socket:
    try:
        sock = socket.create_connection((hop.address, hop.port), timeout=times.tcp_s)
    except socket.gaierror:
        raise HostUnreachable(
            f"The name {hop.address} is not known here.", "See that it is spelled right."
        ) from None
    except OSError as error:
        said = (
            f"no answer within {times.tcp_s:.0f} s"
            if isinstance(error, TimeoutError)
            else (error.strerror or str(error)).lower()
        )
        raise HostUnreachable(
            f"{hop.where} cannot be reached: {said}.",
            "See that it is up and that your network reaches it; it is tried on.",
        ) from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # else a dead link is never noticed
        dead_ms = int(times.dead_s * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_ms)
    return sock


def _forward(hop: Hop, through: Any, times: Times) -> Any:
    import paramiko

    try:
        return through.open_channel(
            "direct-tcpip", (hop.address, hop.port), ("127.0.0.1", 0), timeout=times.channel_s
        )
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise HostUnreachable(
            f"The jump host does not reach {hop.where}: {str(error).rstrip('.') or 'closed'}.",
            "Try it from there; a jump host must allow TCP forwarding.",
        ) from None


def agent_at(path: str | None) -> None:
    """Use the agent behind this socket from now on; the one at our start may be gone."""
    if path:
        os.environ["SSH_AUTH_SOCK"] = path
