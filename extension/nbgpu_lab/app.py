"""The extension as Jupyter loads it: what it tells the page, its routes, its event schema, its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from nbgpu_backend import runtime

from nbgpu_lab import kernels
from nbgpu_lab.backend import Link
from nbgpu_lab.proxy import ProxyHandler
from nbgpu_lab.push import SCHEMA, SCHEMA_ID, Push


class NbgpuLab(ExtensionApp):
    name = "nbgpu_lab"

    def initialize_settings(self) -> None:
        """What the page is told, and where Jupyter finds the kernels of pods.

        `nbgpuRoot`: Jupyter's root folder as the backend can read it; Jupyter itself tells it with ~.
        `nbgpuTerminal`: what attaches a terminal, without the pod's name.
        """
        assert self.serverapp is not None and self.serverapp.web_app is not None
        page = self.serverapp.web_app.settings.setdefault("page_config_data", {})
        root = Path(self.serverapp.root_dir).expanduser().absolute()
        page["nbgpuRoot"] = root.as_posix()
        home = runtime.Home.default().root
        page["nbgpuTerminal"] = kernels.terminal_command(home)
        kernels.offer(self.serverapp.kernel_spec_manager, home / "kernels")

    def initialize_handlers(self) -> None:
        assert self.serverapp is not None
        logger = self.serverapp.event_logger
        assert logger is not None
        logger.register_event_schema(SCHEMA)

        def emit(data: dict[str, Any]) -> None:
            logger.emit(schema_id=SCHEMA_ID, data=data)

        self.link = Link()
        self.push = Push(self.link, emit)
        self.handlers.append((r"nbgpu/api/.*", ProxyHandler, {"link": self.link}))

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        self.pushing = asyncio.create_task(self.push.run())

    async def stop_extension(self) -> None:
        if hasattr(self, "pushing"):
            self.pushing.cancel()
            await asyncio.gather(self.pushing, return_exceptions=True)
        await self.link.close()
