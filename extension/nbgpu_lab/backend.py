"""The way to the backend: which one runs, one started on demand, and the connections to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from nbgpu_backend import runtime
from nbgpu_backend.runtime import Backend, NbgpuError
from yarl import URL

CONNECT_S = 5.0


class Link:
    """`up` is set whenever a request has found the backend, which may just have been started."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self._known: Backend | None = None
        self._starting = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    def running(self) -> Backend | None:
        """The one that runs, by its files and its pid alone; nothing is sent, nothing started."""
        if self._known is None or not runtime.alive(self._known):
            found = runtime.read(runtime.Home.default())
            self._known = found if found is not None and runtime.alive(found) else None
        return self._known

    async def ensure(self) -> Backend:
        """The one that runs, or a new one. Raises NbgpuError."""
        async with self._starting:
            found = self.running()
            if found is None or found.api_version != runtime.API_VERSION:
                found = self._known = await asyncio.to_thread(runtime.ensure_running)
        self.up.set()
        return found

    async def open(
        self,
        backend: Backend,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        silence_s: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send `target` (a quoted path with its query) and return at the answer's head.

        `silence_s`: longest pause between its bytes. Raises aiohttp.ClientError.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # a proxy of the environment must not see the token
                trust_env=False,
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return await self._session.request(
            method,
            URL(backend.url + target, encoded=True),
            headers={**headers, "Authorization": "Bearer " + backend.token},
            data=body,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


__all__ = ["Backend", "Link", "NbgpuError"]
