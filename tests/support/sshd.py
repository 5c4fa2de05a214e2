"""A real OpenSSH server of the test's own, as the current user, and networks that can be cut.

`Sshd` listens on loopback, or inside of a `Net`'s host. Its sessions have a HOME of the test, so that
~/.nbgpu and ~/.bashrc are the test's, too.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nbgpu_backend.providers.local import procfs
from nbgpu_backend.providers.ssh.link import Link
from nbgpu_backend.providers.ssh.settings import Hop, HostSettings, Times

from tests.support.waiting import until

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin:/usr/local/sbin")
# what takes minutes for a person takes seconds in a test
QUICK = Times(dead_s=4.0, ping_s=0.5, silent_s=6.0, orphan_s=6.0, tcp_s=3.0, banner_s=5.0)


def needs_sshd() -> None:
    """Skips the test with a sentence where there is no server."""
    if SSHD is None:
        pytest.skip("no sshd: install openssh-server (tests/debian-packages.txt)")


def keygen(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new private key, with its .pub beside it."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)],
        check=True,
    )
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Sshd:
    """`more` is lines of sshd_config; `enter` is a command before sshd's own (ip netns exec …)."""

    def __init__(
        self,
        root: Path,
        address: str = "127.0.0.1",
        more: str = "",
        enter: tuple[str, ...] = (),
        port: int = 0,
    ) -> None:
        root.mkdir(parents=True)
        self.root, self.address, self.more, self.enter = root, address, more, enter
        self.home = root / "home"
        self.home.mkdir()
        self.port = port or free_port()
        self.host_key = keygen(root / "host_key")
        self.user_key = keygen(root / "user_key")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def nbgpu(self) -> Path:
        """The root of what is ours there."""
        return self.home / ".nbgpu"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        needs_sshd()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        keys = self.root / "authorized_keys"
        keys.write_text(self.user_key.with_name("user_key.pub").read_text())
        config = self.root / "sshd_config"
        config.write_text(
            f"{self.more}\nPort {self.port}\nListenAddress {self.address}\nHostKey {self.host_key}\n"
            f"PidFile none\nAuthorizedKeysFile {keys}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            f"SetEnv HOME={self.home}\nSubsystem sftp internal-sftp\nLogLevel VERBOSE\n"
            "MaxStartups 100:30:200\nPrintMotd no\n"
        )
        assert SSHD is not None
        with (self.root / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.enter, SSHD, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._listens, within=10)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        return "Server listening" in self.log()

    def log(self) -> str:
        return (self.root / "sshd.log").read_text(errors="replace")

    def stop(self) -> None:
        """The server, its sessions and whatever has this home in its environment."""
        if self._process is not None:
            for pid in [*_below(self.pid), self.pid]:
                _kill(pid)
            self._process.wait()
            self._process = None
            (self.root / "sshd.log").unlink()
        until(lambda: not [_kill(pid) for pid in self.everything()], within=10)

    def hang_up(self) -> None:
        """The server and its sessions, and nothing that was started through it; `start` brings it back."""
        assert self._process is not None
        for pid in [self.pid, *_below(self.pid, "sshd")]:
            _kill(pid)
        self._process.wait()
        self._process = None
        (self.root / "sshd.log").unlink()

    def everything(self) -> list[int]:
        """Living processes with this home in their environment."""
        mark = os.fsencode(self.home)
        found = []
        for row in procfs.processes():
            if row.alive and row.pid != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in Path(f"/proc/{row.pid}/environ").read_bytes():
                        found.append(row.pid)
        return found

    def sessions(self) -> list[int]:
        """The server's processes for connections that stand."""
        return _below(self.pid, "sshd")

    def programs(self) -> list[int]:
        """Where host.py runs."""
        found = []
        for pid in self.everything():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if any(word.endswith(b"/host.py") for word in words):
                    found.append(pid)
        return found

    # what a client needs

    @property
    def pinned(self) -> str:
        kind, text = self.host_key.with_name("host_key.pub").read_text().split()[:2]
        return f"[{self.address}]:{self.port} {kind} {text}"

    def hop(self, **changes: Any) -> Hop:
        user = getpass.getuser()
        hop = Hop(self.address, user, self.port, str(self.user_key), self.pinned)
        return replace(hop, **changes)

    def settings(self, **changes: Any) -> HostSettings:
        given = {"name": "box", "target": self.hop(), "times": QUICK, **changes}
        return HostSettings(**given)


