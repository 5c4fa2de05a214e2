"""`{base}nbgpu/api/…`: the backend's routes for the browser, without its token.

Jupyter's own rules stand: who asks is logged in, allowed to, and sends the XSRF token with what changes
something. The answer passes chunk by chunk; a browser that goes away ends the request upstream too.
A backend is started for a request that finds none, unless it says `X-Nbgpu-Start: never`: then the answer
is 204.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from nbgpu_backend.schema.common import Problem
from tornado import web
from tornado.iostream import StreamClosedError

from nbgpu_lab.backend import Backend, Link, NbgpuError

PREFIX = "nbgpu/api/"
PASSED = ("nbgpu/v1/", "v2/", "openai/")
KEPT = "nbgpu/v1/shutdown"  # a page must not end what others use
ASKED = ("Accept", "Content-Type", "Last-Event-ID", "X-Nbgpu-Origin", "X-Nbgpu-Progress")
ANSWERED = ("Cache-Control", "Content-Type", "Retry-After", "X-Accel-Buffering")
OURS = "x-nbgpu-"
START = "X-Nbgpu-Start"
IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE")
CHUNK = 64 * 1024


class ProxyHandler(APIHandler):
    auth_resource = "nbgpu"

    def initialize(self, link: Link) -> None:
        self.link = link
        # what a panel fetches by itself keeps no server from being culled
        self._track_activity = self.request.method != "GET"
        self.work: asyncio.Task[None] | None = None

    async def _any(self, *_: Any) -> None:
        target = _target(self.request.path, self.request.query, self.base_url)
        if target is None:
            raise web.HTTPError(404)
        self.work = asyncio.ensure_future(self._pass(target))
        try:
            await self.work
        except (asyncio.CancelledError, StreamClosedError):
            if not self.gone:
                raise

    get = post = put = patch = delete = web.authenticated(authorized(_any))

    @property
    def gone(self) -> bool:
        return self.request.connection is None or self.request.connection.stream.closed()  # type: ignore[attr-defined]

    def on_connection_close(self) -> None:
        if self.work is not None:
            self.work.cancel()

    async def _pass(self, target: str) -> None:
        if self.request.headers.get(START) == "never" and self.link.running() is None:
            self.set_status(204)
            self.clear_header("Content-Type")
            self.finish()
            return
        try:
            answer = await self._open(target)
        except NbgpuError as error:
            self._fail(error)
            return
        async with answer:
            self.set_status(answer.status, answer.reason)
            for name, value in answer.headers.items():
                if name.title() in ANSWERED or name.lower().startswith(OURS):
                    self.set_header(name, value)
            if "Content-Type" not in answer.headers:
                self.clear_header("Content-Type")
            await self._stream(answer)
        self.finish()

    async def _stream(self, answer: aiohttp.ClientResponse) -> None:
        try:
            async for chunk in answer.content.iter_any():
                self.write(chunk)
                await self.flush()
        except aiohttp.ClientError as error:
            # the head is out: the browser must see that the answer is not whole
            self.log.warning("nbgpu: the backend broke off its answer: %s", error)
            self.request.connection.stream.close()  # type: ignore[union-attr]
            raise asyncio.CancelledError from error

    async def _open(self, target: str) -> aiohttp.ClientResponse:
        """The head of the answer. A dead backend is started once more. Raises NbgpuError."""
        method = self.request.method or "GET"
        headers = {
            name: self.request.headers[name] for name in ASKED if name in self.request.headers
        }
        body = self.request.body or None
        for again in (True, False):
            backend = await self.link.ensure()
            try:
                return await self.link.open(backend, method, target, headers=headers, body=body)
            except aiohttp.ClientConnectorError:  # nothing was sent
                if not again:
                    raise _lost(backend) from None
            except aiohttp.ClientError:
                if not again or method not in IDEMPOTENT:
                    raise _lost(backend) from None
        raise AssertionError

    def _fail(self, error: NbgpuError) -> None:
        problem = Problem(
            title="The backend is not there",
            status=503,
            detail=str(error),
            nbgpu={"code": error.code, "what": error.what, "next": error.next_step, "values": {}},
        )
        self.set_status(problem.status)
        self.set_header("Content-Type", "application/problem+json")
        self.write(json.dumps(problem.wire()))
        self.finish()

    def compute_etag(self) -> None:
        return None

    def finish(self, *args: Any, **kwargs: Any) -> Any:
        """APIHandler.finish would call everything JSON."""
        self.update_api_activity()
        return super(APIHandler, self).finish(*args, **kwargs)


def _lost(backend: Backend) -> NbgpuError:
    return NbgpuError(
        f"The backend (pid {backend.pid}) was lost while it worked on this.",
        "See what came of it, then try again.",
        code="backend_lost",
    )


def _target(path: str, query: str, base_url: str) -> str | None:
    """The backend's path and query for a request's; None where nothing is passed on.

    What is checked is what is sent: the path is unquoted once, and quoted again for the backend.
    """
    root, asked = unquote(base_url) + PREFIX, unquote(path)
    inner = asked.removeprefix(root)
    segments = inner.split("/")
    if not asked.startswith(root) or not inner.startswith(PASSED) or inner.rstrip("/") == KEPT:
        return None
    if "" in segments[:-1] or "." in segments or ".." in segments:
        return None
    return "/" + quote(inner, safe="/:@") + ("?" + query if query else "")
