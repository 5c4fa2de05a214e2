"""Ports of loopback that nobody has."""

from __future__ import annotations

import socket

TRIES = 50


def free_port(more: int = 0) -> int:
    """A port of loopback that was free a moment ago, and so were the next `more`."""
    for _ in range(TRIES):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if all(_is_free(port + step) for step in range(1, more + 1)):
                break
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