def write_settings(folder: Path, settings: HostSettings) -> Path:
    """`folder`/NAME with its host.json."""
    place = folder / settings.name
    place.mkdir(parents=True, exist_ok=True)
    (place / "host.json").write_text(json.dumps(settings.to_json()))
    return place


@contextlib.asynccontextmanager
async def linked(folder: Path, settings: HostSettings) -> AsyncIterator[Link]:
    """A link whose tunnel is ended afterwards."""
    place = write_settings(folder, settings)
    link = Link(place)
    try:
        yield link
    finally:
        await end_tunnel(place)


async def end_tunnel(place: Path) -> None:
    """End it by its socket, else by the pid that holds its lock."""
    with contextlib.suppress(Exception):
        await Link(place).end()
    with contextlib.suppress(OSError):
        pid = tunnel_pid(place)
        until(lambda: (row := procfs.stat(pid)) is None or not row.alive, within=10)


def tunnel_pid(place: Path) -> int:
    """Of the tunnel that serves this folder; raises OSError where there is none."""
    for row in procfs.processes():
        if row.alive:
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{row.pid}/cmdline").read_bytes().split(b"\0")
                if os.fsencode(place) in words:
                    return row.pid
    raise ProcessLookupError(str(place))


@contextlib.contextmanager
def serving(server: Sshd) -> Iterator[Sshd]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


# networks


class Net:
    """Hosts in network namespaces on one bridge, each with an address of its own."""

    def __init__(self, count: int = 3) -> None:
        self._id = f"{os.getpid() % 100000}"
        self._base = f"10.{200 + os.getpid() % 50}.{(os.getpid() // 50) % 250}"
        self.hosts = [f"nb{self._id}{x}" for x in "abcdef"[:count]]
        self.bridge = f"nb{self._id}"

    def start(self) -> None:
        """Skips the test with a sentence where namespaces cannot be made."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("network namespaces take root and iproute2")
        try:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("addr", "add", f"{self._base}.1/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            for number, name in enumerate(self.hosts):
                _ip("netns", "add", name)
                _ip(
                    "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name
                )
                _ip("link", "set", f"{name}v", "master", self.bridge, "up")
                address = f"{self._base}.{number + 11}/24"
                _ip("-n", name, "addr", "add", address, "dev", "eth0")
                _ip("-n", name, "link", "set", "eth0", "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            self.stop()
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")

    def address(self, host: int) -> str:
        return f"{self._base}.{host + 11}"

    def enter(self, host: int) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.hosts[host])

    def cut(self, host: int) -> None:
        """Nothing passes to it or from it, and nobody is told."""
        _ip("link", "set", f"{self.hosts[host]}v", "nomaster")

    def restore(self, host: int) -> None:
        _ip("link", "set", f"{self.hosts[host]}v", "master", self.bridge)

    def slow(self, host: int, mbit: int) -> None:
        """So fast at most, each way. Skips the test where the kernel cannot."""
        shape = ("root", "tbf", "rate", f"{mbit}mbit", "burst", "256kb", "latency", "50ms")
        name = self.hosts[host]
        for enter, device in ((), f"{name}v"), (self.enter(host), "eth0"):
            command = [*enter, "tc", "qdisc", "replace", "dev", device, *shape]
            if subprocess.run(command, capture_output=True).returncode:
                pytest.skip("no traffic shaping here (tc, tbf)")

    def stop(self) -> None:
        for name in self.hosts:
            _ip("link", "del", f"{name}v", check=False)
            _ip("netns", "del", name, check=False)
        _ip("link", "del", self.bridge, check=False)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


def _below(pid: int, name: str = "") -> list[int]:
    """Living descendants; with `name`, those that are called so."""
    rows = {row.pid: row for row in procfs.processes() if row.alive}
    found, left = [], [pid]
    while left:
        parent = left.pop()
        below = [row.pid for row in rows.values() if row.ppid == parent]
        left += below
        found += below
    return [pid for pid in found if not name or _name(pid) == name]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _kill(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return pid


def wait_gone(pid: int, within: float = 10.0) -> None:
    until(lambda: (row := procfs.stat(pid)) is None or not row.alive, within=within)
