"""The Jupyter server's part of the panel: between the browser and the backend.

`app` is the extension, `backend` finds or starts the backend, `proxy` passes requests on and adds the
token, `push` hears what changed and tells the browser over Jupyter's event bus, `kernels` puts pods into
Jupyter's list of kernels, `attach` a terminal into a pod. The built front end lies in `labextension`. Of the backend's package only
`runtime` and `schema` are known here, of `nbgpu` no more than how it is run.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["_jupyter_labextension_paths", "_jupyter_server_extension_points"]

try:
    __version__ = version("nbgpu")
except PackageNotFoundError:
    __version__ = "0+source"


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "nbgpu"}]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from nbgpu_lab.app import NbgpuLab

    return [{"module": "nbgpu_lab", "app": NbgpuLab}]
