"""Ports of a pod that are led to this machine's loopback, each by a listener of its own."""

from __future__ import annotations

import asyncio
import contextlib

from nbgpu_backend.control.pod_agent import PodAgent, pipe
from nbgpu_backend.errors import NbgpuError
from nbgpu_backend.schema.pods import Port


class Ports:
    def __init__(self, agent: PodAgent) -> None:
        self._agent = agent
        self._open: dict[int, asyncio.Server] = {}

    async def open(self, port: int) -> Port:
        """The same port twice is one listener. It need not be served yet."""
        if port not in self._open:
            self._open[port] = await asyncio.start_server(
                lambda reader, writer: self._serve(port, reader, writer), "127.0.0.1", 0
            )
        return self._view(port)

    def all(self) -> list[Port]:
        return [self._view(port) for port in self._open]

    def close(self) -> None:
        for server in self._open.values():
            server.close()
        self._open.clear()

    def _view(self, port: int) -> Port:
        local = int(self._open[port].sockets[0].getsockname()[1])
        return Port(port=port, local_port=local, url=f"http://127.0.0.1:{local}/")

    async def _serve(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            talk = await self._agent.open("forward", port=port)
        except NbgpuError:
            writer.close()
            return
        try:
            await asyncio.gather(pipe(reader, talk.writer), pipe(talk.reader, writer))
        finally:
            talk.close()
            with contextlib.suppress(OSError):
                writer.close()
