"""The connection of a map to the backend, which may end and come back meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx
from nbgpu_backend import runtime

from nbgpu import errors, origin

GIVE_UP_S = 60.0  # a backend that is up and silent, or does not start
PAUSES_S = (0.1, 0.2, 0.5, 1.0)


class Unsure(Exception):
    """The connection broke after the request had been sent: it may have been carried out."""


class Link:
    """Used by one event loop. A backend that ended is started again, as by any client."""

    def __init__(self, home: runtime.Home, backend: runtime.Backend) -> None:
        self._home = home
        self._backend = backend
        # One client a connection: httpx's own pool looks at all of its connections for each request,
        # which made 64 in flight slower than 16.
        self._free: list[tuple[httpx.AsyncClient, runtime.Backend]] = []
        self._closing: list[httpx.AsyncClient] = []
        self._mending = asyncio.Lock()
        self._trouble_since: float | None = None
        self.losses = 0  # how often the connection was found broken

    async def get(
        self, path: str, params: Mapping[str, Any] | None = None, *, wait_s: float = 0.0
    ) -> httpx.Response:
        """Asks until there is an answer. `wait_s`: how long the backend may hold it."""
        while True:
            try:
                return await self._send("GET", path, None, params, wait_s)
            except Unsure:
                continue

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        """Raises Unsure; what surely was not sent is sent again."""
        return await self._send("POST", path, body, None, 0.0)

    async def _send(
        self, method: str, path: str, body: Any, params: Mapping[str, Any] | None, wait_s: float
    ) -> httpx.Response:
        while True:
            http, backend = self._take()
            well = False
            try:
                found = await http.request(
                    method, path, json=body, params=params,
                    timeout=httpx.Timeout(connect=5, read=60 + wait_s, write=30, pool=None),
                )  # fmt: skip
                well = found.status_code != 401  # another backend took the port
            except httpx.ConnectError:
                found = None
            except httpx.TransportError as error:
                await self._mend(backend)
                raise Unsure from error
            finally:
                if well:
                    self._free.append((http, backend))
                else:
                    await http.aclose()
            if found is not None and well:
                self._trouble_since = None
                return found
            await self._mend(backend)

    def _take(self) -> tuple[httpx.AsyncClient, runtime.Backend]:
        """A connection that nobody uses, to the backend of now."""
        while self._free:
            http, backend = self._free.pop()
            if (backend.url, backend.token) == (self._backend.url, self._backend.token):
                return http, self._backend
            self._closing.append(http)
        made = httpx.AsyncClient(
            base_url=self._backend.url,
            headers={
                "Authorization": f"Bearer {self._backend.token}",
                "X-Nbgpu-Origin": origin.header(),
            },
            limits=httpx.Limits(max_connections=1),
            trust_env=False,  # loopback: no proxy may see the token
            verify=False,  # plain HTTP: reading the certificates of the world takes 20 ms
        )
        return made, self._backend

    async def _mend(self, seen: runtime.Backend) -> None:
        """Find the backend, or start it. Raises BackendDown when that fails for GIVE_UP_S."""
        self.losses += 1
        async with self._mending:
            if self._backend is not seen:
                return  # another request of ours has found it already
            now = time.monotonic()
            since = self._trouble_since = self._trouble_since or now
            for turn in range(1_000_000):
                try:
                    found = await asyncio.to_thread(runtime.ensure_running, self._home)
                    break
                except runtime.NbgpuError as error:
                    if time.monotonic() - since > GIVE_UP_S:
                        raise errors.shown(error) from None
                await asyncio.sleep(PAUSES_S[min(turn, len(PAUSES_S) - 1)])
            if time.monotonic() - since > GIVE_UP_S:
                raise errors.BackendDown(
                    "The backend runs, but every connection to it breaks.",
                    f"Its log is {self._home.backend_log}",
                )
            self._backend = found
            if now - since > 1:
                await asyncio.sleep(PAUSES_S[0])

    async def close(self) -> None:
        for http in [*self._closing, *(http for http, _ in self._free)]:
            await http.aclose()
