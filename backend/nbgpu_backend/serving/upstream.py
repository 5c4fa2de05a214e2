"""The connection to the workers: one aiohttp session, its limits, and what its failures mean."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

# vLLM's server closes an idle connection after 5 s; ours goes first, so that none is used while it dies.
KEEPALIVE_S = 4.0
CONNECT_S = 10.0
READ_CHUNK = 1 << 16

# Failures of the connection itself: the worker died, or was about to.
BROKEN: Final = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, asyncio.IncompleteReadError)  # fmt: skip


def session(*, fresh: bool = False) -> aiohttp.ClientSession:
    """`fresh`: a connection a request."""
    if fresh:
        connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False, force_close=True)
    else:
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEPALIVE_S, use_dns_cache=False, force_close=False
        )
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
    )  # fmt: skip
