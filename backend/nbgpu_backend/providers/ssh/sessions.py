"""The sessions of one transport, few as they are, and its channels to ports, which cost none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nbgpu_backend.providers.ssh.errors import HostUnreachable, LinkCut, NoPython, PortRefused
from nbgpu_backend.providers.ssh.settings import HostSettings

SESSIONS = 8  # MaxSessions of OpenSSH is 10; host.py's is one of ours
WINDOW = 8 << 20  # of a channel: what may be on its way
SETTLE_S = 5.0
FORBIDDEN = 1  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED, RFC 4254


class Forbidden(Exception):
    """The server forwards no ports."""


class Sessions:
    """Blocks: called in threads. A server that allows fewer sessions shows it by refusing one."""

    def __init__(self, transport: Any, timeout_s: float) -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._used = 1  # host.py's
        self._most = SESSIONS
        self._freed = threading.Condition()

    @staticmethod
    def first(transport: Any, settings: HostSettings) -> Any:
        """The channel for host.py."""
        import paramiko

        try:
            channel = transport.open_session(window_size=WINDOW, timeout=settings.times.channel_s)
        except paramiko.ChannelException as error:
            raise NoPython(
                f"{settings.target.where} lets nothing be run ({str(error).rstrip('.')}).",
                "Set `MaxSessions` there to 2 or more, for this user.",
            ) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostUnreachable(
                f"{settings.target.where} opened no session: {str(error).rstrip('.') or 'closed'}.",
                "It is tried again.",
            ) from None
        return channel

    @contextmanager
    def sftp(self) -> Iterator[Any]:
        """An SFTP client in a session of its own, once there is one. Raises LinkCut, PortRefused."""
        import paramiko

        channel = self._open()
        try:
            try:
                channel.settimeout(self._timeout_s)
                channel.invoke_subsystem("sftp")
                channel.settimeout(None)
                client = paramiko.SFTPClient(channel)
            except (paramiko.SSHException, OSError, EOFError) as error:
                if not self._transport.is_active():
                    raise _cut() from None
                raise PortRefused(
                    f"The host has no SFTP ({str(error).rstrip('.') or 'closed'}).",
                    "Add `Subsystem sftp internal-sftp` to its sshd_config.",
                ) from None
            yield client
        finally:
            with suppress(Exception):
                channel.close()
            with self._freed:
                self._used -= 1
                self._freed.notify()

    def _open(self) -> Any:
        import paramiko

        end = time.monotonic() + SETTLE_S
        while True:
            with self._freed:
                while self._used >= self._most:
                    if not self._transport.is_active():
                        raise _cut()
                    self._freed.wait(1)
                self._used += 1
            try:
                return self._transport.open_session(window_size=WINDOW, timeout=self._timeout_s)
            except paramiko.ChannelException:
                with self._freed:
                    self._used -= 1
                    # host.py's and one more, at least; one that was closed may not be gone yet
                    self._most = max(2, self._used)
                    if self._used == 1 and time.monotonic() > end:
                        raise PortRefused(
                            "The host allows one session at a time, and files need a second one.",
                            "Set `MaxSessions` in its sshd_config to 2 or more.",
                        ) from None
                    self._freed.wait(0.1)
            except (paramiko.SSHException, OSError, EOFError):
                with self._freed:
                    self._used -= 1
                    self._freed.notify()
                raise _cut() from None

    def to_port(self, port: int) -> Any:
        """A channel to a port of 127.0.0.1 there. Raises PortRefused, Forbidden, LinkCut."""
        import paramiko

        try:
            return self._transport.open_channel(
                "direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=self._timeout_s
            )
        except paramiko.ChannelException as error:
            if error.code == FORBIDDEN:
                raise Forbidden from None
            raise PortRefused(
                f"Nothing listens on port {port} of the host.",
                "See whether what should listen there has started.",
            ) from None
        except (paramiko.SSHException, OSError, EOFError):
            raise _cut() from None


def _cut() -> LinkCut:
    return LinkCut("The connection to the host broke.", "It is made again; repeat what you did.")
